"""`scaling curves`: a law of whole training curves, fitted to some of them and asked for the others."""

import argparse
import json
import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.cli.source import columns_of
from scaling.fitting.curves import CURVE_LAWS, CurveFit, Errors, fit_curves, read_curves
from scaling.fitting.laws import LAWS
from scaling.record.files import disk_folder_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", metavar="TABLE|DIR",
        help="rows of run_id, step, lr and loss (CSV, JSON lines, Parquet), or a results folder. Rows without a loss "
        "belong to the schedule alone; between rows, and from 0 to the first, the learning rate runs straight",
    )  # fmt: skip
    parser.add_argument("--law", default="multi_power", metavar="NAME", help=f"{' or '.join(CURVE_LAWS)}")
    parser.add_argument(
        "--train", default="", metavar="ID,...",
        help="the curves that the law is fitted to, the rest are predicted (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--columns", action="append", default=[], metavar="OURS=THEIRS,...",
        help="names and units that differ, e.g. step=_step,loss=bits*ln2; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--warmup-counts",
        action="store_true",
        help="take the rises of warm-up for falls below zero, as the code released with arXiv:2503.12811 does",
    )
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    found = fit_curves(
        read_curves(disk_folder_of(arguments.table, "curves"), columns_of(arguments.columns)), arguments.law,
        train=[name for name in arguments.train.split(",") if name], warmup_counts=arguments.warmup_counts,
        level=arguments.level,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        show(found, Console())
    return DONE


def show(found: CurveFit, console: Console) -> None:
    fitted = sum(one.fitted for one in found.curves)
    console.print(
        f"[bold]{found.name}[/bold]{f', {fitted} curves' if fitted else ''}: {found.status.replace('_', ' ')}",
        highlight=False,
    )
    console.print(f"  {escape(LAWS[found.name].formula)}", highlight=False, style="dim", soft_wrap=True)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "estimate", "standard error", f"{found.level:.0%} interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, item in found.estimates.items():
        known = not math.isnan(item.low)
        interval = f"{item.low:.4g} .. {item.high:.4g}" if known else "on a bound"
        table.add_row(name, f"{item.value:.5g}", f"{item.se:.2g}" if known else "", interval)
    for name in found.unidentified:
        table.add_row(name, "not identified", "", "")
    console.print(table)
    _errors("curves fitted to and predicted, % off", found.curves, console)
    _errors("each fitted curve, left out, % off", found.left_out, console)
    for warning in found.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)


def _errors(title: str, found: Sequence[Errors], console: Console) -> None:
    if not found:
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in (title, "", "mean", "worst", "at the end", "seeing no annealing"):
        table.add_column(heading, justify="left" if heading in (title, "") else "right")
    for one in found:
        table.add_row(
            escape(one.run_id), "fitted" if one.fitted else "predicted", f"{one.mean:.3%}", f"{one.worst:.3%}",
            f"{one.final:+.3%}", f"{one.blind:.3%}",
        )  # fmt: skip
    console.print(table)
