"""The figure of repeated data: loss against how often the same tokens were seen, by how many of them there were."""

import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from scaling.fitting.fitted import Fit
from scaling.fitting.laws import Array
from scaling.report import words
from scaling.report.curves import MOST_CURVES, law_curve, levels
from scaling.report.figure import LOSS_LABEL, PAPER, frame, label_ends, ordered, sheets
from scaling.report.findings import Findings, Repetition
from scaling.report.marks import Sheet, mark

FRESH = (0, (1, 2))  # dotted: what as many tokens would have bought without a repetition


def repeated(found: Findings) -> Sheet | None:
    """A pair of axes for each group: its runs, a colour for each number of unique tokens, U, the law of repeated data
    at each U and N where it is told, and dotted the loss of as many fresh tokens."""
    shown = [one for one in found.repeated if (np.array(one.observations.group) == one.group).any()]
    if not shown:
        return None
    names = [f"{one.group}: {one.words}" if one.words else one.group for one in shown]
    titles = [textwrap.shorten(f"{LOSS_LABEL} · {name}", 58, placeholder="…") for name in names]
    figure, every = sheets("epochs, passes over U unique tokens", titles, right=0.72)
    for axes, one in zip(every, shown, strict=True):
        _group(axes, one, found.headline)
    return figure


def _fresh(one: Repetition, headline: Fit | None) -> Callable[[Array, Array], Array] | None:
    """The loss at N and D fresh tokens: by the law of repeated data, else by that of the fresh runs alone."""
    if one.fit.law is not None:
        return lambda n, d: one.fit.predict(n, d, d)
    return headline.predict if headline is not None else None


def _group(axes: Axes, one: Repetition, headline: Fit | None) -> None:
    o = one.observations.pick(np.flatnonzero(np.array(one.observations.group) == one.group))
    epochs, told = o.d / o.unique, one.fit.law is not None
    uniques, of_unique = levels(o.unique)
    sizes, of_size = levels(o.n)
    drawn = [*range(len(sizes))] if len(sizes) * len(uniques) <= MOST_CURVES else sorted({0, len(sizes) - 1})
    ends, heights = [], [*o.loss]
    band = one.fit.band(o.n, o.d, o.unique) if told else None
    fresh = _fresh(one, headline)
    for i, (unique, colour) in enumerate(zip(uniques, ordered(len(uniques)), strict=True)):
        for k, n in enumerate(sizes):
            mine = np.flatnonzero((of_unique == i) & (of_size == k))
            if not len(mine):
                continue
            axes.errorbar(
                epochs[mine], o.loss[mine], yerr=np.nan_to_num(o.loss_se[mine]), fmt="o", color=colour, markersize=4.6,
                markeredgecolor=PAPER, markeredgewidth=0.6, elinewidth=0.8, zorder=3,
            )  # fmt: skip
            for row in mine:
                facts = [("epochs", f"{epochs[row]:.3g}"), ("U", words.short(o.unique[row]))]
                if band is not None:
                    facts.append((f"{one.fit.name} law", words.of_loss(band.value[row], band.low[row], band.high[row])))
                mark(axes, epochs[row], o.loss[row], "", facts, [o.run_id[row]])
            if k not in drawn:
                continue
            last = mine[epochs[mine].argmax()]
            end = (float(epochs[last]), float(o.loss[last]))
            line = np.geomspace(1, epochs[mine].max(), 50)
            size, seen = np.full(len(line), n), unique * line
            if told:
                curve = one.fit.band(size, seen, np.full(len(line), unique))
                law_curve(axes, line, curve, colour, until=float(line[-1]))
                end = (float(line[-1]), float(curve.value[-1]))
                heights += [*curve.value]
            if fresh is not None:
                loss = fresh(size, seen)
                axes.plot(line, loss, color=colour, linewidth=1.0, linestyle=FRESH, zorder=2)
                heights += [*loss]
            named = [f"U = {words.short(unique)}"] * (len(uniques) > 1 or len(sizes) == 1)
            named += [f"N = {words.short(n)}"] * (len(sizes) > 1)
            ends.append((*end, ", ".join(named), colour))
    frame(axes, [1.0, *epochs], heights)
    label_ends(axes, ends)
