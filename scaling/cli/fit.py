"""`scaling fit`: a law, its intervals and a verdict, from a table of runs or a results folder."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.observe import observe, read_table
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", metavar="TABLE|DIR", help="a CSV with columns n_params, tokens, loss, or a results folder"
    )
    parser.add_argument("--law", default="chinchilla", help="chinchilla (default), interaction, kaplan")
    parser.add_argument(
        "--params", required=True, metavar="COLUMN",
        help="the column that counts parameters; no default, for the choice moves the exponents (arXiv:2406.19146). "
        "Ours are n_params (non-embedding and head), n_params_kaplan, n_params_total",
    )  # fmt: skip
    parser.add_argument("--columns", default="", metavar="OURS=THEIRS,...", help="names that differ, e.g. tokens=D")
    parser.add_argument(
        "--group", metavar="NAME", help="only the runs of this group (default: those with the role fitted)"
    )
    parser.add_argument("--bootstrap", type=int, default=0, metavar="B", help="intervals from B resamples")
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.seed < 0:
        raise Refusal(f"--seed {arguments.seed}: must be at least 0")
    table = read_table(_table_of(Path(arguments.table)), _columns(arguments.columns))
    observations = observe(table, params=arguments.params, group=arguments.group)
    found = fit(observations, arguments.law, level=arguments.level, bootstrap=arguments.bootstrap, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        show(found, Console())
    return DONE


def _table_of(path: Path) -> Path:
    """A results folder stands for its runs.csv."""
    if path.is_dir() and not (path / "runs.csv").is_file():
        raise Refusal(f"{path}: has no runs.csv; give a CSV or a results folder of `scaling run`")
    return path / "runs.csv" if path.is_dir() else path


def _columns(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    bare = [name for name, equals, theirs in pairs if not (equals and name and theirs)]
    if bare:
        raise Refusal(f"--columns {name}: must be OURS=THEIRS, e.g. tokens=D" for name in bare)
    return {name: theirs for name, _, theirs in pairs}


def show(found: Fit, console: Console) -> None:
    """The fit for a reader: parameters, optimum, verdict."""
    dropped = "".join(f"; {count} left out: {reason}" for reason, count in found.dropped.items())
    console.print(
        f"[bold]{found.name}[/bold] in {escape(found.params)}, {found.runs} runs{escape(dropped)}: {found.status}"
    )
    estimates = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("", "estimate", "standard error", f"{found.level:.0%} interval"):
        estimates.add_column(name, justify="left" if not name else "right")
    for name, item in found.estimates().items():
        known = item.low == item.low
        interval = f"{item.low:.4g} .. {item.high:.4g}" if known else "on a bound"
        estimates.add_row(name, f"{item.value:.5g}", f"{item.se:.2g}" if known else "", interval)
    for name in found.unidentified:
        estimates.add_row(name, "not identified", "", "")
    console.print(estimates)
    if found.law is not None:
        best = found.optimum_intervals(found.flops_max)
        exponents = ", ".join(
            f"{size}* ~ C^{item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"
            for size, item in (("N", best["exponent_n"]), ("D", best["exponent_d"]))
        )
        console.print(
            f"optimum: {exponents}; at {found.flops_max:.3g} FLOPs N* = {best['n'].value:.3g}, "
            f"D* = {best['d'].value:.3g}, L* = {best['loss'].value:.4f}",
            highlight=False,
            soft_wrap=True,
        )
    for warning in found.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
