"""Published procedures and the approaches side by side, for a reader."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.fitting.approaches import NAMES, Approach
from scaling.fitting.published import Replication
from scaling.fitting.uncertainty import Interval


def show_replication(found: Replication, console: Console) -> None:
    dropped = "".join(f"; {count} left out: {reason}" for reason, count in found.dropped.items())
    console.print(
        f"[bold]{found.name}[/bold], {escape(found.paper)}: {found.runs} runs{escape(dropped)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"  {escape(found.words)}", highlight=False, soft_wrap=True, style="dim")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "here", "published", "agrees", "our default"):
        table.add_column(heading, justify="right" if heading else "left")
    reasons = {}
    for q in found.quantities:
        interval = "" if q.interval is None else f" [{q.interval[0]:g}, {q.interval[1]:g}]"
        published = "" if q.published is None else f"{q.published:.6g}{interval}"
        agrees = {True: "yes", False: "no", None: ""}[q.agrees if found.own else None]
        default = f"{found.default[q.name]:.5g}" if q.name in found.default else ""
        table.add_row(escape(q.name), f"{q.ours:.6g}", published, agrees, default)
        if found.own and q.agrees is False and q.why:
            reasons.setdefault(q.why, []).append(q.name)
    console.print(table)
    for why, names in reasons.items():
        console.print(f"{escape(', '.join(names))}: {escape(why)}", highlight=False, soft_wrap=True)
    if not found.own:
        console.print("these are not the paper's own rows: its figures stand here for reference", highlight=False)
    for warning in found.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)


def show_approaches(found: Sequence[Approach], params: str | None, console: Console) -> None:
    console.print(f"[bold]approaches side by side[/bold] in {escape(params or '')}", highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    budgets = next((one.at for one in found if one.at), ())
    for heading in ("approach", "N* ~ C^", "D* ~ C^", *(f"N* at {c:.2g}" for c, _, _ in budgets)):
        table.add_column(heading, justify="left" if heading == "approach" else "right", no_wrap=True)
    for one in found:
        if one.why:
            table.add_row(NAMES[one.name], "none")
        else:
            numbers = [f"{n:.3g}" for _, n, _ in one.at]
            table.add_row(NAMES[one.name], _exponent(one.exponent_n), _exponent(one.exponent_d), *numbers)
    console.print(table)
    for one in found:
        if one.why:
            console.print(f"{NAMES[one.name]}: {escape(one.why)}", highlight=False, soft_wrap=True)
        elif one.name in ("envelope", "isoflop"):
            for warning in one.warnings:
                console.print(f"[yellow]{NAMES[one.name]}: {escape(warning)}[/yellow]", highlight=False, soft_wrap=True)


def _exponent(item: Interval | None) -> str:
    if item is None:
        return ""
    return f"{item.value:.3f}" + (f" [{item.low:.3f}, {item.high:.3f}]" if math.isfinite(item.low) else "")
