"""Intervals of a parameter from the profile of what was minimised, for those whose delta interval is not to be trusted.

E and the exponents trade against each other along a bent valley, so that their likelihood falls off more slowly on one
side. With the parameter held at a value, the others are estimated anew; the rise of the objective says how badly the
value fits. The rise that ends the interval is t^2 / 2 for noise that every run has to itself (Bates & Watts, Nonlinear
Regression Analysis (1988), section 6.1); for any noise it is set by the covariance: near the estimate it gives
the delta interval. So it holds for noise that runs share, for a robust objective and for any scale of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.robust import Estimate, _cut, _rho, at, polish, positive
from scaling.fitting.uncertainty import Interval, t_quantile

POINTS = 24  # of the profile on either side
FARTHEST = 40.0  # standard errors: an end beyond is open
FARTHEST_FACTOR = 1e6  # the same for a positive parameter


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """A parameter's interval, and the curve it is read from."""

    name: str
    interval: Interval  # an end that was not reached is the edge of the parameter's range, or -inf or inf
    open_low: bool  # no value down to there is refuted
    open_high: bool
    values: Array  # [G], of the parameter, increasing
    signed_root: Array  # [G], of twice the rise in units of the covariance: comparable with Student's t
    theta: Array  # [G, P], the law estimated with the parameter held there

    @property
    def words(self) -> str:
        """What is open about the interval, or an empty string."""
        sides = [
            f"{side} than {value:.3g}"
            for side, value, is_open in (
                ("smaller", self.values[0], self.open_low),
                ("larger", self.values[-1], self.open_high),
            )
            if is_open
        ]
        return f"{self.name}: the runs do not refute values {' or '.join(sides)}" if sides else ""


def profile(
    form: Any,
    estimate: Estimate,
    x: tuple[Array, ...],
    y: Array,
    name: str,
    *,
    covariance_z: Array,
    level: float,
    dof: float,
    free: Array | None = None,
) -> Profile:
    """The interval of parameter `name` at `level`, by the profile of the objective on R runs at x of responses y [R].

    `covariance_z` [P, P] (see `uncertainty.covariance`) and `dof` are those of the delta interval that the profile
    agrees with where the objective is a parabola. The scale of an MM-estimate is kept. `free` [P] tells which
    parameters were estimated. Raises `ValueError` for a parameter that was not, or that is none of the law's.
    """
    free = np.ones(len(form.names), bool) if free is None else np.asarray(free)
    if name not in form.names or not free[form.names.index(name)]:
        raise ValueError(f"{name}: is no parameter that was estimated; there are {', '.join(form.names)}")
    index, log = form.names.index(name), bool(positive(form)[form.names.index(name)])
    centre = float(np.log(estimate.theta[index]) if log else estimate.theta[index])
    se = math.sqrt(max(float(covariance_z[index, index]), 0.0))
    low, high = form.bounds.get(name, (0.0 if log else -np.inf, np.inf))
    with np.errstate(divide="ignore"):
        low, high = (float(np.log(low)), float(np.log(high))) if log else (float(low), float(high))
    others = free.copy()
    others[index] = False
    least = _sum(form, estimate.theta[None], x, y, estimate)[0]

    def held(z: Array, starts: Array) -> tuple[Array, Array]:
        """Laws [B, P] with the parameter at z [B], the others estimated from starts [B, P]; what they rise."""
        theta = starts.copy()
        theta[:, index] = np.exp(z) if log else z
        theta = polish(
            form, theta, x, y, objective=estimate.minimised, scale=estimate.scale, spread=estimate.spread, free=others,
            iterations=100,
        )  # fmt: skip
        return theta, np.maximum(_sum(form, theta, x, y, estimate) - least, 0.0)

    if se == 0 or not math.isfinite(se):
        raise ValueError(f"{name}: has no standard error; its profile has no unit")
    unit = _unit(held, estimate.theta, centre, se, low, high)
    reach = t_quantile(level, dof)
    ends, curves = [], []
    for sign, edge in ((-1.0, low), (1.0, high)):
        farthest = min(FARTHEST * se, math.log(FARTHEST_FACTOR) if log else math.inf)
        limit = abs(edge - centre) if math.isfinite(edge) else math.inf
        end, curve = _walk(held, estimate.theta, centre, sign, se, reach, unit, min(farthest, limit))
        if end is None:
            end = edge if limit <= farthest else sign * math.inf
            ends.append((end, True))
        else:
            ends.append((end, False))
        curves.append(curve)
    (below, open_low), (above, open_high) = ends
    z = np.concatenate([curves[0][0][::-1], [centre], curves[1][0]])
    root = np.concatenate([-curves[0][1][::-1], [0.0], curves[1][1]])
    theta = np.concatenate([curves[0][2][::-1], estimate.theta[None], curves[1][2]])

    def back(value: float) -> float:
        return math.exp(min(value, 700.0)) if log and math.isfinite(value) else (0.0 if log and value < 0 else value)

    interval = Interval(
        value=float(estimate.theta[index]),
        se=se * (float(estimate.theta[index]) if log else 1.0),
        low=back(below),
        high=back(above),
    )
    return Profile(
        name=name, interval=interval, open_low=open_low, open_high=open_high, values=np.exp(z) if log else z,
        signed_root=root, theta=theta,
    )  # fmt: skip


def _unit(held: Any, theta: Array, centre: float, se: float, low: float, high: float) -> float:
    """Twice the rise at one standard error, as a parabola through steps on both sides has it."""
    step = se / 2
    z = np.array([value for value in (centre - step, centre + step) if low < value < high])
    if not len(z):
        raise ValueError("the parameter rests on the edge of its range")
    rise = held(z, np.tile(theta, (len(z), 1)))[1]
    return max(float(2 * rise.mean() / 0.25), 1e-300)


def _walk(
    held: Any, theta: Array, centre: float, sign: float, se: float, reach: float, unit: float, limit: float
) -> tuple[float | None, tuple[Array, Array, Array]]:
    """Steps to one side until the root of the rise is `reach`, then bisection: the end in z, and the curve walked.

    None where `limit` is met first. Each law starts from the one before, so that the valley's bend is followed.
    """
    away, roots, laws = [0.0], [0.0], [theta]
    step = reach * se / 4
    for _ in range(POINTS * 2):
        distance = min(away[-1] + step, limit)
        found, rise = held(np.array([centre + sign * distance]), laws[-1][None])
        root = math.sqrt(2 * float(rise[0]) / unit)
        if root > reach * 1.25 and distance - away[-1] > reach * se / 64:
            step /= 3
            continue
        away.append(distance)
        roots.append(root)
        laws.append(found[0])
        if root >= reach or distance >= limit:
            break
        if root - roots[-2] < reach / 8:
            step *= 1.6
    end = None
    if roots[-1] >= reach:
        low, high, start = away[-2], away[-1], laws[-2]
        low_root, high_root = roots[-2], roots[-1]
        for _ in range(20):
            share = (reach - low_root) / max(high_root - low_root, 1e-300)
            middle = low + (high - low) * min(max(share, 0.02), 0.98)
            found, rise = held(np.array([centre + sign * middle]), start[None])
            root = math.sqrt(2 * float(rise[0]) / unit)
            if root >= reach:
                high, high_root = middle, root
            else:
                low, low_root, start = middle, root, found[0]
            if abs(root - reach) < 1e-5 * reach or high - low < 1e-7 * se:
                break
        end = centre + sign * middle
    curve = tuple(np.array(part[1:]) for part in (away, roots, laws))
    return end, (centre + sign * curve[0], curve[1], curve[2])


def _sum(form: Any, theta: Array, x: tuple[Array, ...], y: Array, estimate: Estimate) -> Array:
    """The objective [B] of laws [B, P]."""
    law = at(form, theta)(*x)
    residual = np.log(law) - np.log(y) if estimate.minimised.space == "log" else law - y
    divisor = estimate.scale if estimate.minimised.kind == "mm" else 1.0
    width = divisor if estimate.spread is None else divisor * np.asarray(estimate.spread)
    return np.sum(_rho(residual / width, _cut(estimate.minimised)), axis=-1)
