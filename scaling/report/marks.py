"""What of a figure a reader can point at: where it is drawn, what it says, and which runs are behind it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.fitting.fit import variables
from scaling.fitting.fitted import Fit
from scaling.fitting.isoflop import SAME_BUDGET, Valley
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval
from scaling.report import words


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something drawn that a reader can point at: where on the axes, what it is and says, and the runs behind it."""

    x: float
    y: float
    title: str = ""  # empty: its run, whose own facts are said too
    facts: tuple[tuple[str, str], ...] = ()  # (name, value)
    runs: tuple[str, ...] = ()  # ids


class Sheet(Figure):
    """A figure with the marks of each of its axes."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.marks: list[tuple[Axes, Mark]] = []

    def placed(self) -> list[tuple[float, float, Mark]]:
        """Each mark that is inside its axes, with its place in the SVG: points right of its left and below its top."""
        found, high = [], self.get_figheight() * 72
        for axes, mark in self.marks:
            at = axes.transData.transform((mark.x, mark.y))
            if axes.bbox.padded(2).contains(*at):
                found.append((at[0] * 72 / self.dpi, high - at[1] * 72 / self.dpi, mark))
        return found


def mark(axes: Axes, x: float, y: float, title: str = "", facts: Any = (), runs: Iterable[str] = ()) -> None:
    """Let a reader point at (x, y) of the axes."""
    assert isinstance(axes.figure, Sheet)
    axes.figure.marks.append((axes, Mark(x=float(x), y=float(y), title=title, facts=tuple(facts), runs=tuple(runs))))


def said_by(law: Fit, o: Observations) -> dict[str, str]:
    """What an identified law says of each run's loss, and how far off that is."""
    band = law.band(*variables(o, law.name, law.x))
    off = np.asarray(band.value) / o.loss - 1
    return {
        run_id: f"{words.of_loss(band.value[i], band.low[i], band.high[i])} ({off[i]:+.2%})".replace("-", "−")
        for i, run_id in enumerate(o.run_id)
    }


def of_budget(axes: Axes, o: Observations, valley: Valley) -> None:
    """Marks of one budget's losses, each with the runs of its size that it was measured or interpolated on."""
    piece = valley.slice
    for n, d, loss in zip(piece.n, piece.d, piece.loss, strict=True):
        size = np.abs(np.log(o.n / n)) < 1e-6
        near = size & (np.abs(np.log(o.flops / piece.flops)) < SAME_BUDGET)
        runs = np.array(o.run_id)[near if near.any() and not piece.interpolated else size].tolist()
        if len(runs) == 1:
            mark(axes, n, loss, runs=runs)
            continue
        facts = [("N", words.short(n)), ("D", words.short(d)), ("C", words.power(piece.flops)), ("loss", f"{loss:.4f}")]
        how = "interpolated between runs" if piece.interpolated else f"mean of {len(runs)} runs"
        mark(axes, n, loss, how, facts, runs)
    if not valley.edge:
        vertex(axes, o, valley, valley.n, valley.loss)


def vertex(axes: Axes, o: Observations, valley: Valley, x: float, y: float) -> None:
    facts = [("C", words.power(valley.slice.flops)), ("N*", words.short(valley.n)), ("D*", words.short(valley.d))]
    mark(axes, x, y, "vertex of a parabola", [*facts, ("L*", f"{valley.loss:.4f}")], o.run_id)


def along_best(axes: Axes, o: Observations, fit: Fit, line: Array, best: list[dict[str, Interval]], name: str) -> None:
    """Marks along the best split, drawn as loss, n or d against compute."""
    for c, each in zip(line, best, strict=True):
        if math.isfinite(each[name].value):
            facts = [("C", words.power(c)), *((f"{k}*", words.interval(each[k.lower()])) for k in "ND")]
            facts.append(("L*", words.interval(each["loss"], "nats")))
            mark(axes, c, each[name].value, f"best split, {fit.name} law", facts, o.run_id)
