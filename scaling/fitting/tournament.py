"""Which law to forecast with: fitted without the runs of most compute, each law predicts them.

In sample, laws that disagree by 2 % a decade further out fit alike. So laws are judged at several cuts: runs above
Cmax / factor are left out and predicted, and a law's error is the mean over the cuts of mean |L_law / L - 1|. Weights
are w ~ exp(-((error / least error)^2 - 1) / 2): the best law's error stands for the standard deviation with which a
forecast can be known at all, so a law with twice that error weighs 0.22 of the best, one with three times 0.02. A
law that the runs kept at a cut cannot tell takes the greatest error of any law there. AICc on all runs, which says
nothing of extrapolation, only orders laws whose errors agree within `TIED`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from scaling.fitting import identify
from scaling.fitting.baseline import line_through_two
from scaling.fitting.laws import LAWS, SURFACES, Array
from scaling.fitting.observe import Observations
from scaling.fitting.robust import Estimate, at, estimate
from scaling.fitting.uncertainty import covariance, spread, t_quantile
from scaling.spec import Refusal

CUTS = (2.0, 3.0, 10.0, 30.0)  # Cmax over the largest compute kept
TIED = 0.01  # relative difference of errors below which AICc orders two laws
LEAST_OUT = 2  # runs left out at a cut
SAME = {"overtraining": "chinchilla_tied"}  # one surface in two sets of coordinates: both would count it twice
COMPETITORS = tuple(law for law in SURFACES if law not in SAME)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The runs above Cmax / factor left out, and what the laws have to beat there; errors are |predicted / L - 1|."""

    factor: float  # of Cmax
    flops: float  # largest compute kept
    kept: int  # runs
    out: int  # runs
    line: float  # mean |error| of a power law in compute through the last two points of the frontier
    nearest: float  # mean |error| of the loss of the run kept that is nearest in ln N and ln D
    disagreement: float  # mean over the runs left out of (greatest law - least law) / measured


@dataclass(frozen=True, kw_only=True)
class Round:
    """A law at one cut."""

    factor: float
    error: float  # mean |L_law / L - 1| over the runs left out
    bias: float  # mean of L_law / L - 1: above 0 it predicted too much loss
    inside: float  # share of them inside the law's interval for a new run


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One law over all cuts; errors are relative, of the runs left out."""

    law: str
    error: float  # mean over the cuts; NaN where no cut tests it
    bias: float
    inside: float  # share inside, mean over the cuts
    weight: float  # of its forecast; the weights sum to 1
    rounds: tuple[Round, ...]
    scale: float  # of ln L about the law fitted to all runs: information, no part of the weight
    aicc: float
    at_ten: float  # least loss at 10 Cmax, nats per token, by the law fitted to all runs; NaN where it has none


@dataclass(frozen=True, kw_only=True)
class Tournament:
    """Laws judged on the runs of most compute, each left out at every cut."""

    level: float  # of the intervals that `inside` counts
    runs: int
    entrants: tuple[Entrant, ...]  # best first
    cuts: tuple[Cut, ...]
    flops_max: float
    warnings: tuple[str, ...]

    @property
    def weights(self) -> dict[str, float]:
        return {entrant.law: entrant.weight for entrant in self.entrants}

    @property
    def disagreement(self) -> float:
        """(greatest - least) / least of the laws' least losses at 10 Cmax; NaN with fewer than two."""
        values = [entrant.at_ten for entrant in self.entrants if math.isfinite(entrant.at_ten)]
        return max(values) / min(values) - 1 if len(values) > 1 else math.nan

    def to_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in ("level", "runs", "flops_max", "disagreement")} | {
            "entrants": [asdict(entrant) for entrant in self.entrants], "cuts": [asdict(cut) for cut in self.cuts],
            "warnings": list(self.warnings),
        }  # fmt: skip
        return _clean(document)


def tournament(
    observations: Observations,
    laws: Sequence[str] = COMPETITORS,
    *,
    cuts: Sequence[float] = CUTS,
    level: float = 0.9,
    seed: int = 0,
) -> Tournament:
    """Laws of N and D judged on the runs of most compute.

    Cuts that leave out fewer than two runs, or too few for any law, or the same runs as another, are not held. Raises
    `Refusal` for a law that is not of N and D, one law in two sets of coordinates, a cut of at most 1, or where no
    law can be told from all runs.
    """
    o = observations.ordered()
    faults = [
        f"--law {law}: the tournament is of laws of N and D: {', '.join(SURFACES)}"
        for law in laws
        if law not in SURFACES
    ]
    faults += [
        f"--law {law}: is {SAME[law]} in other coordinates: name one of the two"
        for law in laws
        if SAME.get(law) in laws
    ]
    faults += [f"cut = {cut:g}: must be above 1, a factor below the largest compute" for cut in cuts if not cut > 1]
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if faults:
        raise Refusal(faults)
    told = {law: identify.by_design(o, law, (o.n, o.d)) for law in laws}
    known = [law for law, (unknown, _) in told.items() if not unknown]
    if not known:
        raise Refusal([f"no law can be told from these runs: {line}" for line in next(iter(told.values()))[1]])
    warnings = [f"{law}: left out, these runs cannot tell it: {told[law][1][0]}" for law in laws if law not in known]
    held: list[Cut] = []
    rounds: dict[str, list[Round | None]] = {law: [] for law in known}
    for factor in sorted(cuts):
        below = o.flops <= o.flops.max() / factor
        if (~below).sum() < LEAST_OUT or below.sum() in [cut.kept for cut in held]:
            continue
        kept, out = o.pick(below), o.pick(~below)
        found = {law: _predicted(kept, out, law, level, seed) for law in known}
        if not any(found.values()):
            continue
        every = np.array([prediction for prediction, _, _ in filter(None, found.values())])
        held.append(Cut(
            factor=float(factor), flops=float(kept.flops.max()), kept=len(kept), out=len(out),
            line=_error(line_through_two(kept.flops, kept.loss)(out.flops), out),
            nearest=_error(_nearest(kept, out), out),
            disagreement=float(np.mean(np.ptp(every, axis=0) / out.loss)),
        ))  # fmt: skip
        for law, item in found.items():
            rounds[law].append(None if item is None else _round(factor, *item, out))
    if not held:
        warnings.append("too few runs to leave the largest compute out at any cut: laws are weighed alike, untested")
    worst = [max(item.error for items in rounds.values() if (item := items[i]) is not None) for i in range(len(held))]
    entrants = [_entrant(o, law, rounds[law], worst, seed) for law in known]
    for entrant in entrants:
        if held and len(entrant.rounds) < len(held):
            missed = len(held) - len(entrant.rounds)
            warnings.append(f"{entrant.law}: {missed} of {len(held)} cuts leave too few runs to tell it")
    if held and min(e.error for e in entrants) > np.mean([cut.line for cut in held]):
        warnings.append("no law predicts the runs left out better than a line through two points")
    return Tournament(
        level=level, runs=len(o), entrants=_ranked(entrants), cuts=tuple(held), flops_max=float(o.flops.max()),
        warnings=tuple(warnings),
    )  # fmt: skip


def weigh(errors: Sequence[float]) -> list[float]:
    """Weights that sum to 1 from held-out errors; alike where there is none. A law of NaN error gets none."""
    e = np.array(errors, float)
    if not np.isfinite(e).any():
        return [1 / len(e)] * len(e)
    least = max(float(np.nanmin(e)), 1e-12)
    w = np.where(np.isfinite(e), np.exp(-(np.maximum(np.nan_to_num(e), least) ** 2 / least**2 - 1) / 2), 0.0)
    return (w / w.sum()).tolist()


def _nearest(kept: Observations, out: Observations) -> Array:
    gap = np.log(out.n[:, None] / kept.n) ** 2 + np.log(out.d[:, None] / kept.d) ** 2
    return kept.loss[gap.argmin(axis=1)]


def _error(predicted: Array, out: Observations) -> float:
    return float(np.abs(predicted / out.loss - 1).mean())


def _predicted(
    kept: Observations, out: Observations, law: str, level: float, seed: int
) -> tuple[Array, Array, Array] | None:
    """Loss, low and high [R] of the runs left out; None where the runs kept cannot tell the law."""
    x = (kept.n, kept.d)
    if identify.by_design(kept, law, x)[0]:
        return None
    form = LAWS[law].form(*x)
    found = estimate(form, x, kept.loss, seed=seed)
    predicted = at(form, found.theta)(out.n, out.d)
    if not (np.isfinite(predicted) & (predicted > 0)).all():
        return None
    free = np.array([name not in found.at_bound for name in form.names])
    noise = covariance(form, found, x, free, kept.trunk)
    law_at = replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True)))
    mean = spread(
        law_at, found.theta, lambda law: np.log(law(out.n, out.d)), covariance_z=noise.covariance, dof=noise.dof,
        level=level,
    )  # fmt: skip
    reach = t_quantile(level, noise.dof) * np.hypot(mean.se, noise.noise)
    return predicted, predicted * np.exp(-reach), predicted * np.exp(reach)


def _round(factor: float, predicted: Array, low: Array, high: Array, out: Observations) -> Round:
    return Round(
        factor=float(factor), error=_error(predicted, out), bias=float((predicted / out.loss - 1).mean()),
        inside=float(((low <= out.loss) & (out.loss <= high)).mean()),
    )  # fmt: skip


def _entrant(o: Observations, law: str, rounds: Sequence[Round | None], worst: Sequence[float], seed: int) -> Entrant:
    form = LAWS[law].form(o.n, o.d)
    found: Estimate = estimate(form, (o.n, o.d), o.loss, seed=seed)
    fitted = replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True)))
    held = [item for item in rounds if item is not None]
    at_ten = math.nan
    if hasattr(fitted, "optimum"):
        at_ten = float(fitted.optimum(10 * o.flops.max(), o.cost).loss)
    errors = [item.error if item else far for item, far in zip(rounds, worst, strict=True)]
    return Entrant(
        law=law, error=float(np.mean(errors)) if held else math.nan,
        bias=float(np.mean([item.bias for item in held])) if held else math.nan,
        inside=float(np.mean([item.inside for item in held])) if held else math.nan,
        weight=math.nan, rounds=tuple(held), scale=found.scale, aicc=_aicc(found, len(form.names)), at_ten=at_ten,
    )  # fmt: skip


def _aicc(found: Estimate, parameters: int) -> float:
    """Of normal ln L with the robust scale (Hurvich & Tsai, Biometrika 76 (1989) 297); the scale counts as one."""
    rows, k = len(found.residual), parameters + 1
    correction = 2 * k * (k + 1) / (rows - k - 1) if rows > k + 1 else math.inf
    return 2 * rows * math.log(max(found.scale, 1e-300)) + 2 * k + correction


def _ranked(entrants: Sequence[Entrant]) -> tuple[Entrant, ...]:
    weighed = [
        replace(entrant, weight=weight)
        for entrant, weight in zip(entrants, weigh([entrant.error for entrant in entrants]), strict=True)
    ]
    least = min((e.error for e in weighed if math.isfinite(e.error)), default=math.nan)

    def order(entrant: Entrant) -> tuple[float, float]:
        tied = not math.isfinite(least) or entrant.error <= least * (1 + TIED)
        return (0.0 if tied else entrant.error, entrant.aicc)

    return tuple(sorted(weighed, key=order))


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
