"""Terms of a step's time against the number of chips: curves by formula, points of compiled programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from scaling.report.figure import ALGORITHMS, PAPER, RC, SOFT, frame, label_ends, save, sheets

TERMS = ("compute", "memory", "interconnect")  # as `roofline.Estimate.terms` names them
Series = Mapping[int, Mapping[str, float]]  # chips -> term -> seconds of a step


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One way to grow."""

    label: str
    formula: Series
    compiled: Series


def draw(panels: Sequence[Panel], folder: Path, name: str) -> None:
    """NAME.svg and NAME.png in `folder`: panels one below another, a term by its colour."""
    with matplotlib.rc_context(RC):
        figure, found = sheets("chips", [panel.label for panel in panels])
        for axes, panel in zip(found, panels, strict=True):
            chips, ends = sorted(panel.formula), []
            seen = [of[term] for series in (panel.formula, panel.compiled) for of in series.values() for term in TERMS]
            frame(axes, chips, [s for s in seen if s > 0], x_as=lambda n: f"{n:.0f}", y_as=lambda s: f"{1000 * s:.3g}")
            axes.set_xticks(chips, [str(n) for n in chips])
            for term, colour in zip(TERMS, ALGORITHMS, strict=False):
                curve = [(n, panel.formula[n][term]) for n in chips if panel.formula[n][term] > 0]
                axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1.6)
                ends.append((*curve[-1], term, colour))
                points = [(n, of[term]) for n, of in panel.compiled.items() if of[term] > 0]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), "o", color=colour, markersize=6, markeredgecolor=PAPER, zorder=3
                    )
            label_ends(axes, ends)
            axes.tick_params(labelcolor=SOFT)
        save(figure, folder, name)
