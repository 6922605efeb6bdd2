"""A valley of the loss along the learning rate: the runs of one cell, their parabola, its vertex and what surrounds it.

A cell is one model at one horizon, trained at several rates. Near the best rate ln L is a parabola in ln rate, whose
vertex is the optimum and whose curvature kappa says what an error costs: a factor f from the optimum costs the share
1 - exp(-kappa (ln f)^2) of the loss. Rates are in multiples of the rate that the study planned for the cell.

Noise is what the parabolas of a group leave over, seeds apart; the horizons of one model share trunks, and so noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scaling.fitting.fitted import interval_json
from scaling.fitting.laws import Array
from scaling.fitting.uncertainty import Interval, t_quantile

REACH = 4.0  # rates within this factor of the best make the parabola
CLIFF = 0.2  # in ln loss: a rate that is worse than the best by more is about to diverge, and on no parabola
SURE = 0.99  # level at which a valley is called lopsided

Status = Literal["resolved", "unresolved", "edge"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """The R runs of one model at one horizon of one group."""

    group: str
    model: str  # cells of equal group and model share trunks
    n: float  # parameters, non-embedding and head
    d: float  # tokens
    d_model: int
    n_layers: int
    planned: float  # the study's own learning rate
    rate: Array  # [R]
    seed: Array  # [R], whole numbers
    loss: Array  # [R], nats per token; not finite where the run diverged

    @property
    def x(self) -> Array:
        """[R], ln of the rate over the planned one."""
        return np.log(self.rate / self.planned)


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum:
    """A cell and its parabola: ln L = bottom + kappa (x - vertex)^2 with x = ln(rate / planned)."""

    cell: Cell
    status: Status
    why: str  # what keeps it from being resolved; else empty
    side: int  # where better rates may lie that were not tried: -1 below, +1 above, 0 nowhere
    best: float  # of the rates tried that of least loss; NaN where all diverged
    rates: tuple[float, ...]  # that the parabola goes through
    rate: Interval  # the best learning rate; without bounds unless it is resolved; NaN at an edge
    kappa: Interval  # (ln loss) / (ln rate)^2; NaN where three rates are not left
    loss: float  # at the optimum, nats per token, seeds averaged; NaN at an edge

    @property
    def factor(self) -> Interval:
        """The best rate over the planned one."""
        return scaled(self.rate, 1 / self.cell.planned)

    @property
    def excess(self) -> float:
        """What the planned rate costs, nats per token; NaN where the cell is not resolved.

        By the parabola, or where the planned rate is not among those it goes through, as measured: infinite where that
        rate diverged, NaN where it was not tried.
        """
        if self.status != "resolved":
            return math.nan
        c = self.cell
        if c.planned in self.rates:
            return self.loss * math.expm1(self.kappa.value * math.log(self.factor.value) ** 2)
        losses = c.loss[c.rate == c.planned]
        if not len(losses):
            return math.nan
        return float(np.exp(np.log(losses).mean())) - self.loss if np.isfinite(losses).all() else math.inf

    def curve(self, rate: Array) -> Array:
        """The parabola's loss, nats per token."""
        return self.loss * np.exp(self.kappa.value * np.log(np.asarray(rate, float) / self.rate.value) ** 2)

    def to_json(self) -> dict[str, Any]:
        c = self.cell
        return {
            "n": c.n, "d": c.d, "d_model": c.d_model, "n_layers": c.n_layers, "planned": c.planned,
            "status": self.status, "why": self.why, "side": self.side, "best_tried": number(self.best),
            "rates": list(self.rates), "optimum": interval_json(self.rate), "factor": interval_json(self.factor),
            "kappa": interval_json(self.kappa), "loss": number(self.loss), "planned_excess": number(self.excess),
            "tried": [
                {"rate": float(rate), "seed": int(seed), "loss": number(loss)}
                for rate, seed, loss in zip(c.rate, c.seed, c.loss, strict=True)
            ],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Valley:
    """A cell's least-squares parabola in u = x - centre: ln L = a_seed + b u + k u^2."""

    rows: Array  # [M], of the cell's runs
    centre: float
    inverse: Array  # [P, P], of X' X; the last two are b and k
    theta: Array  # [P]
    residual: Array  # [M]
    hat: Array  # [P, M], theta = hat y

    @property
    def dof(self) -> int:
        return len(self.rows) - len(self.theta)

    @property
    def vertex(self) -> float:
        """x; NaN where the parabola opens downwards."""
        b, k = self.theta[-2:]
        return self.centre - b / (2 * k) if k > 0 else math.nan

    @property
    def pull(self) -> Array:
        """[M], how the vertex follows each run's ln loss, to first order."""
        b, k = self.theta[-2:]
        return -self.hat[-2] / (2 * k) + b / (2 * k**2) * self.hat[-1]


def side(cell: Cell) -> int:
    """Where rates that were not tried may be better: -1 below, +1 above, 0 nowhere.

    It is the side on which the least loss, or the parabola's vertex, lies on the edge of the rates. A rate that
    diverged is worse than any other, so nothing is sought beyond it.
    """
    rates, mean = by_rate(cell)
    finite = np.flatnonzero(np.isfinite(mean))
    if not len(finite):
        return -1
    low, high, best = finite[0], finite[-1], finite[mean[finite].argmin()]
    capped = high < len(rates) - 1
    if best == low:
        return -1
    if best == high:
        return -1 if capped and len(finite) < 3 else 0 if capped else 1
    valley = valley_of(cell)
    if valley is None or not math.isfinite(valley.vertex):
        return 0
    x = np.log(rates / cell.planned)
    if valley.vertex < x[low]:
        return -1
    return 1 if valley.vertex > x[high] and not capped else 0


def by_rate(cell: Cell) -> tuple[Array, Array]:
    """The rates, rising, and the mean ln loss over seeds at each: infinite where any seed diverged."""
    rates = np.unique(cell.rate)
    with np.errstate(invalid="ignore"):
        logs = np.where(np.isfinite(cell.loss) & (cell.loss > 0), np.log(cell.loss), np.inf)
    return rates, np.array([logs[cell.rate == rate].mean() for rate in rates])


def window_of(cell: Cell) -> Array:
    """The rates that the parabola goes through: near the best and off the cliff, at least three where so many train."""
    rates, mean = by_rate(cell)
    trained = np.isfinite(mean)
    rates, mean = rates[trained], mean[trained]
    if not len(rates):
        return rates
    away = np.abs(np.log(rates / rates[mean.argmin()]))
    good = (away <= math.log(REACH) + 1e-9) & (mean - mean.min() <= CLIFF)
    if good.sum() < 3:
        good = np.lexsort((mean, np.round(away, 9))).argsort() < 3
    return rates[good]


def valley_of(cell: Cell) -> Valley | None:
    window = window_of(cell)
    if len(window) < 3:
        return None
    rows = np.flatnonzero(np.isin(cell.rate, window))
    x = cell.x[rows]
    centre = float(x.mean())
    seeds = np.unique(cell.seed[rows])
    own = (cell.seed[rows][:, None] == seeds).astype(float)
    columns = np.column_stack([own, x - centre, (x - centre) ** 2])
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        return None
    y = np.log(cell.loss[rows])
    inverse = np.linalg.inv(columns.T @ columns)
    hat = inverse @ columns.T
    theta = hat @ y
    return Valley(rows=rows, centre=centre, inverse=inverse, theta=theta, residual=y - columns @ theta, hat=hat)


def pooled(cells: Sequence[Cell], valleys: Sequence[Valley | None]) -> tuple[float, float, float]:
    """(standard deviation of ln loss, degrees of freedom, correlation between the horizons of a model).

    The pooled variance of correlated cells has the moments of a chi-square of dof^2 / sum over pairs of cells of
    rho^2 tr(M_i M_j), M the projections off the parabolas (Satterthwaite, Biometrics Bulletin 2 (1946) 110).
    """
    fitted = [(c, v) for c, v in zip(cells, valleys, strict=True) if v is not None and v.dof > 0]
    spare = sum(v.dof for _, v in fitted)
    if not spare:
        return math.nan, 0.0, 0.0
    variance = sum(float(v.residual @ v.residual) for _, v in fitted) / spare
    products = expected = doubt = 0.0
    for i, (cell, valley) in enumerate(fitted):
        for other, second in fitted[:i]:
            if cell.model != other.model:
                continue
            match = _match(cell, valley, other, second)
            products += float(valley.residual @ match @ second.residual)
            trace = float(np.trace(_projection(cell, valley) @ match @ _projection(other, second) @ match.T))
            expected, doubt = expected + variance * trace, doubt + 2 * trace
    rho = min(max(products / expected, 0.0), 0.99) if expected > 0 else 0.0
    return math.sqrt(variance), spare**2 / (spare + rho**2 * doubt), rho


def _match(a: Cell, one: Valley, b: Cell, two: Valley) -> Array:
    """[M_a, M_b], 1 where two runs have seed and rate, so the trunk, in common."""
    same = np.isclose(a.rate[one.rows][:, None], b.rate[two.rows][None, :], rtol=1e-9)
    return (same & (a.seed[one.rows][:, None] == b.seed[two.rows][None, :])).astype(float)


def _projection(cell: Cell, valley: Valley) -> Array:
    x = cell.x[valley.rows] - valley.centre
    own = (cell.seed[valley.rows][:, None] == np.unique(cell.seed[valley.rows])).astype(float)
    return np.eye(len(x)) - np.column_stack([own, x, x**2]) @ valley.hat


def optimum(cell: Cell, valley: Valley | None, noise: float, dof: float, level: float) -> Optimum:
    rates, mean = by_rate(cell)
    trained = np.isfinite(mean)
    best = float(rates[mean.argmin()]) if trained.any() else math.nan
    where = side(cell)
    nothing = Interval(value=math.nan, se=math.nan, low=math.nan, high=math.nan)
    found = Optimum(
        cell=cell, status="edge", why="", side=where, best=best, rates=tuple(window_of(cell).tolist()), rate=nothing,
        kappa=nothing, loss=math.nan,
    )  # fmt: skip
    if not trained.any():
        return replace(found, why="every rate diverged")
    if where:
        return replace(found, why=f"the optimum lies {'below' if where < 0 else 'above'} the rates tried")
    if valley is None:
        return replace(found, status="unresolved", why=f"{int(trained.sum())} rates trained: a parabola needs 3")
    k = float(valley.theta[-1])
    se = noise * math.sqrt(valley.inverse[-1, -1])
    kappa = student(k, se, dof, level)
    found = replace(found, kappa=kappa)
    low, high = np.log(rates[trained][[0, -1]] / cell.planned)
    if k > 0 and not low <= valley.vertex <= high:  # only above, with rates that diverged beyond
        return replace(found, why="the loss falls up to the last rate that trains")
    if mean.argmin() == np.flatnonzero(trained)[-1]:
        return replace(found, why="the best rate is the last one that trains")
    if not dof:
        why = "without a rate to spare the noise is unknown"
    elif not kappa.low > 0:
        why = "the loss is flat within its noise over these rates"
    else:
        why = ""
    if k <= 0:
        return replace(found, status="unresolved", why=why or "the loss is flat over these rates")
    rate = Interval(value=valley.vertex, se=math.nan, low=math.nan, high=math.nan)
    if not why:
        rate = _fieller(valley, noise, t_quantile(level, dof))
    bottom = float(valley.theta[:-2].mean() - valley.theta[-2] ** 2 / (4 * k))
    return replace(
        found, status="unresolved" if why else "resolved", why=why, rate=scaled(exp(rate), cell.planned),
        loss=math.exp(bottom),
    )  # fmt: skip


def _fieller(valley: Valley, noise: float, t: float) -> Interval:
    """The vertices -b / 2k that b + 2 k v = 0 does not contradict: bounded, for k is above zero at this t."""
    b, k = valley.theta[-2:]
    v_bb, v_bk, v_kk = t**2 * noise**2 * valley.inverse[[-2, -2, -1], [-2, -1, -1]]
    square, linear, constant = 4 * (k**2 - v_kk), 4 * (b * k - v_bk), b**2 - v_bb
    root = math.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    low, high = (-linear - root) / (2 * square), (-linear + root) / (2 * square)
    se = noise * math.sqrt(float(valley.pull @ valley.pull))
    return Interval(value=valley.vertex, se=se, low=valley.centre + low, high=valley.centre + high)


def lopsided(cells: Sequence[Cell], valleys: Sequence[Valley | None], dof: float) -> list[str]:
    """A warning where a cubic term, the same in all cells, is above its noise: how far it moves the optima."""
    projected = explained = 0.0
    fitted = [(c, v) for c, v in zip(cells, valleys, strict=True) if v is not None]
    for cell, valley in fitted:
        cube = _projection(cell, valley) @ (cell.x[valley.rows] - valley.centre) ** 3
        projected, explained = projected + float(cube @ valley.residual), explained + float(cube @ cube)
    spare = sum(valley.dof for _, valley in fitted)
    if not explained or spare < 2:
        return []
    q = projected / explained
    rest = sum(float(valley.residual @ valley.residual) for _, valley in fitted) - q * projected
    if q**2 * explained <= t_quantile(SURE, dof - 1) ** 2 * rest / (spare - 1):
        return []
    moved = []
    for cell, valley in fitted:
        u = cell.x[valley.rows] - valley.centre
        b, k = (valley.hat @ (np.log(cell.loss[valley.rows]) - q * u**3))[-2:]
        if k**2 > 3 * q * b:
            moved.append((math.sqrt(k**2 - 3 * q * b) - k) / (3 * q) + valley.centre - valley.vertex)
    if not moved:
        return []
    by = math.exp(float(np.mean(moved)))
    return [
        f"the loss rises faster {'above' if q > 0 else 'below'} the optimum than on the other side: with a cubic term "
        f"the best rates are {by:.2f} times those of the parabola; a smaller --step tells"
    ]


def curvature(
    optima: Sequence[Optimum], valleys: Sequence[Valley | None], noise: float, dof: float, level: float
) -> Interval | None:
    """The group's kappa: the mean over cells that are not at an edge, each weighted by its precision.

    Unresolved cells count too: leaving flat ones out would make the mean too large. None where it is not positive.
    """
    used = [v for one, v in zip(optima, valleys, strict=True) if v is not None and one.status != "edge"]
    if not used or not any(one.status == "resolved" for one in optima):
        return None
    weight = np.array([1 / v.inverse[-1, -1] for v in used])
    k = np.array([v.theta[-1] for v in used])
    mean = float(weight @ k / weight.sum())
    se = noise / math.sqrt(weight.sum())
    if len(used) > 1:  # cells differ by more than noise: their curvatures are not one
        scatter = math.sqrt(float(weight @ (k - mean) ** 2) / (len(used) - 1)) / noise
        if scatter > 1:
            se, dof = se * scatter, len(used) - 1
    return student(mean, se, dof, level) if mean > 0 else None


def vertices_of(
    cells: Sequence[Cell], valleys: Sequence[Valley | None], noise: float, shared: float
) -> tuple[Array, Array]:
    """The vertices [K] in ln(rate / planned) and their covariance [K, K], to first order in the noise."""
    known = [v for v in valleys if v is not None]
    covariance = np.zeros((len(known), len(known)))
    for i, (cell, valley) in enumerate(zip(cells, known, strict=True)):
        for j, (other, second) in enumerate(zip(cells, known, strict=True)):
            if i == j:
                covariance[i, j] = valley.pull @ valley.pull
            elif cell.model == other.model:
                covariance[i, j] = shared * valley.pull @ _match(cell, valley, other, second) @ second.pull
    return np.array([v.vertex for v in known]), noise**2 * covariance


def student(value: float, se: float, dof: float, level: float) -> Interval:
    reach = t_quantile(level, dof) * se if dof else math.nan
    return Interval(value=value, se=se, low=value - reach, high=value + reach)


def exp(item: Interval) -> Interval:
    """Of an interval of a logarithm; its standard error stays that of the logarithm."""
    value, low, high = (float(np.exp(np.clip(x, -700, 700))) for x in (item.value, item.low, item.high))
    return Interval(value=value, se=item.se, low=low, high=high)


def scaled(item: Interval, by: float) -> Interval:
    return Interval(value=item.value * by, se=item.se, low=item.low * by, high=item.high * by)


def number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
