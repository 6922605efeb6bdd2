"""`scaling`: one sub-command for each arrow of the map. Commands import what they need when they are called."""

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from scaling.cli.exits import DONE, FAILED, INTERRUPTED, REFUSED
from scaling.spec import Refusal

DESCRIPTION = """Scaling-law experiments: from a question to a plan, runs, fitted laws and a report.

EXPERIMENT is a file that defines STUDY: a name in experiments/ or any path. DIR is a results folder.
Exit status: 0 done, 1 part of the work failed, 2 the request was refused, 75 interrupted (the same command resumes)."""


# name: (what it does, an example)
COMMANDS = {
    "plan": ("what would run, what it costs, what it could resolve", "scaling plan quickstart"),
    "run": ("plan, train, record, fit, report; resumes by itself", "scaling run quickstart --workers 2"),
    "work": (
        "take part in the sweep of a results folder, from any machine that sees it",
        "scaling work results/quickstart --workers 8",
    ),
    "tune": (
        "how far each learning rate of a study is from the best, whether one rule serves every size, what it costs",
        "scaling tune quickstart --sizes 3 --rates 5",
    ),
    "status": ("progress of a sweep: what is done, under way, pending", "scaling status results/quickstart --follow"),
    "log": ("copy the curves of a results folder to TensorBoard or W&B", "scaling log results/quickstart --to wandb"),
    "table": ("the table of a results folder, as its records give it now", "scaling table results/quickstart"),
    "verify": (
        "whether every file of a results folder is as it was written, and what to do where it is not",
        "scaling verify results/quickstart",
    ),
    "fit": (
        "fit a law to a table of runs, with intervals",
        "scaling fit my_runs.csv --law chinchilla --params n_params --columns tokens=D,loss=val_loss --json",
    ),
    "laws": ("every law, its formula, parameters and source", "scaling laws chinchilla"),
    "forecast": (
        "loss, N and D of runs not yet trained, by every law; registered and scored",
        "scaling forecast my_runs.csv --params n_params --compute 1e20,1e21 --register forecast.json",
    ),
    "curves": (
        "whole training curves by their schedules: fit some, predict others",
        "scaling curves my_curves.csv --law multi_power --train cosine,constant,step --json",
    ),
    "compare": (
        "what an algorithm saves in compute, by a law shared with the baseline and at equal loss",
        "scaling compare my_runs.csv --params n_params --baseline adamw",
    ),
    "report": ("figures and one self-contained page; one for all studies too", "scaling report results/quickstart"),
    "bench": (
        "how fast this machine trains, by size; what `scaling plan` takes its times from",
        "scaling bench quickstart",
    ),
    "compile": (
        "whether a run fits a slice of TPUs, what it exchanges and how long it takes; compiled here, without one",
        "scaling compile compute --size pod --topology v5e:16x16",
    ),
    "doctor": ("versions, devices, and what is missing for what", "scaling doctor"),
}
HIDDEN = {
    "worker": ("a worker process, started by `run`", "scaling run quickstart"),
    "bench_worker": ("a worker process, started by `bench`", "scaling bench"),
}
NO_WAY = {  # errors of a path that was asked for, not of the program
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}  # of the disk


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is called is imported, for its options: help and refusals answer at once."""
    parser = argparse.ArgumentParser(
        prog="scaling", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (summary, example) in (COMMANDS | HIDDEN).items():
        listed: dict[str, Any] = {"help": summary} if name in COMMANDS else {}  # without a help text it is not
        command = commands.add_parser(
            name,
            **listed,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in words[:1]:
            importlib.import_module(f"scaling.cli.{name}").arguments(command)
    return parser


def parser_of(command: str) -> argparse.ArgumentParser:
    """The options of one of `COMMANDS`, for the page that lists them."""
    parser = argparse.ArgumentParser(prog=f"scaling {command}")
    importlib.import_module(f"scaling.cli.{command}").arguments(parser)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"scaling {version('scaling')}"
    except PackageNotFoundError:
        return "scaling, not installed"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = sys.argv[1:] if words is None else words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: no sign and no name of a file stops it
    arguments = _parser(words).parse_args(words)
    try:
        return importlib.import_module(f"scaling.cli.{arguments.command}").run(arguments)
    except Refusal as refusal:
        for fault in refusal.faults:
            _say(arguments.command, fault)
        return REFUSED
    except KeyboardInterrupt:
        print(f"scaling {arguments.command}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.filename is None or error.errno not in NO_WAY | NO_ROOM:
            raise
        _say(arguments.command, f"{os.fsdecode(error.filename)}: {error.strerror}")
        return REFUSED if error.errno in NO_WAY else FAILED


def _say(command: str, fault: str) -> None:
    """In one line, whatever text of a file is in it: a control character would act on the terminal."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in fault)
    print(f"scaling {command}: {line}", file=sys.stderr)
