"""`scaling`: one sub-command for each arrow of the map. Commands import what they need when they are called."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from scaling.cli.exits import DONE, INTERRUPTED, REFUSED
from scaling.spec import Refusal

DESCRIPTION = """Scaling-law experiments: from a question to a plan, runs, fitted laws and a report.

EXPERIMENT is a file that defines STUDY: a name in experiments/ or any path. DIR is a results folder.
Exit status: 0 done, 1 part of the work failed, 2 the request was refused, 75 interrupted (the same command resumes)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scaling", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    plan = command("plan", "what would run, what it costs, what it could resolve", "scaling plan quickstart")
    _study_arguments(plan)
    _json_argument(plan)

    run = command("run", "plan, train, record, fit, report; resumes by itself", "scaling run quickstart --workers 2")
    _study_arguments(run)
    run.add_argument("--workers", type=int, metavar="N", help="worker processes (default: one a core on CPU, else 1)")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")

    status = command(
        "status", "progress of a sweep: what is done, under way, pending", "scaling status results/quickstart"
    )
    status.add_argument("folder", metavar="DIR")
    _json_argument(status)

    fit = command(
        "fit",
        "fit a law to a table of runs, with intervals",
        "scaling fit my_runs.csv --law chinchilla --params n_params --columns tokens=D,loss=val_loss --json",
    )
    fit.add_argument(
        "table", metavar="TABLE|DIR", help="a CSV with columns n_params, tokens, loss, or a results folder"
    )
    fit.add_argument("--law", default="chinchilla", help="chinchilla (default), interaction, kaplan")
    fit.add_argument(
        "--params", required=True, metavar="COLUMN",
        help="the column that counts parameters; no default, for the choice moves the exponents (arXiv:2406.19146). "
        "Ours are n_params (non-embedding and head), n_params_kaplan, n_params_total",
    )  # fmt: skip
    fit.add_argument("--columns", default="", metavar="OURS=THEIRS,...", help="names that differ, e.g. tokens=D")
    fit.add_argument(
        "--group", metavar="NAME", help="only the runs of this group (default: those with the role fitted)"
    )
    fit.add_argument("--bootstrap", type=int, default=0, metavar="B", help="intervals from B resamples of whole trunks")
    fit.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    fit.add_argument("--seed", type=int, default=0, help="of the resamples")
    _json_argument(fit)

    report = command("report", "figures and one self-contained page", "scaling report results/quickstart")
    report.add_argument("folder", metavar="DIR")

    doctor = command("doctor", "versions, devices, and what is missing for what", "scaling doctor")
    _json_argument(doctor)

    worker = commands.add_parser("worker")  # started by `run`; without a help text it is not listed
    worker.add_argument("folder")
    worker.add_argument("machine")
    return parser


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, e.g. --set optim.peak_lr=1e-3; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="results folder (default: results/NAME beside experiments/)")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"scaling {version('scaling')}"
    except PackageNotFoundError:
        return "scaling, not installed"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = _parser().parse_args(words)
    try:
        return importlib.import_module(f"scaling.cli.{arguments.command}").run(arguments)
    except Refusal as refusal:
        for fault in refusal.faults:
            print(f"scaling {arguments.command}: {fault}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"scaling {arguments.command}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
