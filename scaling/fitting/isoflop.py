"""Approach 2: the best size at each of a few budgets, then lines in logarithms (arXiv:2203.15556, section 3.2).

A parabola is not the shape of a law's valley, so a grid that is wide or off centre moves the vertex, and a centre
that drifts with the budget bends the exponent (arXiv:2603.22339): 5 to 20 % in N* is usual. It is shown beside the
fit of the whole surface as a check by eye, not in its place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval, t_quantile
from scaling.spec import Refusal

SAME_BUDGET = 0.03  # runs within this of one another in ln C have one budget
REACH = 8.0  # sizes within this factor of the best one make the parabola
BIAS = "a parabola is not the valley's true shape: N* is off by 5-20 % on wide or off-centre grids (arXiv:2603.22339)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """The runs of one budget, or losses interpolated to it, in order of N; each array is [M]."""

    flops: float
    n: Array  # parameters
    d: Array  # tokens
    loss: Array  # nats per token
    loss_se: Array  # nats per token, of the evaluation; NaN where unknown
    interpolated: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Valley:
    """A slice and its parabola: ln L = c0 + c1 v + c2 v^2 with v = ln(N / centre), around the best size."""

    slice: Slice
    centre: float  # parameters
    coefficients: tuple[float, float, float]  # c0, c1, c2
    edge: bool  # the vertex is no minimum inside the sizes tried: it does not enter the lines
    n: float  # vertex; NaN at an edge
    d: float
    loss: float  # nats per token
    log_n_se: float  # standard error of ln n; NaN where fewer than four sizes leave no residual

    def __call__(self, n: Array) -> Array:
        """The parabola's loss at N, nats per token."""
        v, (c0, c1, c2) = np.log(np.asarray(n, float) / self.centre), self.coefficients
        return np.exp(c0 + c1 * v + c2 * v**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class IsoFlop:
    """Approach 2: a valley for each budget, and lines in logarithms through those of their vertices that lie inside."""

    valleys: tuple[Valley, ...]
    level: float
    exponent_n: Interval | None  # of N*(C); None with fewer than two vertices; bounds NaN with fewer than three
    exponent_d: Interval | None  # of D*(C)
    line_n: tuple[float, float] | None  # ln N* = line_n[0] + line_n[1] ln C
    line_d: tuple[float, float] | None
    warnings: tuple[str, ...]


def slices(observations: Observations, budgets: Sequence[float] | None = None) -> list[Slice]:
    """Groups of equal compute with at least three sizes, or else losses of a grid interpolated to equal compute.

    In a grid, ln L runs straight in ln D between the measured horizons of one size, and never beyond them; budgets
    are the given ones, or 6 spread over the range in which at least three sizes take part. Runs equal in size and
    compute are averaged in ln L.

    Raises `Refusal` when no budget has three sizes.
    """
    o = observations
    measured = [] if budgets is not None else _groups(o)
    if measured:
        return measured
    # Every run of a size, from its smallest horizon to its largest.
    curves = [o.pick(np.array(o.size) == size) for size in dict.fromkeys(o.size)]
    curves = [curve for curve in map(_averaged, curves) if len(curve) > 1]
    if budgets is None:
        ends = np.unique(np.concatenate([curve.flops[[0, -1]] for curve in curves])) if curves else np.array([])
        enough = [c for c in ends if sum(v.flops[0] <= c <= v.flops[-1] for v in curves) >= 3]
        budgets = np.geomspace(enough[0], enough[-1], 6).tolist() if len(enough) > 1 else []
    found = [_cut(curves, c) for c in budgets]
    found = [piece for piece in found if len(piece.n) >= 3]
    if not found:
        raise Refusal(
            "isoflop: no budget has 3 sizes: train 3 sizes at one compute, or over horizons that overlap in compute"
        )
    return found


def isoflop(observations: Observations, budgets: Sequence[float] | None = None, *, level: float = 0.9) -> IsoFlop:
    """Vertices of the slices' parabolas, and least-squares lines of ln N* and ln D* in ln C with t intervals."""
    valleys = tuple(_valley(piece) for piece in slices(observations, budgets))
    inside = [valley for valley in valleys if not valley.edge]
    warnings = [BIAS]
    if len(inside) < len(valleys):
        left = ", ".join(f"{valley.slice.flops:.3g}" for valley in valleys if valley.edge)
        warnings.append(
            f"no minimum inside the sizes tried at C = {left}: left out of the lines; try sizes beyond the ends"
        )
    if any(valley.slice.interpolated for valley in valleys):
        warnings.append("budgets are interpolated between horizons of one size, so neighbouring vertices share runs")
    if len(inside) < 2:
        warnings.append(f"{len(inside)} budgets with a minimum: no exponent")
        return IsoFlop(
            valleys=valleys, level=level, exponent_n=None, exponent_d=None, line_n=None, line_d=None,
            warnings=tuple(warnings),
        )  # fmt: skip
    if len(inside) < 3:
        warnings.append("2 budgets with a minimum: the exponent has no interval")
    log_c = np.log([valley.slice.flops for valley in inside])
    lines = [straight(log_c, np.log([getattr(valley, name) for valley in inside]), level) for name in ("n", "d")]
    return IsoFlop(
        valleys=valleys, level=level, exponent_n=lines[0][1], exponent_d=lines[1][1], line_n=lines[0][0],
        line_d=lines[1][0], warnings=tuple(warnings),
    )  # fmt: skip


def _groups(o: Observations) -> list[Slice]:
    order = np.argsort(o.flops, kind="stable")
    first = np.log(o.flops[order])
    starts = [0]
    for i in range(1, len(order)):
        if first[i] - first[starts[-1]] > SAME_BUDGET:
            starts.append(i)
    groups = [_averaged(o.pick(np.sort(rows))) for rows in np.split(order, starts[1:])]
    wide = [group for group in groups if len(set(group.size)) >= 3]
    # A grid may hold a few chance coincidences; a design by budgets puts most runs into its slices.
    if sum(map(len, wide)) < 0.5 * sum(map(len, groups)):
        return []
    found = []
    for group in wide:
        order = np.argsort(group.n, kind="stable")
        found.append(
            Slice(
                flops=float(np.exp(np.log(group.flops).mean())),
                n=group.n[order],
                d=group.d[order],
                loss=group.loss[order],
                loss_se=group.loss_se[order],
                interpolated=False,
            )  # fmt: skip
        )
    return found


def _averaged(o: Observations) -> Observations:
    """One row for each (N, D), its loss the geometric mean of the replicates."""
    cells: dict[tuple[float, float], list[int]] = {}
    for i, cell in enumerate(zip(o.n.tolist(), o.d.tolist(), strict=True)):
        cells.setdefault(cell, []).append(i)
    rows = sorted(cells.values(), key=lambda rows: o.flops[rows[0]])
    kept = o.pick([row[0] for row in rows])
    return replace(kept, loss=np.array([np.exp(np.log(o.loss[row]).mean()) for row in rows]))


def _cut(curves: list[Observations], flops: float) -> Slice:
    rows = []
    for curve in curves:
        if curve.flops[0] * (1 - 1e-9) <= flops <= curve.flops[-1] * (1 + 1e-9):
            log_c = np.log(curve.flops)
            values = [np.exp(np.interp(math.log(flops), log_c, np.log(v))) for v in (curve.n, curve.d, curve.loss)]
            rows.append([*values, np.interp(math.log(flops), log_c, curve.loss_se)])
    n, d, loss, loss_se = np.array(sorted(rows)).T if rows else np.zeros((4, 0))
    return Slice(flops=float(flops), n=n, d=d, loss=loss, loss_se=loss_se, interpolated=True)


def _valley(piece: Slice) -> Valley:
    best = piece.n[piece.loss.argmin()]
    away = np.abs(np.log(piece.n / best))
    near = (away <= math.log(REACH) + 1e-9) | (away.argsort(kind="stable").argsort() < 4)
    sizes = piece.n[near]
    centre = float(np.exp(np.log(sizes).mean()))
    v, y = np.log(sizes / centre), np.log(piece.loss[near])
    columns = np.stack([np.ones_like(v), v, v**2], axis=1)
    c, *_ = np.linalg.lstsq(columns, y, rcond=None)
    vertex = -c[1] / (2 * c[2]) if c[2] > 0 else math.nan
    edge = not v.min() < vertex < v.max()
    se = math.nan
    if not edge and len(v) > 3:
        residual = y - columns @ c
        spread = residual @ residual / (len(v) - 3) * np.linalg.inv(columns.T @ columns)
        slope = np.array([0.0, -1 / (2 * c[2]), c[1] / (2 * c[2] ** 2)])
        se = math.sqrt(max(slope @ spread @ slope, 0.0))
    n = math.nan if edge else centre * math.exp(vertex)
    # D of the vertex from the slice's own runs.
    d = math.nan if edge else float(np.exp(np.interp(math.log(n), np.log(piece.n), np.log(piece.d))))
    loss = math.nan if edge else float(np.exp(c[0] + c[1] * vertex + c[2] * vertex**2))
    return Valley(
        slice=piece, centre=centre, coefficients=(float(c[0]), float(c[1]), float(c[2])), edge=edge, n=n, d=d,
        loss=loss, log_n_se=se,
    )  # fmt: skip


def straight(x: Array, y: Array, level: float) -> tuple[tuple[float, float], Interval]:
    """(intercept, slope) by least squares, and the slope's interval."""
    v = x - x.mean()
    slope = float(v @ y / (v @ v))
    intercept = float(y.mean() - slope * x.mean())
    if len(x) < 3:
        return (intercept, slope), Interval(value=slope, se=math.nan, low=math.nan, high=math.nan)
    residual = y - intercept - slope * x
    se = math.sqrt(residual @ residual / (len(x) - 2) / (v @ v))
    reach = t_quantile(level, len(x) - 2) * se
    return (intercept, slope), Interval(value=slope, se=se, low=slope - reach, high=slope + reach)
