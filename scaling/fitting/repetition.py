"""What a repeated token is worth at equal loss, whatever the law of N and D.

At one size a run of U different tokens, read e times, has the loss of D' fresh ones: it is worth w = D' / U passes. The
law of repeated data (arXiv:2305.16264, eq. 5) says w = 1 + R_D (1 - exp(-(e - 1) / R_D)). Its R_D is found for each
curve, a size and a U; what is told is the mean of 1 / R_D over the curves, with the noise between seeds, drawn anew for
every run, fresh ones too. Curves differ by more than that, for larger models learn few tokens by heart sooner: their
ends are told beside it. Suffixes: R runs, K curves, B draws, G rates tried.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.compare import Noise
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval, t_quantile
from scaling.spec import Refusal

LEAST_CURVES, LEAST_RUNS = 3, 2  # of each curve
# 1 / R_D that are tried: below 0 noise makes a repetition worth more than the first pass
RATES = np.concatenate([np.linspace(-0.2, 0, 80, endpoint=False), np.linspace(0, 0.5, 200), np.geomspace(0.505, 5, 80)])

Curve = tuple[str, float]  # size, and the logarithm of U to one digit


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeating:
    """Curves of repeated tokens, beside fresh ones of the same size."""

    size: tuple[str, ...]  # of each run, [R]
    unique: Array  # [R], different tokens
    epochs: Array  # [R], how often they were read
    worth: Array  # [R], passes of fresh tokens with the same loss; NaN where no fresh run has it
    rates: Mapping[Curve, float]  # 1 / R_D
    rate: Interval  # their mean

    @property
    def half_life(self) -> Interval | None:
        """After how many repetitions one more is worth half of the first pass: R_D ln 2; None where no loss of worth is
        resolved."""
        if not self.rate.low > 0:
            return None
        value, low, high = (math.log(2) / rate for rate in (self.rate.value, self.rate.high, self.rate.low))
        return Interval(value=value, se=value * self.rate.se / self.rate.value, low=low, high=high)

    def passes(self, epochs: float) -> float:
        """What so many passes are worth, in fresh ones, at the mean rate."""
        return float(_worth(np.array(self.rate.value), np.array(epochs)))

    def to_json(self) -> dict[str, Any]:
        rate = {"value": self.rate.value, "se": self.rate.se, "interval": [self.rate.low, self.rate.high]}
        runs = zip(self.size, self.unique.tolist(), self.epochs.tolist(), self.worth.tolist(), strict=True)
        return {
            "rate": rate,
            "rates": [{"size": size, "unique": math.exp(u), "rate": one} for (size, u), one in self.rates.items()],
            "runs": [
                {"size": size, "unique": u, "epochs": e, "worth": w if math.isfinite(w) else None}
                for size, u, e, w in runs
            ],
        }


def repeating(
    observations: Observations, group: str, *, level: float, noise: Noise | None = None, draws: int = 200, seed: int = 0
) -> Repeating:
    """The runs of `group` beside the others, which are fresh and joined by monotone cubics (Fritsch & Carlson 1980).

    Without `noise` there is no interval. Raises `Refusal` where fewer than three curves are told."""
    o = observations
    again = np.array(o.group) == group
    passes = o.d / o.unique
    rows = np.flatnonzero(again & (passes > 1 + 1e-9))
    fresh = {size: np.flatnonzero(~again & (np.array(o.size) == size)) for size in dict.fromkeys(o.size)}
    curves: dict[Curve, list[int]] = {}  # places in `rows`
    for place, row in enumerate(rows):
        curves.setdefault((o.size[row], round(math.log(o.unique[row]), 1)), []).append(place)

    def worth(logs: Array) -> Array:
        of_size = {size: _tokens(o.d[mine], logs[mine]) for size, mine in fresh.items()}
        same = [of_size[o.size[row]](logs[row]) for row in rows]
        return np.exp(np.array(same)) / o.unique[rows]

    def rates(worth_R: Array) -> Array:
        return np.array([_rate(passes[rows][mine], worth_R[mine]) for mine in curves.values()])

    logs = np.log(o.loss)
    found = worth(logs)
    every = rates(found)
    told = np.isfinite(every)
    if told.sum() < LEAST_CURVES:
        raise Refusal(
            f"{group}: {told.sum()} curves of {LEAST_RUNS} or more repeated runs, one size and one number of different "
            f"tokens each, have losses between those of fresh runs of that size; {LEAST_CURVES} are needed"
        )
    mean, se, half = float(every[told].mean()), math.nan, math.inf
    if noise is not None:
        rng = np.random.default_rng(seed)
        drawn = [np.nanmean(rates(worth(logs + noise.sd * rng.normal(size=len(logs))))[told]) for _ in range(draws)]
        se = float(np.nanstd(drawn))
        half = t_quantile(level, noise.dof) * se
    return Repeating(
        size=tuple(o.size[row] for row in rows), unique=o.unique[rows], epochs=passes[rows], worth=found,
        rates={key: float(one) for key, one in zip(curves, every, strict=True) if math.isfinite(one)},
        rate=Interval(value=mean, se=se, low=mean - half, high=mean + half),
    )  # fmt: skip


def _tokens(d: Array, logs: Array) -> Any:
    """ln D as a function of ln L by fresh runs of one size; NaN beyond them. Seeds of a horizon are averaged."""
    from scipy.interpolate import PchipInterpolator

    horizons = np.unique(d)
    mean = np.array([logs[d == each].mean() for each in horizons])
    better = np.flatnonzero(np.diff(np.minimum.accumulate(mean), prepend=np.inf) < 0)  # than all shorter runs
    if len(better) < 2:
        return lambda _: math.nan
    join = PchipInterpolator(-mean[better], np.log(horizons[better]), extrapolate=False)
    return lambda log_loss: float(join(-log_loss))


def _worth(rate: Array, epochs: Array) -> Array:
    """Passes of fresh tokens that `epochs` passes are worth where R_D is 1 / rate."""
    again = epochs - 1
    safe = np.where(np.abs(rate) < 1e-9, 1e-9, rate)
    return 1 - np.expm1(-safe * again) / safe


def _rate(epochs: Array, worth: Array) -> float:
    """1 / R_D with the least squares of ln w, between the rates tried; NaN where too few runs are told."""
    known = np.isfinite(worth)
    if known.sum() < LEAST_RUNS:
        return math.nan
    model_GxR = np.log(np.maximum(_worth(RATES[:, None], epochs[known]), 1e-9))
    missed = ((model_GxR - np.log(worth[known])) ** 2).sum(axis=1)
    best = int(missed.argmin())
    if best in (0, len(RATES) - 1):
        return float(RATES[best])
    (x0, x1, x2), (y0, y1, y2) = RATES[best - 1 : best + 2], missed[best - 1 : best + 2]
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    return float(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)) if left != right else float(x1)
