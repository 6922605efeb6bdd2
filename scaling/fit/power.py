"""A law in one variable, L(x) = E + A x^-alpha, with intervals: L(N) at ample data, L(D), L(C) on a frontier."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.fit.laws import LAWS, Array
from scaling.fit.robust import estimate
from scaling.fit.uncertainty import Interval, covariance, spread
from scaling.spec import Refusal


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerFit:
    law: Any  # PowerLaw or PowerNoFloor
    runs: int
    level: float
    covariance: Array  # [P, P] of z, see `robust.jacobian`
    dof: int
    scale: float  # standard deviation of a residual of ln L
    at_bound: tuple[str, ...]  # parameters on the edge of their range; they get no interval

    @property
    def theta(self) -> Array:
        return np.array([getattr(self.law, name) for name in self.law.names])

    def band(self, x: ArrayLike, level: float | None = None) -> Interval:
        """The law at x [K] with the interval of its mean, nats per token."""
        values = np.asarray(x, float)
        return self._spread(lambda law: law(values), level, log=True)

    def estimates(self, level: float | None = None) -> dict[str, Interval]:
        """E, A and alpha; NaN for what rests on a bound or is fixed."""
        found = {}
        for i, name in enumerate(self.law.names):
            item = self._spread(lambda law, name=name: getattr(law, name), level, log=name in self.law.positive)
            fixed = name in self.at_bound or self.covariance[i, i] == 0
            low, high = (math.nan, math.nan) if fixed else (float(item.low[0]), float(item.high[0]))
            se = math.nan if fixed else float(item.se[0])
            found[name] = Interval(
                value=float(item.value[0]), se=se, low=max(low, 0.0) if name == "E" else low, high=high
            )
        return found

    def _spread(self, function: Any, level: float | None, log: bool) -> Interval:
        return spread(
            self.law,
            self.theta,
            function,
            covariance_z=self.covariance,
            dof=self.dof,
            level=level or self.level,
            log=log,
        )


def fit_power(x: ArrayLike, loss: ArrayLike, *, floor: bool = True, level: float = 0.9) -> PowerFit:
    """Fit R losses [R], nats per token, at x [R]; `floor` False is the law without E.

    Raises `Refusal` for fewer distinct x than parameters: then no curve can be told.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    order = np.lexsort((loss, x))
    x, loss = x[order], loss[order]
    needed = 3 if floor else 2
    if len(np.unique(x)) < needed:
        raise Refusal(
            f"{len(np.unique(x))} distinct values: a power law {'with a floor ' * floor}needs at least {needed}"
        )
    form = LAWS["power" if floor else "power_no_floor"].form()
    found = estimate(form, (x,), loss)
    free = np.array([name not in found.at_bound for name in form.names])
    noise = covariance(form, found, (x,), free, [str(i) for i in range(len(x))])
    return PowerFit(
        law=replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True))), runs=len(x), level=level,
        covariance=noise.covariance, dof=noise.dof, scale=found.scale, at_bound=found.at_bound,
    )  # fmt: skip
