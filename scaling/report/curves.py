"""What several figures draw alike: the runs, a law with its interval, a forecast beside what was measured."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from scaling.fitting.fitted import Fit
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval
from scaling.report import words
from scaling.report.figure import HELD, PAPER
from scaling.report.findings import Registered
from scaling.report.marks import mark, said_by

MOST_CURVES = 8
SAME = 1.5  # of the logarithm along an axis: forecasts nearer to one another share a label


def levels(values: Array) -> tuple[list[float], Array]:
    """The few values that curves are drawn at, and the index [R] of the nearest for each run.

    The distinct values where there are at most MOST_CURVES, else five spread evenly in logarithms.
    """
    distinct: list[float] = []
    for value in np.sort(values):
        if not distinct or value > 1.03 * distinct[-1]:
            distinct.append(float(value))
    if len(distinct) > MOST_CURVES:
        distinct = np.geomspace(distinct[0], distinct[-1], 5).tolist()
    return distinct, np.abs(np.log(values)[:, None] - np.log(distinct)).argmin(axis=1)


def points(axes: Axes, x: Array, o: Observations, rows: Array, colour: str, law: Fit | None = None) -> None:
    """The loss of some of the runs against x, [R]; `law` is that of the figure where it has one of its own."""
    axes.errorbar(
        x[rows], o.loss[rows], yerr=np.nan_to_num(o.loss_se[rows]), fmt="o", color=colour, markersize=4.6,
        markeredgecolor=PAPER, markeredgewidth=0.6, elinewidth=0.8, zorder=3,
    )  # fmt: skip
    own = said_by(law, o) if law is not None and law.law is not None else {}
    for i in rows:
        facts = [(f"{law.name} law", own[o.run_id[i]])] if law is not None and own else []
        mark(axes, float(x[i]), float(o.loss[i]), "", facts, [o.run_id[i]])


def law_curve(axes: Axes, x: Array, band: Interval, colour: str, *, until: float) -> None:
    """A curve and its interval, dashed where x is beyond the runs."""
    axes.fill_between(x, band.low, band.high, color=colour, alpha=0.16, linewidth=0, zorder=1)
    inside = x <= until * (1 + 1e-9)
    axes.plot(x[inside], band.value[inside], color=colour, linewidth=1.3, zorder=2)
    beyond = np.flatnonzero(~inside)
    if len(beyond):
        rest = slice(max(beyond[0] - 1, 0), None)
        axes.plot(x[rest], band.value[rest], color=colour, linewidth=1.1, linestyle=(0, (3, 2)), zorder=2)


def held_out(axes: Axes, x: float, one: Registered, where: str = "") -> list[float]:
    """The forecast's interval as a bar and the measured loss as a diamond; returns the losses that it spans."""
    said = one.forecast
    axes.vlines([x], [said.low], [said.high], color=HELD, linewidth=6, alpha=0.3, zorder=2)
    axes.plot([x], [said.loss], marker="_", color=HELD, markersize=8, markeredgewidth=1.2, zorder=4)
    facts = [
        ("loss", words.of_loss(said.loss, said.low, said.high)), ("N", words.short(said.n)), ("D", words.short(said.d)),
        ("C", words.beyond(said.extrapolation)),
    ]  # fmt: skip
    mark(axes, x, said.loss, f"forecast of {one.run_id}", facts, [one.run_id])
    heights = [said.low, said.high]
    if one.score is not None:
        heights.append(one.score.measured)
        axes.plot(
            [x], [one.score.measured], marker="D", color=HELD, markersize=5, markeredgecolor=PAPER,
            markeredgewidth=0.6, zorder=5,
        )  # fmt: skip
        missed = f"{words.error(one.score.error)}, {'inside' if one.score.inside else 'outside'} its interval"
        mark(axes, x, one.score.measured, facts=[("forecast", missed)], runs=[one.run_id])
    label = f"{'held out' if one.score is not None else 'forecast'}{where}"
    named = (text for text in axes.texts if isinstance(text, Annotation) and text.get_text() == label)
    beside = (text for text in named if abs(math.log(text.xy[0] / x)) < SAME)
    if (said_before := next(beside, None)) is not None:  # below all of them
        said_before.xy = (x, min(said_before.xy[1], *heights))
        return [*heights, 0.975 * min(heights)]
    axes.annotate(
        label, (x, min(heights)), xytext=(5, -3), textcoords="offset points", ha="right", va="top", color=HELD,
        fontsize=8,
    )  # fmt: skip
    return [*heights, 0.975 * min(heights)]


def stacked(items: list[Interval]) -> Interval:
    return each_of(lambda name: np.array([getattr(item, name) for item in items]))


def each_of(field: Callable[[str], Array]) -> Interval:
    return Interval(value=field("value"), se=field("se"), low=field("low"), high=field("high"))
