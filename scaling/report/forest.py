"""Forest plots: a row for each of the things compared, intervals on one axis. Any number of rows can be read, on a
phone too, as a row's words stand above it and not beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from scaling.fitting.compare import Comparison
from scaling.fitting.published.exponents import REFERENCES, Exponent
from scaling.fitting.uncertainty import Interval
from scaling.report import words
from scaling.report.answers import compared
from scaling.report.figure import ACCENT, ALGORITHMS, HAIR, INK, PAPER, SIZE, SOFT, ticks
from scaling.report.findings import Findings
from scaling.report.marks import Sheet, mark

WIDTH = SIZE[0] * 72  # points, as are all below
MARGIN, TOP, BOTTOM = 10.0, 22.0, 38.0
LINE, DOT, HEADING, GAP = 11.0, 8.5, 16.0, 7.0  # heights: of a line of words, a dot, a heading; between rows

APPROACHES = {"1": ("D", ALGORITHMS[2]), "2": ("X", ALGORITHMS[3]), "law": ("o", ACCENT)}  # marker and colour


@dataclass(frozen=True, kw_only=True)
class Dot:
    item: Interval  # with infinite or unknown ends where there are none
    marker: str = "o"
    colour: str = ACCENT
    hollow: bool = False
    title: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    runs: tuple[str, ...] = ()
    text: str = ""  # beside it

    @property
    def bound(self) -> bool:
        """All that is known lies on one side of the value."""
        return self.item.value in (self.item.low, self.item.high)


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    said: str = ""  # at the right end of its first line
    dots: tuple[Dot, ...] = ()  # none: a heading of the rows below

    @property
    def lines(self) -> list[str]:
        """The label in lines that leave room for what is said."""
        found, room = [""], WIDTH - 2 * MARGIN - (_wide(self.said) + 10 if self.said else 0)
        for word in self.label.split():
            longer = f"{found[-1]} {word}".strip()
            if found[-1] and _wide(longer) > room:
                found.append(word)
            else:
                found[-1] = longer
        return found

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + DOT * len(self.dots) + GAP if self.dots else HEADING


def forest(rows: Sequence[Row], label: str, key: Sequence[tuple[Dot, str]], *, log: bool, at: float) -> Sheet:
    """A figure of the rows from top to bottom; a line marks `at`, and `key` says what the markers mean."""
    high = sum(row.height for row in rows)
    figure = Sheet(figsize=(SIZE[0], (TOP + high + BOTTOM) / 72), facecolor=PAPER)
    whole = TOP + high + BOTTOM
    axes = figure.add_axes((MARGIN / WIDTH, BOTTOM / whole, 1 - 2 * MARGIN / WIDTH, high / whole), facecolor="none")
    if log:
        axes.set_xscale("log")
    low, top = _limits([dot for row in rows for dot in row.dots], at, log)
    axes.set_xlim(low, top)
    axes.set_ylim(high, 0)
    places = (
        ticks(low, top)
        if log
        else [float(v) for v in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, top) if low <= v <= top]
    )
    axes.xaxis.set_ticks(places, [f"{v:.4g}" for v in places])
    axes.xaxis.set_ticks([], minor=True)
    axes.set_yticks([])
    axes.tick_params(which="both", length=0, colors=SOFT, labelcolor=SOFT)
    axes.grid(axis="x", color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.set_xlabel(label, color=INK, labelpad=5)
    axes.plot([at, at], [0, high], color=SOFT, linewidth=1.0, zorder=1)
    _key(axes, key)
    y = 0.0
    for row in rows:
        _row(axes, row, y)
        y += row.height
    return figure


def _wide(text: str) -> float:
    """In points, in the letters of our files; those of a page are no wider."""
    letters = FontProperties(family="DejaVu Sans", size=8)
    return text_to_path.get_text_width_height_descent(text, letters, ismath=False)[0]


def _row(axes: Axes, row: Row, y: float) -> None:
    across = {"transform": axes.get_yaxis_transform(), "va": "center", "zorder": 3}
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
    if not row.dots:
        axes.text(0, y + HEADING / 2, row.label, color=SOFT, fontsize=8, fontweight="bold", bbox=ground, **across)
        return
    for i, line in enumerate(row.lines):
        axes.text(0, y + LINE * (i + 0.5), line, color=INK, fontsize=8, bbox=ground, **across)
    if row.said:
        axes.text(1, y + LINE / 2, row.said, color=INK, fontsize=8, bbox=ground, ha="right", **across)
    y += LINE * len(row.lines)
    low, high = axes.get_xlim()
    for i, dot in enumerate(row.dots):
        _dot(axes, dot, y + DOT * (i + 0.5))


def _dot(axes: Axes, dot: Dot, y: float) -> None:
    """Its interval, as far as the axes go, with an arrow where it goes on."""
    low, high = axes.get_xlim()
    first, last = dot.item.low, dot.item.high
    if math.isnan(first) or math.isnan(last):
        first = last = dot.item.value
    axes.plot([max(first, low), min(last, high)], [y, y], color=dot.colour, linewidth=1.5, zorder=2)
    for end, beyond, caret in ((low, first < low, CARETLEFT), (high, last > high, CARETRIGHT)):
        if beyond:
            axes.plot([end], [y], marker=caret, color=dot.colour, markersize=5, clip_on=False, zorder=3)
    x = min(max(dot.item.value, low), high)
    if x == dot.item.value:
        axes.plot([x], [y], zorder=4, **_look(dot))
    mark(axes, x, y, dot.title, dot.facts, dot.runs)
    if dot.text:
        left = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0] > 0.5
        axes.annotate(
            dot.text, (max(first, low) if left else min(last, high), y), xytext=(-7 if left else 7, 0), zorder=3,
            textcoords="offset points", ha="right" if left else "left", va="center", color=SOFT, fontsize=7,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0},
        )  # fmt: skip


def _look(dot: Dot) -> dict[str, Any]:
    edge = dot.colour if dot.hollow or dot.bound else PAPER
    return {
        "marker": dot.marker, "color": dot.colour, "markersize": 5.2, "markeredgecolor": edge,
        "markerfacecolor": PAPER if dot.hollow else dot.colour, "markeredgewidth": 1.2 if dot.hollow else 0.6,
    }  # fmt: skip


def _key(axes: Axes, key: Sequence[tuple[Dot, str]]) -> None:
    """What the markers mean, in a line above the rows."""
    x = 0.0
    for dot, text in key:
        axes.annotate(
            text, (x, 1), xycoords="axes fraction", xytext=(11, 11), textcoords="offset points", color=INK, fontsize=8,
            va="center",
        )  # fmt: skip
        place = axes.transAxes.transform((x, 1)) + np.array([4, 11]) * axes.figure.dpi / 72
        (across,), (up,) = axes.transAxes.inverted().transform([place]).T
        axes.plot([across], [up], transform=axes.transAxes, clip_on=False, **_look(dot))
        x += (11 + _wide(text) + 14) / (WIDTH - 2 * MARGIN)


def _limits(dots: Sequence[Dot], at: float, log: bool) -> tuple[float, float]:
    """All values; intervals and bounds as far as they leave room for these."""
    there, back = (math.log, math.exp) if log else (float, float)
    values = [there(v) for v in [at, *(dot.item.value for dot in dots if not dot.bound)]]
    least, most = min(values), max(values)
    room = max((most - least) / 2, math.log(1.5) if log else 0.1)
    ends = [v for dot in dots for v in (dot.item.low, dot.item.high, dot.item.value) if not math.isnan(v)]
    ends = [there(v) if math.isfinite(v) and (v > 0 or not log) else math.copysign(math.inf, v - 1) for v in ends]
    low, high = max(min([least, *ends]), least - room), min(max([most, *ends]), most + room)
    pad = 0.04 * (high - low)
    return back(low - pad), back(high + pad)


def multipliers(found: Findings, shown: Sequence[Comparison], of: dict[str, str], label: str) -> Sheet:
    """Each comparison at the least and the largest compute that its losses share, best first, by baseline."""
    baselines = [*dict.fromkeys(c.baseline for c in shown)]
    rows = []
    for baseline in baselines:
        if len(baselines) > 1:
            rows.append(Row(label=f"against {baseline}"))
        mine = [c for c in shown if c.baseline == baseline]
        rows += [_multiplier(found, c, of[c.algorithm]) for c in sorted(mine, key=_worth, reverse=True)]
    of_them = f"compute of {baselines[0]}" if len(baselines) == 1 else "compute"
    key = [(Dot(item=_only(1), hollow=True), f"at the least {of_them} shared"), (Dot(item=_only(1)), "at the most")]
    return forest(rows, label if len(baselines) > 1 else f"{label}, {baselines[0]} = 1", key, log=True, at=1.0)


def _worth(c: Comparison) -> float:
    if c.multiplier is not None:
        return c.multiplier.value
    assert c.bound is not None  # one that is shown
    return c.bound[1]


def _multiplier(found: Findings, c: Comparison, what: str) -> Row:
    label, title, runs = _named(c.algorithm, what), f"{c.algorithm} against {c.baseline}", compared(found, c)
    if c.multiplier is None or c.ends is None:
        assert c.bound is not None
        side, value = c.bound
        beyond = Interval(
            value=value, se=math.nan, low=0 if side == "<" else value, high=value if side == "<" else math.inf
        )
        facts = (("multiplier", f"{'below' if side == '<' else 'above'} ×{value:.2g}: no loss was reached by both"),)
        return Row(label=label, said=f"{side} ×{value:.2g}", dots=(Dot(
            item=beyond, marker="|", title=title, facts=facts, runs=runs,
        ),))  # fmt: skip
    resolved, dots = c.multiplier.low > 1 or c.multiplier.high < 1, []
    for i, (c_at, where) in enumerate(((c.flops.min(), "least"), (c.flops.max(), "most"))):
        facts = (
            ("multiplier", words.multiple(c.ends.at(i))), (f"at the {where} C", words.power(float(c_at))),
            ("over all of it", words.multiple(c.multiplier)), ("verdict", c.verdict.rsplit("; ", 1)[-1]),
        )  # fmt: skip
        colour = ACCENT if resolved else SOFT
        dots.append(Dot(item=c.ends.at(i), colour=colour, hollow=i == 0, title=title, facts=facts, runs=runs))
    return Row(label=label, said=words.multiple(c.multiplier), dots=tuple(dots))


def _named(name: str, what: str) -> str:
    return f"{name}: {what}" if what else name


def _only(value: float) -> Interval:
    return Interval(value=value, se=math.nan, low=math.nan, high=math.nan)


def exponents(found: Findings) -> Sheet | None:
    """The exponent of N*(C) by each approach, of the study and of each variation, above published ones."""
    own = {split.approach: split for split in found.splits}
    law = found.headline
    if not any(one.exponent or one.by_valleys for one in found.varied) or law is None:
        return None
    told = found.observations.run_id if found.observations is not None else ()
    said = {name: own[name].exponent_n for name in ("1", "2", law.name) if name in own}
    by = {"law": said.pop(law.name, None), **said}
    rows = [_of(by, "the study as it is", told)]
    rows += [
        _of({"law": one.exponent, "2": one.by_valleys}, _named(one.name, one.words), one.runs)
        for one in found.varied
        if one.exponent or one.by_valleys
    ]
    rows.append(Row(label="published"))
    for paper in dict.fromkeys(one.paper for one in REFERENCES):
        theirs = [one for one in REFERENCES if one.paper == paper]
        rows.append(Row(label=paper, dots=tuple(map(_published, theirs))))
    texts = {"law": f"{law.name} law", "2": "parabolas", "1": "envelope"}
    key = [(Dot(item=_only(1), marker=APPROACHES[name][0], colour=APPROACHES[name][1]), texts[name]) for name in texts]
    centre = by["law"] or by.get("2")
    at = centre.value if centre is not None else 0.5
    return forest(rows, "a, exponent of the best size, N* ∝ C^a", key, log=False, at=at)


def _published(one: Exponent) -> Dot:
    low, high = one.interval or (math.nan, math.nan)
    item = Interval(value=one.value, se=math.nan, low=low, high=high)
    value = f"{words.interval(item)} (95 %)" if one.interval else f"{one.value:.2g}"
    facts = (("exponent of N*", value), ("how", one.words))
    return Dot(item=item, marker="s", colour=SOFT, title=one.paper, facts=facts, text=one.words)


def _of(by: dict[str, Interval | None], label: str, runs: tuple[str, ...]) -> Row:
    names = {"law": "by the law", "2": "by parabolas (approach 2)", "1": "by the envelope (approach 1)"}
    dots = []
    for name, how in names.items():
        if (item := by.get(name)) is not None:
            marker, colour = APPROACHES[name]
            facts = ((how, words.interval(item)),)
            dots.append(Dot(item=item, marker=marker, colour=colour, title=label, facts=facts, runs=runs))
    law = by.get("law")
    return Row(label=label, said=words.interval(law) if law is not None else "", dots=tuple(dots))
