"""What `scaling compile` found, in words: from its document alone."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.report.words import power, several, short
from scaling.roofline import gib
from scaling.spec import ModelSpec

WIDTH = 120  # characters that the table may take, whatever the terminal
COLUMNS = (
    "placement", "fits", "HBM", "argument", "temporary", "compute", "memory", "exchange", "step, least", "MFU, most",
)  # fmt: skip
MOST_RUNS = 3  # of a shape that are named


def show(document: dict[str, Any], console: Console) -> None:
    console.width = max(console.width, WIDTH)
    slices = f"{document['slices']} x " if document["slices"] > 1 else ""

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for shape in document["shapes"]:
        line(f"[bold]{shape['name']}[/bold] on {slices}{document['topology']}, {several(document['chips'], 'chip')}")
        if "fault" in shape:
            line(f"[red]cannot be placed[/red]: {escape(shape['fault'])}")
            continue
        table = Table(box=None, header_style="dim", pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=True)
        for one in (shape["asked"], *shape["tried"]):
            table.add_row(*_row(one))
        console.print(table)
        _say_best(shape, line)
    for text in document["assumptions"]:
        line(f"[dim]{text}[/dim]")


def _row(one: dict[str, Any]) -> list[str]:
    hbm, estimate = one["hbm"], one.get("estimate")
    row = [one["mesh"], "yes" if one["fits"] else f"no, {gib(one['over'])} over", gib(hbm["peak"])]
    if not estimate:
        return row
    row += [gib(hbm["argument"]), gib(hbm["temporary"])]
    row += [seconds(estimate[term]) for term in ("compute", "memory", "interconnect", "seconds")]
    return [*row, f"{estimate['mfu']:.0%}"]


def _say_best(shape: dict[str, Any], line: Callable[[str], None]) -> None:
    best = next((one for one in (shape["asked"], *shape["tried"]) if one["mesh"] == shape["proposed"]), None)
    if best is None:
        line("[red]none of these fits[/red]: take a larger slice, or --tries for more placements")
        return
    estimate, flops = best["estimate"], best["flops"]
    rest = "" if estimate["network"] is not None else "; between slices nothing is counted: no bandwidth is documented"
    line(
        f"proposed: --mesh {best['mesh']}, bound by {estimate['bound']}; a step takes {seconds(estimate['seconds'])} "
        f"if all else hides behind it, {seconds(estimate['seconds_in_turn'])} if nothing does{rest}"
    )
    line(f"FLOPs: {power(flops['compiled'])} compiled a step, {flops['ratio']:.2f} times our exact count")
    for kind, of in best["collectives"].items():
        line(f"{kind}: {of['count']:,} a step of {gib(of['bytes'])} in all; each device sends {gib(of['sent'])}")
    for one in shape["runs"][:MOST_RUNS]:
        least, most = (one["steps"] * estimate[name] / 3600 for name in ("seconds", "seconds_in_turn"))
        line(f"run {one['id']}: {one['steps']:,} steps, {least:.3g} hours at least, {most:.3g} if nothing hides")
    if len(shape["runs"]) > MOST_RUNS:
        line(f"and {len(shape['runs']) - MOST_RUNS} more runs of this shape (--json)")


def verdict(one: dict[str, Any]) -> str:
    """A placement in one line, as it is done."""
    hbm = f"{gib(one['hbm']['peak'])} of {gib(one['hbm']['limit'])} a device"
    if not one["fits"]:
        return f"{one['mesh']} does not fit: needs {hbm}, {gib(one['over'])} too much"
    estimate = one["estimate"]
    return (
        f"{one['mesh']} fits: {hbm}; a step takes at least {seconds(estimate['seconds'])}, bound by "
        f"{estimate['bound']} (compiled in {one['compile_seconds']:.0f} s)"
    )


def seconds(value: float) -> str:
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms")) if value >= s), (1e-6, "µs"))
    return f"{value / scale:.3g} {unit}"


def shape_name(model: ModelSpec, n_params: int, batch: int) -> str:
    return f"{short(n_params)} parameters, {model.n_layers} x {model.d_model}, {batch} x {model.context}"
