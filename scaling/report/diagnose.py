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
from scaling.fitting.laws import LAWS
from scaling.fitting.observe import Observations
from scaling.report import words
from scaling.report.figure import C_LABEL, HELD, INK, PAPER, RC, SOFT, ordered, save, sheet, ticks
from scaling.spec import Refusal

REJECTED = 0.01  # weight below which a run counts as rejected
MOST_ROWS = 20


def draw(fit: Fit, observations: Observations, folder: Path, influence: Influence | None = None) -> list[Path]:
    """Write residuals.svg and .png; with `influence` one more of each, of what moves a surface's exponent of N* or the
    last parameter of another law. Returns the SVG files.

    Raises `Refusal` where the law is unidentified.
    """
    if fit.law is None or fit.residuals is None:
        raise Refusal(f"--figures: law {fit.name} is unidentified, there are no residuals to draw")
    made = {}
    with matplotlib.rc_context(RC):
        made["residuals"] = residuals(fit, observations)
        if influence is not None:
            made["influence"] = moved(fit, influence)
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
    log = fit.space == "log"
    figure, axes = sheet(
        label, f"ln {fit.name} - ln measured, %" if log else f"{fit.name} - measured", right=0.76
    )  # fmt: skip
    axes.set_yscale("linear")
    unit = 100 if log else 1
    off = unit * fit.residuals
    far = np.abs(off[fit.weights >= REJECTED]).max(initial=2 * unit * fit.scale) * 1.25
    rank = np.argsort(np.argsort(o.n if surface else x))
    colours = np.array(ordered(12))[(rank * 12 // len(rank)).clip(0, 11)]
    kept = fit.weights >= REJECTED
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
    axes.scatter(x[kept], off[kept], s=20, c=colours[kept], edgecolors=PAPER, linewidths=0.5, zorder=3)
    axes.scatter(x[~kept], off[~kept].clip(-far, far), s=22, facecolors="none", edgecolors=HELD, linewidths=1, zorder=3)
    for sign in (-2, 2):
        axes.axhline(unit * sign * fit.scale, color=SOFT, linewidth=0.6, linestyle=(0, (2, 3)), zorder=1)
    low, high = float(x.min()), float(x.max())
    axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    marks = ticks(low, high)
    axes.xaxis.set_ticks(marks, [(words.power if surface else words.short)(v) for v in marks])
    axes.xaxis.set_ticks([], minor=True)
    axes.set_ylim(-far * 1.1, far * 1.1)
    axes.text(
        1.02, 0.97, "colour: N,\nsmall to large\n\ndotted: 2 robust\ndeviations\n\nhollow: rejected",
        transform=axes.transAxes, va="top", ha="left", fontsize=8, color=INK,
    )  # fmt: skip
    return figure


def moved(fit: Fit, found: Influence) -> Figure:
    """One number of the fit without each run or size, those that move it most at the top, in its own interval."""
    if hasattr(fit.law, "optimum"):
        name, label = "exponent_n", "exponent of N*(C), the fit without the runs named"
        own = fit.optimum_intervals(fit.flops_max)[name]
        values = found.value(lambda law: law.exponents(np.array([fit.flops_max]), fit.cost)[0], fit.law)
    else:
        name = LAWS[fit.name].names[-1]
        label, own = f"{name}, the fit without the runs named", fit.estimates()[name]
        values = found.theta[:, -1]
    order = np.argsort(-np.abs(values - own.value), kind="stable")[:MOST_ROWS][::-1]
    figure, axes = sheet(label, "", right=0.76)
    axes.set_xscale("linear")
    axes.set_yscale("linear")
    axes.axvspan(own.low, own.high, color=HELD, alpha=0.1, linewidth=0)
    axes.axvline(own.value, color=SOFT, linewidth=0.8)
    axes.scatter(values[order], np.arange(len(order)), s=20, color=INK, zorder=3)
    axes.yaxis.set_ticks([])
    axes.set_ylim(-0.8, len(order) + 0.2)
    for row, i in enumerate(order.tolist()):
        text = f"{_called(found.left_out[i])}{f' ({found.runs[i]} runs)' if found.runs[i] > 1 else ''}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7, color=INK)
    axes.text(
        own.value, len(order) - 0.3, f"all runs, {fit.level:.0%} interval shaded", fontsize=7, color=SOFT, ha="center"
    )
    return figure


def _called(label: str) -> str:
    """A size that is a count of parameters in short."""
    try:
        return f"N = {words.short(float(label))}" if float(label) >= 1e3 else label
    except ValueError:
        return label
