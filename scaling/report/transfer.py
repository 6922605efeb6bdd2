"""The figure of a learning-rate transfer study: loss against learning rate, a row a group, a panel a horizon."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.fitting.tuning import SAME, Tuned
from scaling.fitting.valley import Optimum
from scaling.report import words
from scaling.report.figure import HAIR, INK, LOSS_LABEL, PAPER, RC, SOFT, label_ends, ordered, save, ticks

PANEL = (3.6, 2.85)  # inches
MARGIN = (0.6, 0.85, 0.3, 0.6)  # inches of it left, right (for labels of curves), below and above the axes
HEADROOM = 1.6  # the axis holds this much of the parabolas' own rise above the best; what is above is drawn at the top


def draw(found: Sequence[Tuned], folder: Path) -> list[Path]:
    """Write transfer.svg and transfer.png; returns the SVG, or nothing where no run trained."""
    with matplotlib.rc_context(RC):
        figure = transfer(found)
    if figure is None:
        return []
    save(figure, folder, "transfer")
    return [folder / "transfer.svg"]


def transfer(found: Sequence[Tuned]) -> Figure | None:
    """Points are runs (seeds averaged), lines their parabolas, crosses the optima with their intervals, and the dotted
    line is the planned rate; a run that diverged, or lies far above, is a triangle at the top."""
    found = [group for group in found if any(np.isfinite(one.cell.loss).any() for one in group.optima)]
    if not found:
        return None
    columns = [_horizons(group) for group in found]
    wide, high = max(map(len, columns)), len(found)
    width, height = wide * PANEL[0] + 0.1, high * PANEL[1] + 0.15
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    for r, (group, panels) in enumerate(zip(found, columns, strict=True)):
        colours = dict(zip(_sizes(group), ordered(len(_sizes(group))), strict=True))
        for c, optima in enumerate(panels):
            left, bottom = c * PANEL[0] + MARGIN[0], height - (r + 1) * PANEL[1] + MARGIN[2]
            size = PANEL[0] - MARGIN[0] - MARGIN[1], PANEL[1] - MARGIN[2] - MARGIN[3]
            box = left / width, bottom / height, size[0] / width, size[1] / height
            axes = figure.add_axes(box, facecolor="none")
            _panel(axes, optima, colours)
            tokens = sorted({one.cell.d for one in optima})
            horizon = words.short(tokens[0])
            if tokens[-1] > tokens[0] * math.exp(SAME):
                horizon += f" to {words.short(tokens[-1])}"
            axes.set_title(f"{group.group}, D = {horizon}", loc="left", fontsize=9, color=INK, pad=25)
            if r == c == 0:
                planned = optima[0].cell.planned
                axes.annotate(
                    "planned", (planned, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(0, 3), ha="center",
                    textcoords="offset points", color=SOFT, fontsize=7.5,
                )  # fmt: skip
            if c == 0:
                axes.text(
                    -0.26, 1.1, LOSS_LABEL, transform=axes.transAxes, color=SOFT, ha="left", va="bottom", fontsize=8
                )
            if r == high - 1:
                axes.set_xlabel("learning rate (peak_lr)", color=INK, labelpad=4)
    return figure


def _sizes(group: Tuned) -> list[float]:
    return sorted({one.cell.n for one in group.optima})


def _horizons(group: Tuned) -> list[list[Optimum]]:
    """Cells by the rank of their horizon among those of their model: each panel has every size once."""
    models: dict[str, list[Optimum]] = {}
    for one in sorted(group.optima, key=lambda one: one.cell.d):
        models.setdefault(one.cell.model, []).append(one)
    most = max(map(len, models.values()))
    panels = [[own[i] for own in models.values() if i < len(own)] for i in range(most)]
    return [sorted(panel, key=lambda one: one.cell.n) for panel in panels]


def _panel(axes: Axes, optima: Sequence[Optimum], colours: dict[float, str]) -> None:
    axes.set_xscale("log")
    axes.tick_params(which="both", length=0, colors=SOFT, labelcolor=SOFT, labelsize=8)
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    bottom, top = _heights(optima)
    ends, rates = [], []
    for one in optima:
        colour = colours[one.cell.n]
        x, y = _averaged(one)
        rates += x.tolist()
        inside = np.isfinite(y) & (y <= top)
        axes.plot(x[inside], y[inside], "o", color=colour, markersize=4.2, markeredgecolor=PAPER, markeredgewidth=0.6)
        axes.plot(x[~inside], np.full((~inside).sum(), top), "^", color=colour, markersize=4.6, markerfacecolor="none",
                  clip_on=False)  # fmt: skip
        if math.isfinite(one.rate.value) and one.rates:
            line = np.geomspace(min(one.rates), max(one.rates), 60)
            curve = one.curve(line)
            style = "-" if one.status == "resolved" else (0, (3, 2))
            axes.plot(line, np.where(curve <= top, curve, np.nan), color=colour, linewidth=1.2, linestyle=style)
        elif inside.sum() > 1:
            axes.plot(x[inside], y[inside], color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
        if one.status == "resolved":
            sides = [[one.rate.value - one.rate.low], [one.rate.high - one.rate.value]]
            axes.errorbar(
                [one.rate.value], [one.loss], xerr=sides, fmt="X", color=colour, ecolor=INK, elinewidth=1.1,
                capsize=2.6, markersize=7, markeredgecolor=PAPER, zorder=5,
            )  # fmt: skip
        if inside.any():
            last = np.flatnonzero(inside)[-1]
            ends.append((float(x[last]), float(y[last]), f"N = {words.short(one.cell.n)}", colour))
    for planned in {one.cell.planned for one in optima}:
        axes.axvline(planned, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    low, high = min(rates), max(rates)
    axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    axes.set_ylim(bottom, top)
    at = ticks(low, high)
    axes.xaxis.set_ticks(at, [f"{v:.3g}" for v in at])
    axes.xaxis.set_ticks([], minor=True)
    label_ends(axes, ends)


def _averaged(one: Optimum) -> tuple[np.ndarray, np.ndarray]:
    """The rates tried, and the geometric mean loss over seeds at each: not finite where any diverged."""
    rates = np.unique(one.cell.rate)
    with np.errstate(invalid="ignore"):
        return rates, np.array([np.exp(np.log(one.cell.loss[one.cell.rate == rate]).mean()) for rate in rates])


def _heights(optima: Sequence[Optimum]) -> tuple[float, float]:
    """Limits of the loss: of the points that the parabolas go through, with some room."""
    near = []
    for one in optima:
        x, y = _averaged(one)
        mine = y[np.isfinite(y)]
        if len(mine):
            used = y[np.isin(x, one.rates) & np.isfinite(y)]
            near += [mine.min(), *(used if len(used) else mine)]
    low, high = min(near), max(near)
    room = max(high - low, 1e-3 * low)
    return low - 0.06 * room, low + HEADROOM / 1.5 * room
