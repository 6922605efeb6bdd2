"""From runs to parameters with their spread, in the steps that every study of a law goes through.

Estimate, ask the Jacobian, estimate again by generalised least squares where runs share noise, spread, ask the noise.
`fit` does it once; `calibrate` and `benchmarks/coverage.py` do it for each simulated study.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting import identify
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.robust import Estimate, Objective, estimate
from scaling.fitting.uncertainty import Spread, covariance, generalised, t_quantile

LEVEL = 0.9  # of the interval by which an exponent is called open


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """What R runs say of a law's parameters."""

    least: Estimate  # the least of the objective
    found: Estimate  # the same, or by generalised least squares where runs share noise
    free: Array  # [P], False for parameters on a bound
    condition: float  # of the Jacobian, see `identify.by_jacobian`
    uncertain: Spread | None  # None where the Jacobian cannot tell the parameters
    unidentified: tuple[str, ...]
    why: tuple[str, ...]


def shared_by(o: Observations, response: str = "loss") -> dict[str, Any]:
    """What runs may share the noise of, as `covariance` takes it."""
    found: dict[str, Any] = {"trunk": o.trunk, "size": o.size, "seed": o.seed}
    return found | ({"loss_se": o.loss_se} if response == "loss" else {})


def solve(
    form: Any,
    x: tuple[Array, ...],
    y: Array,
    *,
    objective: Objective,
    shared: dict[str, Any],
    seed: int = 0,
) -> Solution:
    """Parameters of a law on R runs at x, each [R], of responses y [R]; `shared` is that of `shared_by`."""
    least = estimate(form, x, y, objective=objective, seed=seed)
    free = np.array([name not in least.at_bound for name in form.names])
    condition, (blurred, why) = identify.by_jacobian(form, least, x, free)
    if blurred:
        return Solution(
            least=least, found=least, free=free, condition=condition, uncertain=None, unidentified=blurred, why=why
        )
    found, noise = generalised(form, least, x, y, free, **shared)
    uncertain = covariance(form, found, x, free, noise=noise, **shared)
    reach = np.array([t_quantile(LEVEL, uncertain.dof_of(row)) for row in np.eye(len(free))])
    vague, why = identify.by_noise(form, uncertain.covariance, reach)
    return Solution(
        least=least, found=found, free=free, condition=condition, uncertain=uncertain, unidentified=vague, why=why
    )
