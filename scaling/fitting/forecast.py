"""What several laws say of one run that has not been trained, and how right they were once it has.

In sample, laws differ little; extrapolated, they differ by more than the interval of any one of them. So a forecast
asks all, takes its number from the law that extrapolated best when the runs of most compute were left out (a rule
fixed before the run; `fit.hold_out`), and its interval from all of them together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaling.fitting.fitted import Fit
from scaling.spec import Refusal

FAR = 10.0  # times the largest fitted compute: beyond it a forecast is called an extrapolation


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
    n: float  # parameters, counted as `params` says
    d: float  # training tokens
    flops: float
    params: str
    level: float  # of every interval
    headline: str  # the law whose number is `loss`
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
    """The loss of one new run with N = n, D = d, by each fit whose law is identified.

    Fits of different laws to the same runs. The headline law has the least held-out error; where no law has one, it
    is the first. Raises `Refusal` when no law is identified, or the fits count N in different ways.
    """
    known = [fit for fit in fits if fit.law is not None]
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
    if len(conventions := {fit.params for fit in fits}) > 1:
        faults.append(f"the fits count N as {', '.join(sorted(conventions))}: use one")
    if faults:
        raise Refusal(faults)
    predictions = []
    for fit in known:
        low, high = fit.interval(n, d, level=level)
        held = fit.holdout or {}
        predictions.append(
            Prediction(
                law=fit.name,
                loss=float(fit.predict(n, d)),
                low=low,
                high=high,
                holdout_error=held.get("error"),
                baseline_error=held.get("baseline"),
            )  # fmt: skip
        )
    tested = [p for p in predictions if p.holdout_error is not None]
    best = min(tested, key=lambda p: p.holdout_error or 0.0) if tested else predictions[0]
    warnings = []
    if not tested:
        warnings.append("no law could be tested by leaving the largest compute out: the headline is the first law's")
    warnings += [f"{fit.name}: left out, it is not identified by these runs" for fit in fits if fit.law is None]
    extrapolation = flops / max(fit.flops_max for fit in known)
    if extrapolation > FAR:
        warnings.append(f"{extrapolation:.0f} times the largest fitted compute: an extrapolation far beyond the runs")
    return Forecast(
        n=float(n), d=float(d), flops=float(flops), params=known[0].params, level=level,
        headline=best.law, loss=best.loss,
        low=min(p.low for p in predictions), high=max(p.high for p in predictions), extrapolation=float(extrapolation),
        predictions=tuple(predictions), warnings=tuple(warnings),
    )  # fmt: skip


def forecast_from_json(document: Mapping[str, Any]) -> Forecast:
    """The forecast that `Forecast.to_json` wrote."""
    predictions = tuple(Prediction(**prediction) for prediction in document["predictions"])
    return Forecast(**{**document, "predictions": predictions, "warnings": tuple(document["warnings"])})


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
