"""The figures: loss against N and D, isoFLOP valleys, frontier and allocation against C, algorithms, the known floor.

Each takes the findings and gives a figure, or None where there is nothing to show. Data are always drawn; a law only
where the runs tell it, solid over the runs that it was fitted to and dashed beyond. What a reader can point at is
marked, with the runs behind it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from scaling.fitting.compare import Comparison
from scaling.fitting.isoflop import REACH
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.report import forest, repeating, words
from scaling.report.answers import compared
from scaling.report.curves import each_of, held_out, law_curve, levels, points, stacked
from scaling.report.figure import (
    ACCENT,
    ALGORITHMS,
    C_LABEL,
    D_LABEL,
    INK,
    LOSS_LABEL,
    N_LABELS,
    PAPER,
    RC,
    SOFT,
    frame,
    inline,
    label_ends,
    ordered,
    save,
    sheet,
)
from scaling.report.findings import Findings
from scaling.report.marks import Mark, Sheet, along_best, mark, of_budget, vertex


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure for a page."""

    svg: str
    marks: list[tuple[float, float, Mark]]  # see `Sheet.placed`


def draw(found: Findings, folder: Path) -> dict[str, Drawn]:
    """Make every figure that the findings allow, as NAME.svg and NAME.png in `folder`; each for a page."""
    with matplotlib.rc_context(RC):
        made = {name: figure for name, plot in PLOTS.items() if (figure := plot(found)) is not None}
    for name in PLOTS.keys() - made.keys():  # an earlier report may have had more to show
        for kind in ("svg", "png"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    return {name: Drawn(svg=save(figure, folder, name), marks=figure.placed()) for name, figure in made.items()}


def one(found: Findings, name: str, called: str) -> Drawn | None:
    """One figure for a page, in no file; ids in it begin with `called`."""
    with matplotlib.rc_context(RC):
        figure = PLOTS[name](found)
    return None if figure is None else Drawn(svg=inline(figure, called), marks=figure.placed())


def loss_against_n(found: Findings) -> Sheet | None:
    return _curves(found, "n") if found.observations is not None and found.study["analysis"]["laws"] else None


def loss_against_d(found: Findings) -> Sheet | None:
    return _curves(found, "d") if found.observations is not None and found.study["analysis"]["laws"] else None


def ladder_of_sizes(found: Findings) -> Sheet | None:
    return _ladders(found, "n")


def ladder_of_horizons(found: Findings) -> Sheet | None:
    return _ladders(found, "d")


def _ladders(found: Findings, along: Literal["n", "d"]) -> Sheet | None:
    """Loss against the one thing that grows, a colour for each group, the law drawn to ten times its largest rung."""
    shown = [ladder for ladder in found.ladders if ladder.x == along]
    if not shown:
        return None
    figure, axes = sheet(N_LABELS[shown[0].observations.params] if along == "n" else D_LABEL, LOSS_LABEL)
    group_of = {planned["id"]: planned["group"] for planned in found.study["plan"]}
    ends, heights, everywhere = [], [], []
    for i, ladder in enumerate(shown):
        o, colour = ladder.observations, ALGORITHMS[i % len(ALGORITHMS)]
        x = o.variable(along)
        points(axes, x, o, np.arange(len(o)), colour, ladder.law)
        held = [one for one in found.registered if group_of[one.run_id] == ladder.group]
        at = [one.forecast.n if along == "n" else one.forecast.d for one in held]
        line = np.geomspace(x.min(), max([10 * x.max(), *at]), 60)
        end = (float(x.max()), float(o.loss[x.argmax()]))
        heights += [*o.loss]
        if ladder.law is not None:
            band = ladder.law.band(line)
            law_curve(axes, line, band, colour, until=ladder.top)
            end = (float(line[-1]), float(band.value[-1]))
            heights += [band.value[-1], band.low[-1]]
        ends.append((*end, ladder.group, colour))
        for place, one in zip(at, held, strict=True):
            heights += held_out(axes, place, one)
        everywhere += [line[0], line[-1]]
    frame(axes, everywhere, heights)
    label_ends(axes, ends)
    return figure


def _curves(found: Findings, along: Literal["n", "d"]) -> Sheet:
    """Loss along N with a curve for each D, or along D with a curve for each N."""
    o, fit = found.observations, found.headline
    assert o is not None
    turn = 1 if along == "n" else -1
    x, other = (o.n, o.d)[::turn]
    held = [(*(one.forecast.n, one.forecast.d)[::turn], one) for one in found.registered]
    figure, axes = sheet(N_LABELS[o.params] if along == "n" else D_LABEL, LOSS_LABEL)
    distinct, nearest = levels(other)
    line = np.geomspace(x.min(), max([x.max(), *(at for at, _, _ in held)]), 60)
    ends, heights = [], [*o.loss]
    for i, (value, colour) in enumerate(zip(distinct, ordered(len(distinct)), strict=True)):
        mine = np.flatnonzero(nearest == i)
        points(axes, x, o, mine, colour)
        last = mine[x[mine].argmax()]
        end = (x[last], o.loss[last])
        if fit is not None:
            same = np.full(len(line), value)
            band = fit.band(line, same) if along == "n" else fit.band(same, line)
            law_curve(axes, line, band, colour, until=float(x.max()))
            end = (line[-1], band.value[-1])
            heights += [band.value[0], band.value[-1]]
        ends.append((*end, f"{'D' if along == 'n' else 'N'} = {words.short(value)}", colour))
    for at, at_other, one in held:
        alone = f", {'D' if along == 'n' else 'N'} = {words.short(at_other)}"
        where = alone if len(held) == 1 else ""  # of several each says it on being pointed at
        heights += held_out(axes, at, one, where)
    frame(axes, line, heights)
    label_ends(axes, ends)
    return figure


def isoflop(found: Findings) -> Sheet | None:
    if found.isoflop is None or found.observations is None:
        return None
    figure, axes = sheet(N_LABELS[found.observations.params], LOSS_LABEL)
    valleys = found.isoflop.valleys
    everywhere, heights, ends = [], [], []
    for valley, colour in zip(valleys, ordered(len(valleys)), strict=True):
        piece = valley.slice
        best = piece.n[piece.loss.argmin()]
        near = piece.n[np.abs(np.log(piece.n / best)) <= math.log(REACH) + 1e-9]
        line = np.geomspace(near.min(), near.max(), 40)
        axes.plot(line, valley(line), color=colour, linewidth=1.2, linestyle=(0, (3, 2)) if valley.edge else "-")
        filled = PAPER if piece.interpolated else colour
        axes.plot(
            piece.n, piece.loss, "o", markersize=4, markerfacecolor=filled, markeredgecolor=colour, markeredgewidth=1.1,
            zorder=3,
        )  # fmt: skip
        of_budget(axes, found.observations, valley)
        if not valley.edge:
            axes.plot([valley.n], [valley.loss], "X", color=ACCENT, markersize=6.5, markeredgecolor=PAPER, zorder=4)
        everywhere += [*piece.n]
        heights += [*piece.loss]
        ends.append((float(line[-1]), float(valley(line[-1:])[0]), words.power(piece.flops), colour))
    frame(axes, everywhere, heights)
    label_ends(axes, ends)
    return figure


def frontier(found: Findings) -> Sheet | None:
    """Every run's loss against its compute, and the least loss that the law gives for that compute."""
    o, fit = found.observations, found.headline
    if o is None:
        return None
    figure, axes = sheet(C_LABEL, LOSS_LABEL, right=0.87)
    sizes, nearest = levels(o.n)
    ends = []
    for i, colour in enumerate(ordered(len(sizes))):
        mine = np.flatnonzero(nearest == i)
        points(axes, o.flops, o, mine, colour)
        first = mine[o.flops[mine].argmin()]
        if i in (0, len(sizes) - 1):
            axes.annotate(
                f"N = {words.short(sizes[i])}", (o.flops[first], o.loss[first]), xytext=(5, 5),
                textcoords="offset points", color=SOFT, fontsize=8,
            )  # fmt: skip
    heights = [*o.loss, 1.03 * o.loss.max()]
    line = _budgets(found, o)
    if fit is not None:
        best = [fit.optimum_intervals(c) for c in line]
        band = stacked([each["loss"] for each in best])
        law_curve(axes, line, band, ACCENT, until=fit.flops_max)
        along_best(axes, o, fit, line, best, "loss")
        known = np.flatnonzero(np.isfinite(band.value))
        if len(known):
            ends.append((float(line[known[-1]]), float(band.value[known[-1]]), "L*(C)", ACCENT))
            heights += [*band.value[known]]
    _vertices(axes, found, "loss")
    for one in found.registered:
        heights += held_out(axes, one.forecast.flops, one)
    frame(axes, line, heights, x_as=words.power)
    label_ends(axes, ends)
    return figure


def allocation(found: Findings) -> Sheet | None:
    """The best N and D against compute, by the law and by approach 2."""
    o, fit = found.observations, found.headline
    if o is None or (fit is None and (found.isoflop is None or all(v.edge for v in found.isoflop.valleys))):
        return None
    figure, axes = sheet(C_LABEL, "best N, parameters, and D, tokens", right=0.79)
    line = _budgets(found, o)
    everywhere, ends = [], []
    best = [fit.optimum_intervals(c) for c in line] if fit is not None else []
    for name, colour in (("n", ACCENT), ("d", ALGORITHMS[2])):
        if fit is not None:
            band = stacked([each[name] for each in best])
            law_curve(axes, line, band, colour, until=fit.flops_max)
            along_best(axes, o, fit, line, best, name)
            known = np.flatnonzero(np.isfinite(band.value))
            if len(known):
                exponent = fit.optimum_intervals(fit.flops_max)[f"exponent_{name}"].value
                text = f"{name.upper()}* ∝ C^{exponent:.2f}"
                ends.append((float(line[known[-1]]), float(band.value[known[-1]]), text, colour))
                # A band of decades would leave no room for the rest.
                everywhere += [*np.fmax(band.low, band.value / 5)[known], *np.fmin(band.high, band.value * 5)[known]]
        everywhere += _vertices(axes, found, name, colour)
    frame(axes, line, everywhere, x_as=words.power, y_as=words.short)
    label_ends(axes, ends)
    return figure


def _budgets(found: Findings, o: Observations) -> Array:
    """Compute from the least run to the largest, a held-out one included."""
    top = max([o.flops.max(), *(one.forecast.flops for one in found.registered)])
    return np.geomspace(o.flops.min(), top, 24)


def _vertices(axes: Axes, found: Findings, name: str, colour: str = ACCENT) -> list[float]:
    """The vertices of the isoFLOP parabolas, which approach 2 draws its line through."""
    inside = [valley for valley in (found.isoflop.valleys if found.isoflop else ()) if not valley.edge]
    values = [getattr(valley, name) for valley in inside]
    axes.plot(
        [valley.slice.flops for valley in inside], values, "X", color=colour, markersize=6.5, markeredgecolor=PAPER,
        zorder=4,
    )  # fmt: skip
    for valley, value in zip(inside, values, strict=True):
        assert found.observations is not None  # what the valleys are of
        vertex(axes, found.observations, valley, valley.slice.flops, value)
    return values


def algorithms(found: Findings) -> Sheet | None:
    """Each algorithm as a multiplier of the baseline's compute at equal loss."""
    return _multipliers(found, found.comparisons, "algorithms", "compute multiplier")


def other_data(found: Findings) -> Sheet | None:
    """What a token of other data is worth, at equal loss and size."""
    return _multipliers(found, found.data, "data", "tokens of the baseline that one is worth")


def in_rows(shown: Sequence[Comparison]) -> bool:
    """Whether there are too many to tell their curves apart."""
    return len(shown) > len(ALGORITHMS)


def _multipliers(found: Findings, comparisons: Sequence[Comparison], field: str, label: str) -> Sheet | None:
    """Along compute where the curves can be told apart, else a row each."""
    shown = [c for c in comparisons if c.multiplier is not None or c.bound is not None]
    if not shown:
        return None
    if in_rows(shown):
        return forest.multipliers(found, shown, found.study["analysis"][field], label)
    baselines = {c.baseline for c in shown}
    baseline = shown[0].baseline if len(baselines) == 1 else "the baseline"
    figure, axes = sheet(f"{C_LABEL}, of {baseline} at the same loss", label, right=0.75)
    measured = [c for c in shown if c.by_loss is not None]
    o = found.observations
    assert o is not None  # the baseline is what the laws are fitted to
    everywhere = np.concatenate([c.flops for c in measured]) if measured else o.flops
    low, high = float(everywhere.min()), float(everywhere.max())
    heights, ends = [1.0], []
    axes.plot([low, high], [1, 1], color=INK, linewidth=1.1, zorder=2)
    for c, colour in zip(shown, ALGORITHMS, strict=False):
        if c.by_loss is not None and c.multiplier is not None:
            order = np.argsort(c.flops)
            x, m = c.flops[order], each_of(lambda name, c=c, order=order: getattr(c.by_loss, name)[order])
            law_curve(axes, x, m, colour, until=float(x.max()))
            axes.plot(x, m.value, "o", color=colour, markersize=4, markeredgecolor=PAPER, markeredgewidth=0.6, zorder=3)
            for j, loss in enumerate(c.loss[order]):
                facts = [("multiplier", words.multiple(m.at(j))), ("at loss", f"{loss:.4f}"), ("C", words.power(x[j]))]
                mark(axes, x[j], m.value[j], f"{c.algorithm} against {c.baseline}", facts, compared(found, c))
            heights += [v for v in (*m.value, *m.low, *m.high) if math.isfinite(v)]
            ends.append((float(x[-1]), float(m.value[-1]), f"{c.algorithm}\n×{c.multiplier.value:.2g}", colour))
        elif c.bound is not None:
            side, value = c.bound
            toward = value * (0.72 if side == "<" else 1 / 0.72)
            axes.plot([low, high], [value, value], color=colour, linewidth=1.3, zorder=2)
            for x in np.geomspace(low, high, 5)[1:-1]:
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (x, toward), xytext=(x, value), arrowprops=arrow, zorder=2)
            heights += [value, toward]
            facts = [("multiplier", f"{'below' if side == '<' else 'above'} ×{value:.2g}")]
            mark(axes, math.sqrt(low * high), value, f"{c.algorithm} against {c.baseline}", facts, compared(found, c))
            ends.append((high, value, f"{c.algorithm}\n{side} ×{value:.2g}", colour))
    ends.append((high, 1.0, baseline, INK))
    frame(axes, [low, high], heights, x_as=words.power)
    label_ends(axes, ends, gap=21)
    return figure


def known_entropy(found: Findings) -> Sheet | None:
    """The law on a source of known entropy: does its floor lie where it must?"""
    floor = found.floor
    if floor is None:
        return None
    o, fit, fitted = floor.observations, floor.fit, floor.fitted
    figure, axes = sheet(D_LABEL, LOSS_LABEL)
    sizes, nearest = levels(o.n)
    line = np.geomspace(o.d.min(), o.d.max(), 60)
    heights, ends = [*o.loss, floor.entropy], []
    for i, (value, colour) in enumerate(zip(sizes, ordered(len(sizes)), strict=True)):
        mine = np.flatnonzero(nearest == i)
        points(axes, o.d, o, mine, colour, fit)
        last = mine[o.d[mine].argmax()]
        end = (o.d[last], o.loss[last])
        if fit.law is not None:
            band = fit.band(np.full(len(line), value), line)
            law_curve(axes, line, band, colour, until=float(o.d.max()))
            end = (line[-1], band.value[-1])
        ends.append((*end, f"N = {words.short(value)}", colour))
    ends_of_d = line[[0, -1]]
    axes.plot(ends_of_d, [floor.entropy] * 2, color=INK, linewidth=1.1, zorder=2)
    ends.append((line[-1], floor.entropy, "entropy", INK))
    if fitted is not None:
        if math.isfinite(fitted.low) and math.isfinite(fitted.high):
            axes.fill_between(ends_of_d, fitted.low, fitted.high, color=ACCENT, alpha=0.14, linewidth=0, zorder=0)
            heights += [max(fitted.low, 0.8 * floor.entropy), fitted.high]
        axes.plot(ends_of_d, [fitted.value] * 2, color=ACCENT, linewidth=1.1, linestyle=(0, (3, 2)), zorder=2)
        ends.append((line[-1], fitted.value, "fitted E", ACCENT))
        heights.append(fitted.value)
    frame(axes, line, heights)
    label_ends(axes, ends)
    return figure


PLOTS: dict[str, Callable[[Findings], Sheet | None]] = {
    "loss_against_n": loss_against_n,
    "loss_against_d": loss_against_d,
    "ladder_of_sizes": ladder_of_sizes,
    "ladder_of_horizons": ladder_of_horizons,
    "other_data": other_data,
    "repeated": repeating.repeated,
    "isoflop": isoflop,
    "frontier": frontier,
    "allocation": allocation,
    "exponents": forest.exponents,
    "algorithms": algorithms,
    "known_entropy": known_entropy,
}
