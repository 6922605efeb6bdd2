"""A law fitted to runs, with what is known about its parameters; and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws import LAWS, Array, Law, Optimum
from scaling.fitting.uncertainty import Interval, Spread, spread, t_quantile
from scaling.spec import Refusal

Status = Literal["converged", "at_bound", "unidentified"]
Estimator = Literal["surface", "huber"]
Space = Literal["log", "raw"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A law, estimated. `law` is None when the runs leave parameters unknown.

    x below are the law's variables in order, N and D for a surface; y is its response, the loss in nats per token
    unless the law says otherwise.
    """

    name: str  # a key of LAWS
    law: Law | None
    params: str | None  # the column that N is; None for a law without N
    x: str | None = None  # the column that x is, for a law of any variable
    estimator: Estimator = "surface"
    space: Space = "log"  # residuals of ln y, or of y
    delta: float | None = None  # of the huber estimator, in units of its residuals
    status: Status
    runs: int
    dropped: dict[str, int]  # rows of the table that were left out, by reason
    level: float  # of every interval below, unless asked otherwise
    cost: tuple[float, float]  # (k, p): FLOPs per token = k N^p
    flops_max: float  # largest compute of a fitted run; NaN for a law without N and D
    unidentified: tuple[str, ...] = ()  # parameters that the runs cannot tell; they get no number
    at_bound: tuple[str, ...] = ()  # parameters that rest on the edge of their range; they get no standard error
    uncertain: Spread | None = None  # of the parameters; None where there is no law
    draws: Array | None = None  # [B, P], parameters refitted to resampled runs
    scale: float = math.nan  # standard deviation of a clean residual of ln y (or of y)
    objective: float = math.nan  # what the estimator minimises: a sum over the runs
    residuals: Array | None = None  # [R], ln y_law - ln y_measured (or y); None when read from JSON
    weights: Array | None = None  # [R], 1 where a run counts fully, 0 where it is rejected; None when read from JSON
    partial: dict[str, Interval] = field(
        default_factory=dict
    )  # unidentified: the parameters that are known all the same
    holdout: dict[str, float] | None = None  # see `fit.hold_out`
    design: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def covariance(self) -> Array:
        """[P, P] of z, see `robust.jacobian`."""
        return np.zeros((0, 0)) if self.uncertain is None else self.uncertain.covariance

    @property
    def dof(self) -> float:
        """Degrees of freedom of Student's t, the least over the parameters; see `uncertainty.Spread`."""
        return 0 if self.uncertain is None else self.uncertain.dof

    @property
    def correlation(self) -> float:
        """Of residuals within a trunk."""
        return 0.0 if self.uncertain is None else self.uncertain.correlation

    @property
    def noise(self) -> float:
        """Standard deviation of one new run about the law, of ln y (of y in space "raw")."""
        return math.nan if self.uncertain is None else self.uncertain.noise

    @property
    def components(self) -> dict[str, float]:
        """Of the noise: standard deviations by source."""
        return {} if self.uncertain is None else self.uncertain.components

    @property
    def theta(self) -> Array:
        """Parameters [P] in the order of `law.names`."""
        law = self._known()
        return np.array([getattr(law, name) for name in law.names], float)

    def predict(self, *x: ArrayLike) -> Any:
        """The law at x, N parameters and D tokens for a surface: nats per token, in the broadcast shape of x.

        Raises `Refusal` when the law is unidentified.
        """
        return self._known()(*x)

    def interval(self, *x: float, level: float | None = None) -> tuple[float, float]:
        """Where one new run at x will lie, in the response's units: the law's own spread and that of a single run."""
        level = level or self.level
        y = self._known()(*(np.array([float(value)]) for value in x))
        noise = self.noise if self.space == "log" else self.noise / float(y[0])
        found = self._spread(lambda law: np.log(law(*(np.array([float(value)]) for value in x))), level)
        reach = t_quantile(level, self.dof)
        if self.draws is None:
            width = reach * math.hypot(float(found.se[0]), noise)
            low, high = -width, width
        else:  # percentiles and the run's own noise, added in quadrature on either side
            low = -math.hypot(float(found.value[0] - found.low[0]), reach * noise)
            high = math.hypot(float(found.high[0] - found.value[0]), reach * noise)
        middle = float(found.value[0])
        return math.exp(middle + low), math.exp(middle + high)

    def band(self, *x: ArrayLike, level: float | None = None) -> Interval:
        """The law itself at x, each [K]: the interval of the mean, without the noise of a run."""
        points = [values.ravel() for values in np.broadcast_arrays(*(np.asarray(v, float) for v in x))]
        return self._spread(lambda law: law(*points), level or self.level, log=True)

    def gain(self, before: tuple[float, ...], after: tuple[float, ...], level: float | None = None) -> Interval:
        """How much lower the law lies at x = `after` than at `before`, nats per token: their errors are shared."""
        points = [np.array(values, float) for values in zip(before, after, strict=True)]

        def drop(law: Any) -> Array:
            loss = law(*points)
            return loss[..., :1] - loss[..., 1:]

        return self._spread(drop, level or self.level).at(0)

    def optimum(self, flops: ArrayLike, *, unique: float | None = None) -> Optimum:
        """The allocation with the least loss at `flops`, under the runs' own cost C = k N^p D.

        `unique` is how many different tokens there are, for a law of repeated data alone. Fields have the shape of
        `flops`. Raises `Refusal` for a law without an allocation of N and D.
        """
        return self._allocate(unique)(self._known(), flops)

    def optimum_intervals(
        self, flops: float, level: float | None = None, *, unique: float | None = None
    ) -> dict[str, Interval]:
        """Intervals of n, d, loss, exponent_n and exponent_d at `flops`; those of n, d and loss are of logarithms.

        A law of repeated data has no exponents. Raises as `optimum` does.
        """
        allocate = self._allocate(unique)
        level, c = level or self.level, np.array([float(flops)])

        def allocation(law: Any) -> Array:
            best = allocate(law, c)
            return np.concatenate([best.n, best.d, best.loss], axis=-1)

        def slopes(law: Any) -> Array:
            return np.concatenate(np.broadcast_arrays(*law.exponents(c, self.cost)), axis=-1)

        sizes = self._spread(allocation, level, log=True)
        found = {name: sizes.at(i) for i, name in enumerate(("n", "d", "loss"))}
        if unique is None:
            exponents = self._spread(slopes, level)
            found |= {name: exponents.at(i) for i, name in enumerate(("exponent_n", "exponent_d"))}
        return found

    def estimates(self, level: float | None = None) -> dict[str, Interval]:
        """Each identified parameter; where it rests on a bound, standard error and interval are NaN."""
        if self.law is None:
            return self.partial
        found = {}
        for name in self.law.names:
            log = name in self.law.positive
            item = self._spread(lambda law, name=name: getattr(law, name), level or self.level, log=log).at(0)
            if name in self.at_bound:
                item = Interval(value=item.value, se=math.nan, low=math.nan, high=math.nan)
            elif name == "E":
                item = Interval(value=item.value, se=item.se, low=max(item.low, 0.0), high=item.high)
            found[name] = item
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything but residuals as JSON values; the keys are those of `scaling fit --json`."""
        law, optimum = self.law, None
        if hasattr(law, "optimum"):
            found = self.optimum_intervals(self.flops_max)
            optimum = {name: interval_json(found[name]) for name in ("exponent_n", "exponent_d")} | {
                "at": [self._at_json(c) for c in (self.flops_max, 10 * self.flops_max)]
            }
        constants = {} if law is None else {k: v for k, v in vars(law).items() if k not in law.names}
        return {
            "law": self.name, "params": self.params, "x": self.x, "estimator": self.estimator,
            "loss_space": self.space, "delta": self.delta, "runs": self.runs, "dropped": self.dropped,
            "status": self.status, "level": self.level,
            "estimates": {name: interval_json(item) for name, item in self.estimates().items()},
            "unidentified": list(self.unidentified), "at_bound": list(self.at_bound), "constants": constants,
            "objective": _number(self.objective), "scale": _number(self.scale), "noise": _number(self.noise),
            "components": self.components, "dof": self.dof,
            "correlation": self.correlation, "covariance": self.covariance.tolist(),
            "sources": None if self.uncertain is None else {
                "spare": self.uncertain.spare, "parts": self.uncertain.parts.tolist(),
                "variances": self.uncertain.variances.tolist(),
            },
            "draws": None if self.draws is None else self.draws.tolist(),
            "cost": {"k": self.cost[0], "p": self.cost[1]}, "flops_max": _number(self.flops_max),
            "optimum": optimum, "holdout": self.holdout, "design": {k: _number(v) for k, v in self.design.items()},
            "warnings": list(self.warnings),
        }  # fmt: skip

    def _at_json(self, flops: float) -> dict[str, Any]:
        found = self.optimum_intervals(flops)
        values = {name: _number(found[name].value) for name in ("n", "d", "loss")}
        return {
            "flops": flops,
            **values,
            "intervals": {name: interval_json(found[name])["interval"] for name in values},
        }

    def _known(self) -> Law:
        if self.law is None:
            raise Refusal(
                f"law {self.name}: {', '.join(self.unidentified)} cannot be told from these runs; {self.warnings[0]}"
            )
        return self.law

    def _allocate(self, unique: float | None) -> Callable[[Any, ArrayLike], Optimum]:
        law = self._known()
        if hasattr(law, "allocation"):
            if unique is None or not unique > 0:
                raise Refusal(f"law {self.name}: unique = {unique}: say how many different tokens there are, above 0")
            return lambda law, flops: law.allocation(flops, self.cost, unique)
        if unique is not None:
            raise Refusal(f"unique = {unique:g}: law {self.name} knows of no repeated data; data_constrained does")
        if not hasattr(law, "optimum"):
            raise Refusal(f"law {self.name}: says nothing of how to divide compute between N and D; chinchilla does")
        return lambda law, flops: law.optimum(flops, self.cost)

    def _spread(self, function: Any, level: float, log: bool = False) -> Interval:
        law = self._known()
        assert self.uncertain is not None
        return spread(
            law, self.theta, function, covariance_z=self.covariance, dof=self.uncertain.dof_of, level=level, log=log,
            draws=self.draws,
        )  # fmt: skip


def fit_from_json(document: Mapping[str, Any]) -> Fit:
    """The fit that `Fit.to_json` wrote; residuals and weights are not kept."""
    estimates = {name: _interval_from(item) for name, item in document["estimates"].items()}
    law = None
    if document["status"] != "unidentified":
        law = LAWS[document["law"]](**{name: item.value for name, item in estimates.items()}, **document["constants"])
    uncertain = None
    if document["sources"] is not None:
        uncertain = Spread(
            covariance=np.array(document["covariance"], float), correlation=document["correlation"],
            noise=_float(document["noise"]), dof=document["dof"], spare=document["sources"]["spare"],
            components=dict(document["components"]), parts=np.array(document["sources"]["parts"], float),
            variances=np.array(document["sources"]["variances"], float),
        )  # fmt: skip
    return Fit(
        name=document["law"], law=law, params=document["params"], x=document["x"], estimator=document["estimator"],
        space=document["loss_space"], delta=document["delta"],
        status=document["status"], runs=document["runs"],
        dropped=dict(document["dropped"]), level=document["level"], cost=(document["cost"]["k"], document["cost"]["p"]),
        flops_max=_float(document["flops_max"]), unidentified=tuple(document["unidentified"]),
        at_bound=tuple(document["at_bound"]), uncertain=uncertain,
        draws=None if document["draws"] is None else np.array(document["draws"], float),
        scale=_float(document["scale"]), objective=_float(document["objective"]),
        partial={} if law else estimates, holdout=document["holdout"],
        design={k: _float(v) for k, v in document["design"].items()}, warnings=tuple(document["warnings"]),
    )  # fmt: skip


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def interval_json(item: Interval) -> dict[str, Any]:
    """{value, se, interval}; null for what is not finite."""
    bounds = [_number(item.low), _number(item.high)]
    return {"value": _number(item.value), "se": _number(item.se), "interval": None if None in bounds else bounds}


def _interval_from(item: Mapping[str, Any]) -> Interval:
    low, high = item["interval"] or (math.nan, math.nan)
    return Interval(value=_float(item["value"]), se=_float(item["se"]), low=low, high=high)
