"""One algorithm priced in the compute of another: m(L) = C_baseline(L) / C_algorithm(L) at equal loss.

C(L) is the least compute at which any size of a group has reached L: along the horizons of one size ln L runs straight
in ln C, inside what was measured and never beyond. m = 0.5 means that the algorithm needs twice the compute of the
baseline, m = 2 half of it. A multiplier seen at small scale need not last (arXiv:2511.21622), so its slope in ln C is
given too.

C leaves out what the optimizer itself computes. Where a table has that, and it moves a multiplier, the multiplier with
it counted is given too.

Noise is that of the seed, measured from runs equal in all but the seed. Suffixes: B resamples, K horizons, G losses.
"""

import dataclasses
import math
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval, t_quantile
from scaling.spec import Refusal

LOSSES = 9  # matched losses, evenly spread in ln L over the overlap
SHARED = 0.5  # share of a run's noise variance that all horizons of its trunk have in common
OPTIMIZER_FLOPS = "optimizer_flops"  # the column of what C leaves out, over the whole run
MOVED = 0.02  # change of ln m from which on it is told
FLAT = 0.1  # half width of the slope's interval below which a multiplier is said to last: 26 % per decade of compute


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviation of ln L between runs that differ in nothing but the seed."""

    sd: float
    dof: float  # effective degrees of freedom, for Student's t
    replicates: int  # beyond the first, over all cells
    cells: int  # of equal group, size, N and D, with several seeds


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A group priced in the compute of a baseline: m(L) at G matched losses, its mean and its slope in ln C."""

    algorithm: str
    baseline: str
    level: float
    multiplier: Interval | None  # geometric mean of m over the matched losses; None without overlap
    slope: Interval | None  # d ln m / d ln C, C the baseline's compute; None without overlap
    ends: Interval | None  # m at the least and the largest of `flops`, [2], on the line of that slope; None likewise
    bound: tuple[str, float] | None  # ("<", x) or (">", x): all that is known of m without overlap
    loss: Array  # [G], matched losses, nats per token
    flops: Array  # [G], the baseline's compute at these
    by_loss: Interval | None  # m at each matched loss, [G]
    sizes: tuple[str, ...]  # of the baseline that took part
    noise: Noise | None
    verdict: str
    warnings: tuple[str, ...]
    counted: Interval | None = None  # the multiplier with the optimizer's own FLOPs in C; None where that moves nothing

    @property
    def proviso(self) -> str:
        """What becomes of the verdict's multiplier when the optimizer's own FLOPs count; empty where nothing does."""
        if (m := self.counted) is None:
            return ""
        number = f"x{m.value:.3g}" + ("" if math.isnan(m.low) else f" [{m.low:.3g}, {m.high:.3g}]")
        return f"with the optimizer's own FLOPs, which C leaves out, {number}"

    def to_json(self) -> dict[str, Any]:
        points = []
        if self.by_loss is not None:
            m = self.by_loss
            points = [
                {"loss": float(loss), "flops": float(c), **(_json(m.at(i)) or {})}
                for i, (loss, c) in enumerate(zip(self.loss, self.flops, strict=True))
            ]
        return {
            "algorithm": self.algorithm, "baseline": self.baseline, "level": self.level,
            "multiplier": _json(self.multiplier), "slope": _json(self.slope), "counted": _json(self.counted),
            "ends": None if self.ends is None else [_json(self.ends.at(i)) for i in (0, 1)],
            "bound": None if self.bound is None else {"side": self.bound[0], "value": self.bound[1]}, "by_loss": points,
            "sizes": list(self.sizes),
            "noise": None if self.noise is None else dataclasses.asdict(self.noise),
            "verdict": self.verdict, "warnings": list(self.warnings),
        }  # fmt: skip


def seed_noise(observations: Observations) -> Noise | None:
    """Pooled over cells of equal group, size, N and D with several seeds; None where there is no such cell.

    Horizons of one trunk repeat part of its noise: between two of them the sums of squares correlate as SHARED^2. The
    pooled variance of k cells with nu replicates each has the first two moments of a chi-square of
    k nu / (1 + (k - 1) SHARED^2) degrees of freedom (Satterthwaite, Biometrics Bulletin 2 (1946) 110), here with the
    replicates that two cells of a group and size have in common.
    """
    o = observations
    cells: dict[tuple[str, str, float, float], dict[str, float]] = {}
    for cell, seed, loss in zip(
        zip(o.group, o.size, o.n.tolist(), o.d.tolist(), strict=True), o.seed, o.loss, strict=True
    ):
        cells.setdefault(cell, {})[seed] = math.log(loss)
    cells = {cell: seeds for cell, seeds in cells.items() if len(seeds) > 1}
    replicates = sum(len(seeds) - 1 for seeds in cells.values())
    if not replicates:
        return None
    squares = sum(np.var(list(seeds.values())) * len(seeds) for seeds in cells.values())
    # Of the sum of squares over sd^2: the expectation is `replicates`, and this is half of the variance.
    spread = sum(
        _overlap(a.keys(), b.keys()) * (1.0 if cell == other else SHARED**2)
        for cell, a in cells.items()
        for other, b in cells.items()
        if cell[:2] == other[:2]
    )
    return Noise(
        sd=math.sqrt(squares / replicates), dof=replicates**2 / spread, replicates=replicates, cells=len(cells)
    )


def _overlap(a: Set[str], b: Set[str]) -> float:
    """tr(P_a P_b) of the projections that centre seeds a and seeds b: len(a) - 1 where they are the same."""
    both = len(a & b)
    return both - both / len(a) - both / len(b) + both**2 / (len(a) * len(b))


def compare(
    observations: Observations,
    baseline: str,
    *,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
    noise: Noise | None = None,
) -> list[Comparison]:
    """Every other group against `baseline`. The baseline takes part with the group's own sizes where it has them.

    Intervals come from `draws` redrawings of the losses under `noise`, by default that of `seed_noise`: the standard
    deviation of ln m and Student's t with the effective degrees of freedom of the noise. Without any noise
    there are no intervals, and a warning. A column `optimizer_flops` of the observations gives `counted`.
    Raises `Refusal` for an unknown baseline or a single group.
    """
    groups = sorted(set(observations.group))
    faults = []
    if baseline not in groups:
        faults.append(f"baseline {baseline!r}: there is no such group; there are {', '.join(groups)}")
    if len(groups) < 2:
        faults.append("there is one group: nothing to compare it with")
    if faults:
        raise Refusal(faults)
    noise = noise or seed_noise(observations)

    def against(o: Observations) -> list[Comparison]:
        split = {group: o.pick(np.array(o.group) == group) for group in groups}
        return [
            _compare(split[group], split[baseline], group, baseline, level, draws, seed, noise)
            for group in groups
            if group != baseline
        ]

    found, further = against(observations), observations.columns.get(OPTIMIZER_FLOPS)
    if further is None or not np.isfinite(further).all():
        return found
    whole = replace(observations, flops=observations.flops + further)
    return [_counting(one, other.multiplier) for one, other in zip(found, against(whole), strict=True)]


def _counting(found: Comparison, counted: Interval | None) -> Comparison:
    """With the multiplier that follows when the optimizer's own FLOPs are part of C, where it is another one."""
    if found.multiplier is None or counted is None or abs(math.log(counted.value / found.multiplier.value)) < MOVED:
        return found
    return replace(found, counted=counted)


def _compare(
    a: Observations, b: Observations, name: str, base: str, level: float, draws: int, seed: int, noise: Noise | None
) -> Comparison:
    warnings = []
    common = sorted(set(a.size) & set(b.size))
    if common:
        b = b.pick(np.array([size in common for size in b.size]))
    else:
        warnings.append("the two groups have no size in common: all sizes of the baseline take part")
    if noise is None:
        warnings.append("no run is repeated with another seed: the noise is unknown and there are no intervals")
    found = Comparison(
        algorithm=name, baseline=base, level=level, multiplier=None, slope=None, ends=None, bound=None,
        loss=np.zeros(0), flops=np.zeros(0), by_loss=None, sizes=tuple(dict.fromkeys(b.size)), noise=noise, verdict="",
        warnings=(),
    )  # fmt: skip
    curves_a, curves_b = _curves(a), _curves(b)
    rng = np.random.default_rng(seed)
    drawn_a, drawn_b = (_redrawn(curves, noise, draws, rng) for curves in (curves_a, curves_b))
    loss_G = _matched(drawn_a, drawn_b)
    if loss_G is None:
        bound, verdict = _bound(a, b, name, base)
        return replace(found, bound=bound, verdict=verdict, warnings=tuple(warnings))
    log_c, log_a = _compute(drawn_b, np.log(loss_G)), _compute(drawn_a, np.log(loss_G))
    log_m = log_c - log_a
    known = np.isfinite(log_m[0])
    loss_G, log_c, log_m = loss_G[known], log_c[:, known], log_m[:, known]
    if len(loss_G) < 2:
        bound, verdict = _bound(a, b, name, base)
        return replace(found, bound=bound, verdict=verdict, warnings=tuple(warnings))
    if math.log(loss_G[0] / loss_G[-1]) < 0.02:
        warnings.append("the losses of the two groups overlap by less than 2 %: the multiplier rests on little")
    v = log_c[0] - log_c[0].mean()
    slope, ends = _nan_line(v, log_m)
    told = np.isfinite(log_m)
    total, count = np.where(told, log_m, 0.0).sum(axis=1), told.sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)  # no overlap in that draw
    multiplier = _exp(_interval(mean[:, None], level, noise)).at(0)
    slope_interval = _interval(slope[:, None], level, noise).at(0)
    return replace(
        found, multiplier=multiplier, slope=slope_interval, ends=_exp(_interval(ends, level, noise)), loss=loss_G,
        flops=np.exp(log_c[0]), by_loss=_exp(_interval(log_m, level, noise)), warnings=tuple(warnings),
        verdict=_verdict(multiplier, slope_interval, name, base, np.exp(log_c[0])),
    )  # fmt: skip


Curve = tuple[Array, Array, Array]  # ln C [K] rising, ln L [K], count of replicates [K]


def _curves(o: Observations) -> list[Curve]:
    """One curve a size: replicates of a horizon are averaged in ln L."""
    curves = []
    for size in dict.fromkeys(o.size):
        rows = o.pick(np.array(o.size) == size)
        cells: dict[tuple[float, float], list[int]] = {}
        for i, cell in enumerate(zip(rows.n.tolist(), rows.d.tolist(), strict=True)):
            cells.setdefault(cell, []).append(i)
        points = sorted(
            (float(np.log(rows.flops[i]).mean()), float(np.log(rows.loss[i]).mean()), float(len(i)))
            for i in cells.values()
        )
        log_c, log_l, count = np.array(points).T
        curves.append((log_c, log_l, count))
    return curves


def _redrawn(
    curves: list[Curve], noise: Noise | None, draws: int, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """(ln C [K], ln L [1 + B, K]) of each curve: as measured first, then under noise."""
    if noise is None:
        return [(log_c, log_l[None]) for log_c, log_l, _ in curves]
    redrawn = []
    for log_c, log_l, count in curves:
        own = rng.normal(size=(draws, len(log_l))) * math.sqrt(1 - SHARED)
        shared = rng.normal(size=(draws, 1)) * math.sqrt(SHARED)
        moved = log_l + noise.sd * (own + shared) / np.sqrt(count)
        redrawn.append((log_c, np.concatenate([log_l[None], moved])))
    return redrawn


def _compute(curves: list[tuple[Array, Array]], log_loss_G: Array) -> Array:
    """ln C at which a group first reaches each loss, [1 + B, G]; NaN where no curve crosses it.

    A size that starts below a loss may have reached it with less compute than was measured, so where such a start is
    cheaper than every crossing the answer is unknown. So it is where a size that ends above a loss would reach it
    first, trained for longer, if it went on as it ended, which is more than it would do: a study that stops too early
    must not look like a worse algorithm.
    """
    best: Array | None = None
    for log_c, log_l in curves:
        falling = np.minimum.accumulate(log_l, axis=1)
        crossing = np.full((len(log_l), len(log_loss_G)), np.inf)
        for k in range(len(log_c) - 1, 0, -1):
            high, low = falling[:, k - 1, None], falling[:, k, None]
            inside = (log_loss_G <= high) & (log_loss_G >= low) & (high > low)
            share = (high - log_loss_G) / np.where(high > low, high - low, 1.0)
            crossing = np.where(inside, log_c[k - 1] + share * (log_c[k] - log_c[k - 1]), crossing)
        best = crossing if best is None else np.minimum(best, crossing)
    assert best is not None
    for log_c, log_l in curves:
        best = np.where((log_l[:, :1] < log_loss_G) & (log_c[0] < best), np.nan, best)
        best = np.where(_goes_on(log_c, log_l[0], log_loss_G) < best, np.nan, best)
    return np.where(np.isfinite(best), best, np.nan)


def _goes_on(log_c: Array, log_l: Array, log_loss_G: Array) -> Array:
    """ln C at which one size, as measured [K], would reach losses below its last, [G]; infinite for all others."""
    falling = np.minimum.accumulate(log_l)
    if len(falling) < 2 or falling[-1] >= falling[-2]:
        return np.full(len(log_loss_G), np.inf)
    slope = (falling[-1] - falling[-2]) / (log_c[-1] - log_c[-2])
    return np.where(log_loss_G < falling[-1], log_c[-1] + (log_loss_G - falling[-1]) / slope, np.inf)


def _matched(a: list[tuple[Array, Array]], b: list[tuple[Array, Array]]) -> Array | None:
    """Losses [G] that both groups have crossed, from high to low."""
    tops = [max(log_l[0].max() for _, log_l in curves) for curves in (a, b)]
    ends = [min(log_l[0].min() for _, log_l in curves) for curves in (a, b)]
    top, end = min(tops), max(ends)
    if top - end < 1e-9:
        return None
    # Dense first, then thinned to where both are known: overlap may have holes.
    grid = np.linspace(top, end, 400)
    known = np.isfinite(_compute([(c, v[:1]) for c, v in a], grid)[0]) & np.isfinite(
        _compute([(c, v[:1]) for c, v in b], grid)[0]
    )
    if known.sum() < 2:
        return None
    return np.exp(grid[known][np.linspace(0, known.sum() - 1, LOSSES).round().astype(int)])


def _bound(a: Observations, b: Observations, name: str, base: str) -> tuple[tuple[str, float] | None, str]:
    """Without a common loss, one group's cheapest run may still beat all that the other has reached."""
    if b.loss.max() <= a.loss.min():
        x = float(b.flops[b.loss.argmax()] / a.flops.max())
        words = (
            f"{base} beat all of {name} with {x:.2g} times the compute or less: the multiplier is less than x{x:.2g}"
        )
        return ("<", x), f"{name} loses to {base}; their losses do not overlap: {words}"
    if a.loss.max() <= b.loss.min():
        x = float(b.flops.max() / a.flops[a.loss.argmax()])
        return (">", x), f"{name} gains on {base}; their losses do not overlap: the multiplier is more than x{x:.2g}"
    return None, f"{name} and {base} have no matched loss inside what was measured: no multiplier can be given"


def _nan_line(v: Array, y_BxG: Array) -> tuple[Array, Array]:
    """Of least-squares lines through the finite points of each row: slopes [B], and values at the ends of v, [B, 2].

    The points at the ends are no measure of them: draws that do not reach so far leave theirs out, and what is left is
    one side of the noise.
    """
    known = np.isfinite(y_BxG)
    count = np.maximum(known.sum(axis=1), 1)
    mean_v = (v * known).sum(axis=1) / count
    centred = np.where(known, v - mean_v[:, None], 0.0)
    slope = (centred * np.where(known, y_BxG, 0.0)).sum(axis=1) / np.maximum((centred**2).sum(axis=1), 1e-300)
    mean_y = np.where(known, y_BxG, 0.0).sum(axis=1) / count
    return slope, mean_y[:, None] + slope[:, None] * (np.array([v.min(), v.max()]) - mean_v[:, None])


def _interval(every: Array, level: float, noise: Noise | None) -> Interval:
    """The first row [G], with the standard deviation of the others and Student's t for few replicates."""
    if noise is None:
        unknown = np.full(every.shape[1], np.nan)
        return Interval(value=every[0], se=unknown, low=unknown, high=unknown)
    se = np.nanstd(every[1:], axis=0, ddof=1)
    reach = t_quantile(level, noise.dof) * se
    return Interval(value=every[0], se=se, low=every[0] - reach, high=every[0] + reach)


def _exp(found: Interval) -> Interval:
    value = np.exp(found.value)
    return Interval(value=value, se=value * found.se, low=np.exp(found.low), high=np.exp(found.high))


def _verdict(m: Interval, slope: Interval, name: str, base: str, flops: Array) -> str:
    where = f"between {flops.min():.2g} and {flops.max():.2g} FLOPs"
    if math.isnan(m.low):
        return f"{name} reaches the losses of {base} with {1 / m.value:.3g} times the compute {where}; noise unknown"
    number = f"x{m.value:.3g} [{m.low:.3g}, {m.high:.3g}] {where}"
    if m.low <= 1 <= m.high:
        return f"{name} against {base}: no difference in compute is resolved at this noise, {number}"
    gains = m.value > 1
    what = f"{name} {'gains on' if gains else 'loses to'} {base}: compute multiplier {number}"
    if slope.low <= 0 <= slope.high:
        if max(-slope.low, slope.high) <= FLAT:
            return f"{what}; the {'gain' if gains else 'loss'} lasts over this range"
        return f"{what}; whether it changes with scale is not resolved"
    grows = (slope.value > 0) == gains
    return f"{what}; the {'gain' if gains else 'loss'} {'grows' if grows else 'shrinks'} with scale"


def _json(item: Interval | None) -> dict[str, Any] | None:
    if item is None:
        return None
    known = math.isfinite(item.low) and math.isfinite(item.high)
    return {
        "value": item.value,
        "se": item.se if math.isfinite(item.se) else None,
        "interval": [item.low, item.high] if known else None,
    }
