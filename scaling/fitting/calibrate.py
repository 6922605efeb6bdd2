"""How often the intervals of a fit hold the truth at its very design, measured on simulated studies.

Each study has the runs of the table, at the same N and D, sharing what those share; its losses are the fitted law and
noise with the fit's own components, the run's part drawn from the runs' residuals, rejected ones included. All is
estimated anew: law, scale, components, intervals. A level that the intervals miss here they miss on the table too, if
the law is right: what a wrong law adds is not seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaling.fitting.fit import variables
from scaling.fitting.fitted import Fit
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.robust import Estimate, Objective, at, m_scale
from scaling.fitting.solve import shared_by, solve
from scaling.fitting.uncertainty import Spread, covariance, sources_of_noise, spread
from scaling.spec import Refusal

REACH = (1.0, 10.0, 100.0)  # of the largest compute of the runs
FEWEST = 20  # studies


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of one quantity; standard errors are those of so many studies."""

    studies: int  # those that gave it an interval
    coverage: float  # share whose nominal interval held the truth
    coverage_se: float
    factor: float  # by which the interval's half width must be multiplied to hold it as often as it says
    factor_se: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often nominal intervals at `level` held the truth over simulated studies of the same design."""

    level: float
    studies: int
    unidentified: int  # studies whose runs could not tell the law: they have no intervals
    quantities: dict[str, Coverage]

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level, "studies": self.studies, "unidentified": self.unidentified,
            "quantities": {name: vars(item) for name, item in self.quantities.items()},
        }  # fmt: skip


def calibrate(
    observations: Observations,
    fit: Fit,
    *,
    studies: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Coverage of the delta intervals of `fit`, which must be of these observations, and by how much to widen them.

    Quantities are the law's parameters and, for a law with an allocation, n, d and loss of the optimum at 1, 10 and
    100 times the largest compute: "n x10". `progress` is called with the studies done and all of them.

    Raises `Refusal` where the law is unidentified or was read from JSON, and for fewer than 20 studies.
    """
    if studies < FEWEST:
        raise Refusal(f"calibrate: {studies} studies: a coverage needs at least {FEWEST}, and 200 to be worth reading")
    if fit.law is None:
        raise Refusal(f"calibrate: law {fit.name} is unidentified: there are no intervals to calibrate")
    if fit.residuals is None or fit.weights is None:
        raise Refusal(f"calibrate: law {fit.name} was read from JSON, which keeps no residuals; fit the runs again")
    o, law = observations.ordered(), fit.law
    x = variables(o, fit.name, fit.x)
    objective = Objective(
        kind="mm" if fit.estimator == "surface" else "huber", space=fit.space,
        delta=fit.delta if fit.delta is not None else Objective.delta,
    )  # fmt: skip
    shared = shared_by(o, law.response)
    found = Estimate(
        theta=fit.theta, residual=fit.residuals, weight=fit.weights, scale=fit.scale, objective=fit.objective,
        at_bound=fit.at_bound, minimised=objective,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    middle = law(*x)
    noise = simulated_noise(law, found, x, shared, studies, rng)
    functions = quantities(fit)
    truth = {name: float(function(at(law, fit.theta[None])).ravel()[0]) for name, (function, _) in functions.items()}
    ratios: dict[str, list[float]] = {name: [] for name in functions}
    unidentified = 0
    for study, e in enumerate(noise):
        y = middle * np.exp(e) if fit.space == "log" else middle + e
        if (y > 0).all() and (again := _again(law, x, y, objective, shared)) is not None:
            theta, uncertain, bound = again
            for name, (function, log) in functions.items():
                if name not in bound:
                    ratios[name].append(_ratio(law, theta, uncertain, function, truth[name], log, fit.level))
        else:
            unidentified += 1
        if progress is not None:
            progress(study + 1, studies)
    found_for = {name: _coverage(np.array(values), fit.level) for name, values in ratios.items() if len(values) > 1}
    return Calibration(level=fit.level, studies=studies, unidentified=unidentified, quantities=found_for)


def simulated_noise(
    law: Any, found: Estimate, x: tuple[Array, ...], shared: dict[str, Any], studies: int,
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    """Residuals [studies, R] with the components of an estimate's own, a run's part drawn from its residuals."""
    free = np.array([name not in found.at_bound for name in law.names])
    noise = sources_of_noise(law, found, x, free, **shared)
    own = (found.residual - noise.predict(found.residual)) / noise.spread
    own = own / m_scale(own[None], len(own))[0]
    total = float(noise.variance.sum())
    clean = covariance(law, found, x, free, **shared).noise
    noise = replace(noise, variance=noise.variance * clean**2 / max(total, 1e-300))
    sign = rng.choice([-1.0, 1.0], size=(studies, len(own)))
    return noise.draw(rng, sign * rng.choice(own, size=(studies, len(own))))


def quantities(fit: Fit) -> dict[str, tuple[Callable[[Any], Array], bool]]:
    """{name: (function of a law whose fields are [B, 1], whether its interval is of the logarithm)}."""
    law = fit.law
    assert law is not None
    found: dict[str, tuple[Callable[[Any], Array], bool]] = {
        name: (lambda one, name=name: getattr(one, name), name in law.positive)
        for name in law.names
        if name not in fit.at_bound
    }
    if hasattr(law, "optimum") and math.isfinite(fit.flops_max):
        for reach in REACH:
            c = np.array([reach * fit.flops_max])
            for name in ("n", "d", "loss"):
                found[f"{name} x{reach:g}"] = (
                    lambda one, name=name, c=c: getattr(one.optimum(c, fit.cost), name),
                    True,
                )
    return found


def _again(
    law: Any, x: tuple[Array, ...], y: Array, objective: Objective, shared: dict[str, Any]
) -> tuple[Array, Spread, tuple[str, ...]] | None:
    """Parameters, their spread and those at a bound, of one study; None where its runs cannot tell the law."""
    solved = solve(law, x, y, objective=objective, shared=shared)
    if solved.unidentified or solved.uncertain is None:
        return None
    return solved.found.theta, solved.uncertain, solved.found.at_bound


def _ratio(
    law: Any, theta: Array, uncertain: Spread, function: Callable[[Any], Array], truth: float, log: bool, level: float
) -> float:
    """|error| in half widths of the interval."""
    item = spread(
        law, theta, function, covariance_z=uncertain.covariance, dof=uncertain.dof_of, level=level, log=log
    ).at(0)  # fmt: skip
    if log:
        return abs(math.log(item.value / truth)) / max(math.log(item.high / item.value), 1e-300)
    return abs(item.value - truth) / max(item.high - item.value, 1e-300)


def _coverage(ratio: Array, level: float) -> Coverage:
    share = float(np.mean(ratio <= 1))
    drawn = np.random.default_rng(0).choice(ratio, size=(400, len(ratio)))
    return Coverage(
        studies=len(ratio),
        coverage=share,
        coverage_se=math.sqrt(max(share * (1 - share), 0.5 / len(ratio)) / len(ratio)),
        factor=float(np.quantile(ratio, level)),
        factor_se=float(np.quantile(drawn, level, axis=1).std()),
    )
