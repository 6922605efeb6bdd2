"""Figures of one fit: what it leaves over at each run, and which runs it rests on.

A band of residuals that bends is a law that is wrong there; a single point that moves the exponent is a law that rests
on one run. Neither shows in an interval.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from scaling.fitting.fitted import Fit
from scaling.fitting.influence import Influence
from scaling.fitting.laws import LAWS, Array
from scaling.fitting.observe import Observations
from scaling.report import words
from scaling.report.figure import C_LABEL, HELD, INK, PAPER, RC, SOFT, ordered, save, sheet, ticks

REJECTED = 0.01  # weight below which a run counts as rejected
MOST_ROWS = 20


def draw(
    fit: Fit, observations: Observations, folder: Path, influences: dict[str, tuple[Influence, Array]] | None = None
) -> list[Path]:
    """Write residuals.svg and .png, and influence.svg and .png where `influences` holds, by parameter or exponent,
    the groups left out and the value without each [G]. Returns the SVG files."""
    made = {}
    with matplotlib.rc_context(RC):
        if fit.residuals is not None:
            made["residuals"] = residuals(fit, observations)
        for name, (found, values) in (influences or {}).items():
            made[f"influence_{name}"] = influence(fit, name, found, values)
    for name, figure in made.items():
        save(figure, folder, name)
    return [folder / f"{name}.svg" for name in made]


def residuals(fit: Fit, observations: Observations) -> Figure:
    """Residuals against compute or the law's own variable, coloured by N, small to large; rejected runs hollow."""
    o = observations.ordered()
    assert fit.residuals is not None and fit.weights is not None
    surface = np.isfinite(o.flops).all()
    x = o.flops if surface else o.variable(fit.x or LAWS[fit.name].variables[0])
    label = C_LABEL if surface else fit.x or ""
    figure, axes = sheet(label, f"ln {fit.name} - ln measured, %")
    axes.set_yscale("linear")
    percent = 100 * fit.residuals
    far = np.abs(percent[fit.weights >= REJECTED]).max(initial=1e-3) * 1.25
    rank = np.argsort(np.argsort(o.n if surface else x))
    colours = np.array(ordered(12))[(rank * 12 // len(rank)).clip(0, 11)]
    kept = fit.weights >= REJECTED
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
    axes.scatter(x[kept], percent[kept], s=20, c=colours[kept], edgecolors=PAPER, linewidths=0.5, zorder=3)
    axes.scatter(
        x[~kept], percent[~kept].clip(-far, far), s=22, facecolors="none", edgecolors=HELD, linewidths=1, zorder=3
    )
    for sign in (-2, 2):
        axes.axhline(100 * sign * fit.scale, color=SOFT, linewidth=0.6, linestyle=(0, (2, 3)), zorder=1)
    low, high = float(x.min()), float(x.max())
    axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    marks = ticks(low, high)
    axes.xaxis.set_ticks(marks, [words.short(v) for v in marks])
    axes.xaxis.set_ticks([], minor=True)
    axes.set_ylim(-far * 1.1, far * 1.1)
    axes.text(
        1.02, 0.97, "colour: N,\nsmall to large\n\ndotted: 2 robust\nstandard deviations\n\nhollow: rejected\n"
        "(clipped to the frame)", transform=axes.transAxes, va="top", ha="left", fontsize=8, color=INK,
    )  # fmt: skip
    return figure


def influence(fit: Fit, name: str, found: Influence, values: Array) -> Figure:
    """The value of one parameter or exponent without each run or size, those that move it most first."""
    own = fit.estimates().get(name)
    if own is None:
        own = fit.optimum_intervals(fit.flops_max)[name]
    order = np.argsort(-np.abs(values - own.value), kind="stable")[:MOST_ROWS][::-1]
    figure, axes = sheet(f"{name} without the runs named", "")
    axes.set_xscale("linear")
    axes.set_yscale("linear")
    rows = np.arange(len(order))
    axes.axvspan(own.low, own.high, color=HELD, alpha=0.1, linewidth=0)
    axes.axvline(own.value, color=SOFT, linewidth=0.8)
    axes.scatter(values[order], rows, s=20, color=INK, zorder=3)
    axes.yaxis.set_ticks([])
    for row, i in zip(rows, order, strict=True):
        text = f"{found.left_out[i]}{f' ({found.runs[i]} runs)' if found.runs[i] > 1 else ''}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7, color=INK)
    axes.text(own.value, len(order) - 0.2, f"all runs, {fit.level:.0%} interval shaded", fontsize=7, color=SOFT)
    return figure
