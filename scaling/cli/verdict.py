"""A fit for a reader: parameters with intervals, what they imply, and what the runs cannot tell."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.fitting.calibrate import Calibration
from scaling.fitting.fitted import Fit
from scaling.fitting.influence import Influence
from scaling.fitting.laws import LAWS
from scaling.fitting.table import printable
from scaling.fitting.uncertainty import Interval

FEWEST_SHOWN = 5  # of the runs that move a fit most


def show_fit(found: Fit, console: Console, profile: Mapping[str, Interval] | None = None) -> None:
    """`profile` are intervals of parameters by the profile of the objective, shown beside the fit's own."""
    dropped = "".join(f"; {count} left out: {reason}" for reason, count in found.dropped.items())
    of = printable(found.x or found.params or "")
    console.print(
        f"[bold]{found.name}[/bold]{f' in {escape(of)}' if of else ''}, {found.runs} runs{escape(dropped)}: "
        f"{found.status.replace('_', ' ')}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"  {escape(LAWS[found.name].formula)}", highlight=False, style="dim")
    _estimates(found, console, profile or {})
    if found.law is not None and hasattr(found.law, "optimum"):
        best = found.optimum_intervals(found.flops_max)
        exponents = ", ".join(
            f"{size}* ~ C^{item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"
            for size, item in (("N", best["exponent_n"]), ("D", best["exponent_d"]))
        )
        console.print(
            f"optimum: {exponents}; at {found.flops_max:.3g} FLOPs N* = {best['n'].value:.3g}, "
            f"D* = {best['d'].value:.3g}, L* = {best['loss'].value:.4f}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if spans := [
        f"{words} over {found.design[key]:.3g}x"
        for words, key in (("N", "span_n"), ("D", "span_d"), ("D/N", "span_ratio"))
        if np.isfinite(found.design.get(key, np.nan))
    ]:
        condition = found.design["condition"]
        told = f"; condition number {condition:.2g}" if np.isfinite(condition) else ""
        console.print(f"design: {', '.join(spans)}{told}", highlight=False, soft_wrap=True)
    if found.holdout is not None:
        held, unit = found.holdout, " FLOPs" if np.isfinite(found.flops_max) else ""
        console.print(
            f"held out: the {held['runs']} runs above {held['cut']:.3g}{unit} are predicted {held['error']:.2%} off on "
            f"average, by a line through two points {held['baseline']:.2%}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for warning in found.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)


def _estimates(found: Fit, console: Console, profile: Mapping[str, Interval]) -> None:
    estimates = Table(box=None, header_style="dim", pad_edge=False)
    headings = ["", "estimate", "standard error", f"{found.level:.0%} interval"]
    for name in [*headings, *(["by profile"] if profile else [])]:
        estimates.add_column(name, justify="left" if not name else "right")
    for name, item in found.estimates().items():
        known = item.low == item.low
        row = [name, f"{item.value:.5g}", f"{item.se:.2g}" if known else "", _range(item) if known else "on a bound"]
        estimates.add_row(*row, *([_range(profile[name])] if name in profile else []))
    for name in found.unidentified:
        if name not in found.partial:
            estimates.add_row(name, "not identified", "", "")
    console.print(estimates)


def _range(item: Interval) -> str:
    """An end that is not finite is open: no value of the parameter that far out is excluded."""
    low, high = (f"{end:.4g}" if np.isfinite(end) else "open" for end in (item.low, item.high))
    return f"{low} .. {high}"


def show_calibration(found: Calibration, console: Console) -> None:
    """Coverage of the fit's intervals at its own design."""
    console.print(
        f"calibration: {found.studies} studies of this design, simulated from the fit; {found.unidentified} could not "
        f"tell the law. Intervals that say {found.level:.0%} hold the truth in",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "coverage", "width should be"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in found.quantities.items():
        table.add_row(name, f"{one.coverage:.1%} +- {one.coverage_se:.1%}", f"x{one.factor:.2f} +- {one.factor_se:.2f}")
    console.print(table)


def show_influence(found: Fit, influence: Influence, console: Console) -> None:
    """The groups of runs without which the fit moves most, in standard errors of what moves most."""
    shifts, names = moves(found, influence)
    order = np.argsort(-np.abs(shifts).max(axis=1), kind="stable")[:FEWEST_SHOWN]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("without", "runs", *names, "mean residual", "weight"):
        table.add_column(heading, justify="left" if heading == "without" else "right")
    for i in order:
        table.add_row(
            escape(influence.left_out[i]), str(influence.runs[i]), *(f"{shift:+.2f}" for shift in shifts[i]),
            f"{influence.residual[i]:+.2%}" if found.space == "log" else f"{influence.residual[i]:+.4f}",
            f"{influence.weight[i]:.2f}",
        )  # fmt: skip
    console.print("influence: the fit without these runs, shift of each estimate in standard errors", highlight=False)
    console.print(table)


def moves(found: Fit, influence: Influence) -> tuple[np.ndarray, list[str]]:
    """Shifts [G, K] of the estimates that have a standard error, in units of it, and their names."""
    items = {name: item for name, item in found.estimates().items() if item.se == item.se and item.se > 0}
    columns = [
        (influence.theta[:, i] - influence.whole[i]) / items[name].se
        for i, name in enumerate(LAWS[found.name].names)
        if name in items
    ]
    return np.stack(columns, axis=1), [name for name in LAWS[found.name].names if name in items]


def influence_json(found: Fit, influence: Influence) -> list[dict[str, Any]]:
    """One entry a group left out: its name, runs, mean residual and weight, and each estimate without it."""
    names = LAWS[found.name].names
    return [
        {
            "without": label, "runs": int(influence.runs[i]), "residual": float(influence.residual[i]),
            "weight": float(influence.weight[i]),
            "estimates": {name: float(value) for name, value in zip(names, influence.theta[i], strict=True)},
        }
        for i, label in enumerate(influence.left_out)
    ]  # fmt: skip
