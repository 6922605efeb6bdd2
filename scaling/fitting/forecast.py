"""What several laws say of runs that have not been trained, and how right they were once they have.

In sample, laws differ little; extrapolated, they differ by more than the interval of any one of them. So all are asked.

`forecast` is of one run of a study, by a rule fixed before it: its number is the geometric mean of the laws', its
interval reaches over those of all. The law that extrapolated best when the runs of most compute were left out
(`fit.hold_out`) does not do better than the mean further out, on open tables of runs (benchmarks/forecast_rules.py).

`project` answers for a compute budget, for N and D, for N or for D, by laws weighted as `tournament` weighs them. Each
law gives a number Student's t distribution about its own value: of the logarithm for N, D, C and losses. The laws
together are the mixture of these with their weights: `value` is its mean (for logarithms a geometric mean), the
interval lies between its quantiles, so it holds the spread within laws and the one between them, and is widened to
`value` where a law of little weight far away pulls that out.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaling.fitting.fitted import Fit
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import spread, t_quantile
from scaling.spec import Refusal

FAR = 10.0  # times the largest fitted compute: beyond it a forecast is called an extrapolation
TOO_FAR = 100.0  # beyond it `project` refuses unless told otherwise
OFF = 2.0  # by what factor N is off, for the regret of a budget spent at another N
BRACKET = 16.0  # |ln(D/N)| in which the compute-optimal D of an N is looked for
MEAN = "mean of the laws"  # the headline of a forecast by several
SAME_POINT = 0.01  # relative difference below which two N, or two D, are the same


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One law's forecast of the loss of one new run, nats per token."""

    law: str
    loss: float
    low: float
    high: float
    holdout_error: float | None  # mean relative error over the quarter of most compute when it is left out
    baseline_error: float | None  # the same of a line through two points


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The loss of one new run, nats per token: the mean of the laws, and the interval of all (see `forecast`)."""

    n: float  # parameters, counted as `params` says
    d: float  # training tokens
    flops: float
    params: str
    level: float  # of every interval
    headline: str  # whose number is `loss`: `MEAN`, or a law's where one alone was asked, or by an older rule chosen
    loss: float  # nats per token
    low: float  # least of the laws' intervals
    high: float  # greatest of the laws' intervals
    extrapolation: float  # flops over the largest fitted compute
    predictions: tuple[Prediction, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True)
class Score:
    """A forecast against the loss that was measured."""

    measured: float  # nats per token
    error: float  # forecast / measured - 1
    inside: bool  # the measured loss lies in the forecast's interval
    errors: dict[str, float]  # the same error of each law


def forecast(fits: Sequence[Fit], n: float, d: float, flops: float, *, level: float = 0.9) -> Forecast:
    """The loss of one new run with N = n, D = d, by each fit whose law is identified: of N and D, or of one of N, D, C.

    Fits of different laws to the same runs. The loss is the geometric mean of the laws'. Raises `Refusal` when no law
    is identified, or the fits count N in different ways.
    """
    known = [fit for fit in fits if fit.law is not None]
    conventions = {fit.params or "" for fit in fits}
    faults = [
        f"{name} = {value:g}: must be above 0"
        for name, value in (("n", n), ("d", d), ("flops", flops))
        if not value > 0
    ]
    if not known:
        faults.append(
            "no law is identified by these runs, so none can forecast: "
            + "; ".join(w for fit in fits for w in fit.warnings[:1])
        )
    if len(conventions) > 1:
        faults.append(f"the fits count N as {', '.join(sorted(conventions))}: use one")
    if faults:
        raise Refusal(faults)
    warnings, predictions = [], []
    for fit in known:
        point = _place(fit, n, d, flops)
        loss, (low, high) = float(fit.predict(*point)), fit.interval(*point, level=level)
        if not (0 < loss < math.inf and 0 <= low and high < math.inf):
            warnings.append(f"{fit.name}: left out, it has no finite answer there")
            continue
        held = fit.holdout or {}
        errors = {"holdout_error": held.get("error"), "baseline_error": held.get("baseline")}
        predictions.append(Prediction(law=fit.name, loss=loss, low=low, high=high, **errors))
    if not predictions:
        raise Refusal(warnings)
    if all(p.holdout_error is None for p in predictions):
        warnings.append("no law could be tested by leaving the largest compute out")
    if len(predictions) == 1:
        warnings.append("one law alone: the interval holds no disagreement of laws")
    warnings += [f"{fit.name}: left out, it is not identified by these runs" for fit in fits if fit.law is None]
    extrapolation = flops / max(fit.flops_max for fit in known)
    if extrapolation > FAR:
        warnings.append(f"{extrapolation:.0f} times the largest fitted compute: an extrapolation far beyond the runs")
    return Forecast(
        n=float(n), d=float(d), flops=float(flops), params=known[0].params or "", level=level,
        headline=MEAN if len(predictions) > 1 else predictions[0].law,
        loss=math.exp(math.fsum(math.log(p.loss) for p in predictions) / len(predictions)),
        low=min(p.low for p in predictions), high=max(p.high for p in predictions), extrapolation=float(extrapolation),
        predictions=tuple(predictions), warnings=tuple(warnings),
    )  # fmt: skip


def _place(fit: Fit, n: float, d: float, flops: float) -> tuple[float, ...]:
    """The run's coordinates in the fit's law: N and D, or the one variable that it is of."""
    return (n, d) if fit.x is None else ({"n": n, "d": d, "c": flops}[fit.x],)


def forecast_from_json(document: Mapping[str, Any]) -> Forecast:
    """The forecast that `Forecast.to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    predictions = tuple(Prediction(**prediction) for prediction in document["predictions"])
    said = Forecast(**{**document, "predictions": predictions, "warnings": tuple(map(str, document["warnings"]))})
    numbers = [said.n, said.d, said.flops, said.level, said.loss, said.low, said.high, said.extrapolation]
    numbers += [number for one in predictions for number in (one.loss, one.low, one.high)]
    if strange := [number for number in numbers if type(number) not in (int, float)]:
        raise ValueError(f"{strange[0]!r:.60} is no number")
    if said.headline not in [MEAN, *(one.law for one in predictions)]:
        raise ValueError(f"{said.headline!r:.60} is no law that it asked")
    return said


def score(forecast: Forecast, measured: float) -> Score:
    """How far off the forecast was. `measured` in nats per token."""
    if not measured > 0 or not math.isfinite(measured):
        raise Refusal(f"measured = {measured:g}: must be a finite number above 0")
    return Score(
        measured=float(measured),
        error=forecast.loss / measured - 1,
        inside=forecast.low <= measured <= forecast.high,
        errors={p.law: p.loss / measured - 1 for p in forecast.predictions},
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked of the laws: a budget C; or N and D; or N alone or D alone, at the C where it is optimal."""

    c: float | None = None  # FLOPs
    n: float | None = None  # parameters
    d: float | None = None  # tokens

    @property
    def given(self) -> dict[str, float]:
        return {name: value for name in ("c", "n", "d") if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number and its interval at the projection's level."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """One law's numbers, named as in `Projection.numbers`."""

    law: str
    weight: float  # among the laws that answer; the weights sum to 1
    numbers: dict[str, Number]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What the laws say together.

    Numbers: `c` FLOPs, `n` parameters, `d` tokens; those that were given have no width. `loss` is the law at N and D,
    `run` the loss of one new run there, both nats per token. Of a budget, `n` and `d` are its best split, and
    `regret_half` and `regret_double` how many nats more a run of the same compute has at half and at twice that N. Of
    N and D, `regret` is how many nats more they have than the best split of their compute. Of N or D alone, the other
    two are such that the split is best.
    """

    given: dict[str, float]
    params: str  # the column that N is
    level: float
    extrapolation: float  # C over the largest fitted compute
    headline: str  # the law of greatest weight
    numbers: dict[str, Number]
    opinions: tuple[Opinion, ...]  # greatest weight first
    warnings: tuple[str, ...]

    @property
    def far(self) -> bool:
        return self.extrapolation > FAR

    def spread(self, name: str) -> tuple[float, float]:
        """Least and greatest value of a number among the laws."""
        values = [opinion.numbers[name].value for opinion in self.opinions]
        return min(values), max(values)

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.given, "params": self.params, "level": self.level, "extrapolation": self.extrapolation,
            "far": self.far, "headline": self.headline,
            "numbers": {
                name: _number_json(number) | {"laws": list(self.spread(name))} for name, number in self.numbers.items()
            },
            "laws": [
                {
                    "law": one.law, "weight": one.weight,
                    "numbers": {name: _number_json(number) for name, number in one.numbers.items()},
                }
                for one in self.opinions
            ],
            "warnings": list(self.warnings),
        }  # fmt: skip


def project(
    fits: Sequence[Fit],
    target: Target,
    *,
    weights: Mapping[str, float] | None = None,
    level: float = 0.9,
    far: bool = False,
) -> Projection:
    """What the identified fits, of laws of N and D to the same runs, say of the target.

    `weights` are by law, as `Tournament.weights`; without them the laws weigh alike. A law that is not identified or
    has no finite answer is left out and named. Raises `Refusal` for a target that is none, where no law answers, or
    beyond `TOO_FAR` times the largest fitted compute unless `far`.
    """
    faults = _target_faults(target)
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if faults:
        raise Refusal(faults)
    known = [fit for fit in fits if fit.law is not None]
    if not known:
        raise Refusal(f"{fit.name}: is not identified by these runs: {fit.warnings[0]}" for fit in fits)
    warnings = [f"{fit.name}: left out, it is not identified by these runs" for fit in fits if fit.law is None]
    said: list[tuple[Fit, dict[str, _Belief]]] = []
    for fit in known:
        beliefs = _beliefs(fit, target, level)
        if beliefs is None:
            warnings.append(f"{fit.name}: left out, it has no optimum at {_words(target)}")
        else:
            said.append((fit, beliefs))
    if not said:
        raise Refusal(f"{_words(target)}: no law has an optimum there")
    share = np.array([(weights or {}).get(fit.name, 0.0 if weights else 1.0) for fit, _ in said])
    share = share / share.sum() if share.sum() > 0 else np.full(len(said), 1 / len(said))
    numbers = {name: _mixture([beliefs[name] for _, beliefs in said], share, level) for name in said[0][1]}
    exact = {name: Number(value=float(v), low=float(v), high=float(v)) for name, v in target.given.items()}
    numbers |= exact
    extrapolation = numbers["c"].value / said[0][0].flops_max
    if extrapolation > TOO_FAR and not far:
        raise Refusal(
            f"{_words(target)}: is {extrapolation:.4g} times the largest fitted compute; beyond {TOO_FAR:g} times "
            "these runs say too little; --far gives the numbers all the same"
        )
    if extrapolation > FAR:
        warnings.append(f"{extrapolation:.3g} times the largest fitted compute: an extrapolation far beyond the runs")
    warnings += [
        f"{fit.name}: {', '.join(fit.at_bound)} rests on the edge of its range, which adds nothing to the intervals"
        for fit, _ in said
        if fit.at_bound
    ]
    opinions = [
        Opinion(
            law=fit.name, weight=float(weight),
            numbers={name: _mixture([belief], np.ones(1), level) for name, belief in beliefs.items()}
            | exact,
        )
        for (fit, beliefs), weight in zip(said, share, strict=True)
    ]  # fmt: skip
    opinions.sort(key=lambda one: -one.weight)
    return Projection(
        given=target.given, params=said[0][0].params or "", level=level, extrapolation=extrapolation,
        headline=opinions[0].law, numbers=numbers, opinions=tuple(opinions), warnings=tuple(warnings),
    )  # fmt: skip


def projection_from_json(document: Mapping[str, Any]) -> Projection:
    """The projection that `Projection.to_json` wrote."""
    return Projection(
        given=dict(document["given"]), params=document["params"], level=document["level"],
        extrapolation=document["extrapolation"], headline=document["headline"], numbers=_numbers(document["numbers"]),
        opinions=tuple(
            Opinion(law=one["law"], weight=one["weight"], numbers=_numbers(one["numbers"])) for one in document["laws"]
        ),
        warnings=tuple(document["warnings"]),
    )  # fmt: skip


def score_run(said: Projection, measured: float) -> Score:
    """How far off the loss of a new run was. `measured` in nats per token."""
    if not measured > 0 or not math.isfinite(measured):
        raise Refusal(f"measured = {measured:g}: must be a finite number above 0")
    run = said.numbers["run"]
    return Score(
        measured=float(measured), error=run.value / measured - 1, inside=run.low <= measured <= run.high,
        errors={one.law: one.numbers["run"].value / measured - 1 for one in said.opinions},
    )  # fmt: skip


def fingerprint(observations: Observations) -> str:
    """SHA-256 of the runs that a fit sees, in any order: N, D, C, loss, its error, group, trunk, seed and size."""
    o = observations
    numbers = [column.tolist() for column in (o.n, o.d, o.flops, o.loss, o.loss_se)]
    rows = sorted(repr(row) for row in zip(*numbers, o.group, o.trunk, o.seed, o.size, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def runs_at(observations: Observations, n: float, d: float) -> Array:
    """Indices of the runs whose N and D are within 1 % of these."""
    o = observations
    return np.flatnonzero((np.abs(o.n / n - 1) < SAME_POINT) & (np.abs(o.d / d - 1) < SAME_POINT))


@dataclass(frozen=True, kw_only=True)
class _Belief:
    """Student's t about `middle` with scale `se`; of the logarithm where `log`."""

    middle: float
    se: float
    dof: float
    log: bool


def _target_faults(target: Target) -> list[str]:
    faults = [
        f"{name.upper()} = {value:g}: must be a finite number above 0"
        for name, value in target.given.items()
        if not (value > 0 and math.isfinite(value))
    ]
    if not target.given:
        faults.append("say what to forecast: a compute budget, or N and D, or one of them")
    if target.c is not None and len(target.given) > 1:
        faults.append("a compute budget decides N and D: give it alone")
    return faults


def _words(target: Target) -> str:
    return ", ".join(f"{name.upper()} = {value:.4g}" for name, value in target.given.items())


def _beliefs(fit: Fit, target: Target, level: float) -> dict[str, _Belief] | None:
    """Every number by one law; None where one of them is not finite."""
    names: list[str] = []

    def answer(law: Any) -> Array:
        found = _answers(law, target, fit.cost)
        names[:] = found
        return np.concatenate(np.broadcast_arrays(*found.values()), axis=-1)

    dofs: list[float] = []

    def dof_of(slope: Array) -> float:
        dofs.append(fit.dof if fit.uncertain is None else fit.uncertain.dof_of(slope))
        return dofs[-1]

    with np.errstate(all="ignore"):
        found = spread(
            fit.law, fit.theta, answer, covariance_z=fit.covariance, dof=dof_of, level=level, draws=fit.draws
        )
    middles, widths = np.asarray(found.value, float), np.asarray(found.se, float)
    if not (np.isfinite(middles).all() and np.isfinite(widths).all()):
        return None
    beliefs = {
        name: _Belief(middle=float(middle), se=float(se), dof=dof, log=not name.startswith("regret"))
        for name, middle, se, dof in zip(names, middles, widths, dofs or [fit.dof] * len(names), strict=True)
    }
    loss = beliefs["loss"]
    noise = fit.noise if fit.space == "log" else fit.noise / math.exp(loss.middle)
    return beliefs | {"run": _Belief(middle=loss.middle, se=math.hypot(loss.se, noise), dof=fit.dof, log=True)}


def _answers(law: Any, target: Target, cost: tuple[float, float]) -> dict[str, Array]:
    """ln of C, N, D and loss, and the regrets, each [B, 1] for a law whose fields are [B, 1]."""
    k, p = cost
    if target.c is not None:
        c = np.array([target.c])
        best = law.optimum(c, cost)
        n, d, loss = best.n, best.d, best.loss
        regrets = {
            name: law(n * factor, d / factor**p) - loss
            for name, factor in (("regret_half", 1 / OFF), ("regret_double", OFF))
        }
    else:
        n = _optimal_size(law, target.d, cost) if target.n is None else np.array([target.n])
        d = _optimal_data(law, n, cost) if target.d is None else np.array([target.d])
        c, loss, regrets = k * n**p * d, law(n, d), {}
        if target.n is not None and target.d is not None:
            regrets = {"regret": loss - law.optimum(c, cost).loss}
    whole = np.zeros_like(loss)  # what is given has no column of its own for each law of a batch
    return {name: np.log(value) + whole for name, value in (("c", c), ("n", n), ("d", d), ("loss", loss))} | regrets


def _optimal_data(law: Any, n: Array, cost: tuple[float, float]) -> Array:
    """D such that n is the best N for C = k n^p D, [B, 1]; NaN where there is none."""
    d = np.exp(_root(lambda log_d: _tilt(law, n, np.exp(log_d), cost), np.log(n) - BRACKET, np.log(n) + BRACKET, law))
    return np.where(_is_best(law, n, d, cost), d, np.nan)


def _optimal_size(law: Any, d: Any, cost: tuple[float, float]) -> Array:
    """N such that d is the best D for C = k N^p d, [B, 1]; NaN where there is none."""
    log_d = np.log(np.array([d], float))
    n = np.exp(_root(lambda log_n: _tilt(law, np.exp(log_n), d, cost), log_d - BRACKET, log_d + BRACKET, law))
    return np.where(_is_best(law, n, d, cost), n, np.nan)


def _tilt(law: Any, n: Any, d: Any, cost: tuple[float, float]) -> Array:
    """dL / d ln N along constant compute: 0 at the best split."""
    by_n, by_d = law.slopes(n, d)
    return by_n - cost[1] * by_d


def _is_best(law: Any, n: Any, d: Any, cost: tuple[float, float]) -> Array:
    """A slope of 0 may also be a greatest loss, or a least one of several."""
    k, p = cost
    return np.abs(np.log(law.optimum(k * n**p * d, cost).n / n)) < 1e-3


def _root(function: Callable[[Array], Array], low: Array, high: Array, law: Any) -> Array:
    """Where the function changes sign between low and high, by bisection; NaN where its ends have one sign."""
    shape = np.broadcast_shapes(np.shape(getattr(law, law.names[0])), np.shape(low))
    low, high = np.broadcast_to(low, shape).copy(), np.broadcast_to(high, shape).copy()
    begin, end = np.sign(function(low)), np.sign(function(high))
    for _ in range(60):
        middle = (low + high) / 2
        before = np.sign(function(middle)) == begin
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return np.where(begin * end < 0, (low + high) / 2, np.nan)


def _mixture(beliefs: Sequence[_Belief], weights: Array, level: float) -> Number:
    """Mean and central interval of the mixture; a regret, which cannot be below 0, is cut there."""
    from scipy.special import stdtr

    middle, se, dof = (np.array([getattr(b, name) for b in beliefs]) for name in ("middle", "se", "dof"))
    log, value = beliefs[0].log, float(weights @ middle)
    ends = []
    for side in (-1, 1):
        share = (1 + side * level) / 2
        each = middle + side * np.array([t_quantile(level, v) for v in dof]) * se  # the quantile lies between these
        low, high = float(each.min()), float(each.max())
        if high > low:
            scale = np.maximum(se, 1e-12 * (high - low))
            for _ in range(100):
                between = (low + high) / 2
                below = float(weights @ stdtr(np.maximum(dof, 1), (between - middle) / scale)) < share
                low, high = (between, high) if below else (low, between)
        ends.append((low + high) / 2)
    bottom, top = min(ends[0], value), max(ends[1], value)
    if log:
        return Number(value=math.exp(value), low=math.exp(max(bottom, -700)), high=math.exp(min(top, 700)))
    return Number(value=max(value, 0.0), low=max(bottom, 0.0), high=max(top, 0.0))


def _number_json(number: Number) -> dict[str, Any]:
    return {"value": number.value, "interval": [number.low, number.high]}


def _numbers(document: Mapping[str, Any]) -> dict[str, Number]:
    return {
        name: Number(value=item["value"], low=item["interval"][0], high=item["interval"][1])
        for name, item in document.items()
    }
