"""`scaling compare`: what an algorithm saves in compute, by a law that it shares with the baseline and without one."""

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from scaling.cli import source
from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.fitting.compare import OPTIMIZER_FLOPS, Comparison, compare
from scaling.fitting.observe import observe, read_table
from scaling.fitting.rescale import Rescaling, rescale
from scaling.record.files import folder_of
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas


def arguments(parser: argparse.ArgumentParser) -> None:
    source.arguments(parser)
    parser.add_argument(
        "--baseline", required=True, metavar="GROUP", help="the group that every other group is priced in"
    )
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.group is not None:
        raise Refusal("--group: every group takes part; leave some out with --where 'group!=NAME'")
    frame, elsewhere = _of_one_source(
        read_table(folder_of(arguments.table), source.columns_of(arguments.columns)), arguments.baseline
    )
    observations = observe(
        frame,
        params=arguments.params, where=arguments.where, drop_bad=arguments.drop_bad, roles=("fitted", "compare"),
        extra=[name for name in (OPTIMIZER_FLOPS,) if name in frame.columns],
    )  # fmt: skip
    by_law = rescale(observations, arguments.baseline, level=arguments.level)
    by_loss = compare(observations, arguments.baseline, level=arguments.level)
    if not any(one.multiplier for one in by_law) and not any(one.multiplier or one.bound for one in by_loss):
        raise Refusal(one.verdict for one in (*by_law, *by_loss))
    if arguments.json:
        document = {
            "baseline": arguments.baseline,
            "level": arguments.level,
            "left_out": elsewhere,
            "algorithms": [
                {"algorithm": law.algorithm, "law": law.to_json(), "matched_losses": loss.to_json()}
                for law, loss in zip(by_law, by_loss, strict=True)
            ],
        }
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        for name in elsewhere:
            Console().print(f"{escape(name)}: left out, it was trained on other data", highlight=False)
        for law, loss in zip(by_law, by_loss, strict=True):
            _show(law, loss, Console())
    return DONE


def _of_one_source(frame: "pandas.DataFrame", baseline: str) -> tuple["pandas.DataFrame", list[str]]:
    """The rows of the baseline's `source` of data, where the table has such a column, and the groups left out for it.

    Losses on different data are no measure of an algorithm.
    """
    if not {"source", "group"} <= set(frame.columns) or baseline not in list(frame["group"]):
        return frame, []
    sources = {source for source, group in zip(frame["source"], frame["group"], strict=True) if group == baseline}
    kept = [source in sources for source in frame["source"]]
    left = {group for group, stays in zip(frame["group"], kept, strict=True) if not stays}
    found = frame.loc[kept]
    return found, sorted(left - set(found["group"]))


def _show(law: Rescaling, loss: Comparison, console: Console) -> None:
    console.print(f"[bold]{escape(law.verdict)}[/bold]", highlight=False, soft_wrap=True)
    parts = [("rho_N", law.rho_n), ("rho_D", law.rho_d), ("d ln m / d ln C", law.slope)]
    said = [f"{name} = {item.value:.3g} [{item.low:.3g}, {item.high:.3g}]" for name, item in parts if item is not None]
    if said:
        form = f"shared law, {law.level:.0%} intervals: m = rho_N^{law.cost[1]:.3g} rho_D"
        ratio = (
            "" if abs(law.cost[0] - 1) < 0.005 else f" / {law.cost[0]:.3g}, the cost of a token against the baseline's"
        )
        console.print(f"  {form}{ratio}; {', '.join(said)}", highlight=False, soft_wrap=True)
    measured = "; ".join(filter(None, [loss.verdict, loss.proviso]))
    console.print(f"  at matched losses, without a law: {escape(measured)}", highlight=False, soft_wrap=True)
    a, b = law.multiplier, loss.multiplier
    if a is not None and b is not None and (a.high < b.low or b.high < a.low):
        console.print("  [yellow]the two disagree: the shared law does not describe both algorithms[/yellow]")
    for warning in (*law.warnings, *loss.warnings):
        console.print(f"  [yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
