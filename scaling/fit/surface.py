"""The whole fit of a law L(N, D): can these runs tell it, what is it, how sure is it, and does it extrapolate?"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from scaling.fit.fitted import Fit
from scaling.fit.laws import LAWS, Array
from scaling.fit.observe import Observations
from scaling.fit.power import fit_power
from scaling.fit.robust import Estimate, at, estimate, jacobian
from scaling.fit.uncertainty import covariance, resample, t_quantile
from scaling.spec import Refusal

LEAST_DISTINCT = 3  # sizes, and horizons: fewer do not show the curvature that separates a floor from a power
LEAST_TURN = 1.5  # range of D about its own power of N; below it runs lie on a ray D = k N^q
WORST_CONDITION = 1e6  # of the Jacobian with unit columns; usual designs have 1e2 to 1e4, a ray 1e9
LEAST_EFFECT = 1e-7  # on ln L over all runs, of a parameter that is there at all
VAGUE = 10.0  # an exponent known within this factor or worse is not known
PARTNERS = {"alpha": "A", "beta": "B", "alpha_n": "Nc", "alpha_d": "Dc"}  # exponent: the coefficient of its term
REJECTED = 0.01  # a run of less weight than this is named


def fit(
    observations: Observations, law: str = "chinchilla", *, level: float = 0.9, bootstrap: int = 0, seed: int = 0
) -> Fit:
    """Estimate a law of `LAWS`; intervals hold at `level`, by the delta method or from `bootstrap` resamples of trunks.

    The verdict is the fit's `status`: `unidentified` names parameters that the design cannot tell. Raises `Refusal`
    for an unknown law, a level or bootstrap out of range, or fewer than three runs.
    """
    faults = []
    if law not in LAWS:
        faults.append(f"--law {law}: there is no such law; there are {', '.join(LAWS)}")
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if bootstrap < 0 or bootstrap == 1:
        faults.append(f"--bootstrap {bootstrap}: must be 0 (delta method) or at least 2 resamples")
    if len(observations) < 3:
        faults.append(f"{len(observations)} runs: nothing can be estimated from fewer than 3")
    if faults:
        raise Refusal(faults)

    o = _ordered(observations)
    base: dict[str, Any] = {
        "name": law, "params": o.params, "runs": len(o), "dropped": o.dropped, "level": level, "cost": o.cost,
        "flops_max": float(o.flops.max()),
    }  # fmt: skip
    design = _spans(o)
    unknown, why = _untold(o, law)
    if unknown:
        return Fit(
            **base, law=None, status="unidentified", unidentified=unknown, partial=_told(o, law, unknown, level),
            design=design, warnings=(*why, *o.warnings),
        )  # fmt: skip

    x, form = (o.n, o.d), LAWS[law].form(o.n, o.d)
    found = estimate(form, x, o.loss, seed=seed)
    free = np.array([name not in found.at_bound for name in form.names])
    design["condition"], blurred, words = _condition(form, found, x, free)
    if blurred:
        return Fit(
            **base, law=None, status="unidentified", unidentified=blurred, design=design, warnings=(words, *o.warnings)
        )

    noise = covariance(form, found, x, free, o.trunk)
    draws = resample(form, found, x, o.loss, free, o.trunk, bootstrap, seed) if bootstrap else None
    result = Fit(
        **base,
        law=replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True))),
        status="at_bound" if found.at_bound else "converged",
        at_bound=found.at_bound,
        covariance=noise.covariance,
        draws=draws,
        dof=noise.dof,
        correlation=noise.correlation,
        noise=noise.noise,
        scale=found.scale,
        objective=found.objective,
        residuals=found.residual,
        weights=found.weight,
        holdout=hold_out(o, law, seed=seed),
        design=design,
    )
    vague = _vague(result)
    if vague:
        words = (
            f"the noise leaves {', '.join(vague)} open by more than a factor of {VAGUE:g}; "
            "runs at other ratios D/N, or less noise, would tell them"
        )
        known = {name: item for name, item in result.estimates().items() if name not in vague}
        return replace(
            result, law=None, status="unidentified", unidentified=vague, partial=known, warnings=(words, *o.warnings)
        )
    return replace(result, warnings=(*_doubts(result, o, bootstrap), *o.warnings))


def hold_out(observations: Observations, law: str, *, seed: int = 0) -> dict[str, float] | None:
    """Fit without the quarter of the runs that has the most compute, and predict that quarter.

    {cut: compute above which runs are left out, runs: how many those are, error: mean |L_law / L - 1| over them,
    baseline: the same for a power law in compute through the last two points of the frontier of the runs kept}. None
    where the runs kept cannot tell the law.
    """
    order = np.sort(observations.flops)
    cut = float(order[math.ceil(0.75 * len(order)) - 1])
    if cut > 0.97 * order[-1] and order[0] < 0.97 * order[-1]:  # the top budget holds more than a quarter of the runs
        cut = float(order[order < 0.97 * order[-1]][-1])
    kept, out = observations.pick(observations.flops <= cut), observations.pick(observations.flops > cut)
    if not len(out) or _untold(kept, law)[0]:
        return None
    form = LAWS[law].form(kept.n, kept.d)
    theta = estimate(form, (kept.n, kept.d), kept.loss, seed=seed).theta
    error = np.abs(at(form, theta)(out.n, out.d) / out.loss - 1).mean()
    baseline = np.abs(_last_two(kept)(out.flops) / out.loss - 1).mean()
    return {"cut": cut, "runs": len(out), "error": float(error), "baseline": float(baseline)}


def _last_two(o: Observations) -> Any:
    """The straight line of ln L in ln C through the best run and the best of those with at most half its compute."""
    last = int(np.lexsort((o.flops, o.loss))[0])
    before = np.flatnonzero(o.flops <= o.flops[last] / 2)
    if not len(before):
        return lambda flops: np.full(len(flops), o.loss[last])
    first = before[o.loss[before].argmin()]
    slope = np.log(o.loss[last] / o.loss[first]) / np.log(o.flops[last] / o.flops[first])
    return lambda flops: o.loss[last] * (flops / o.flops[last]) ** slope


def _ordered(o: Observations) -> Observations:
    """One order of the runs for any order of the table, so that equal tables give equal bytes."""
    return o.pick(sorted(range(len(o)), key=lambda i: (o.n[i], o.d[i], o.seed[i], o.run_id[i], o.loss[i])))


def _distinct(values: Array) -> int:
    """How many values differ by more than 1 %."""
    return 1 + int((np.diff(np.sort(np.log(values))) > 0.01).sum())


def _spans(o: Observations) -> dict[str, float]:
    ratio = o.d / o.n
    return {
        "condition": math.nan,
        "span_n": float(o.n.max() / o.n.min()),
        "span_d": float(o.d.max() / o.d.min()),
        "span_ratio": float(ratio.max() / ratio.min()),
    }


def _untold(o: Observations, law: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parameters that no estimator could know from this design, and why, in words."""
    names = LAWS[law].names
    sizes, horizons = _distinct(o.n), _distinct(o.d)
    why = []
    if len(o) <= len(names):
        why.append(
            f"{len(o)} runs for {len(names)} parameters: {len(names) + 1} are the least, twice as many are sound"
        )
    if sizes < LEAST_DISTINCT:
        why.append(
            f"{sizes} distinct N: how L falls with N cannot be told from E; "
            f"train at least {LEAST_DISTINCT} sizes, 4x apart or more"
        )
    if horizons < LEAST_DISTINCT:
        why.append(
            f"{horizons} distinct D: how L falls with D cannot be told from E; train at least {LEAST_DISTINCT} horizons"
        )
    if sizes > 1 and horizons > 1:
        slope, ray = _ray(o)
        if slope > 0 and ray < LEAST_TURN:
            why.append(
                f"D follows N as D = k N^{slope:.2g}: both terms fall together and no fit can tell them apart; "
                "train some sizes on a quarter and on four times the tokens"
            )
    if not why:
        return (), ()
    if len(why) == 1 and law == "chinchilla" and len(o) > 4:
        if sizes == 1 and horizons >= LEAST_DISTINCT:
            return ("E", "A", "alpha"), tuple(why)
        if horizons == 1 and sizes >= LEAST_DISTINCT:
            return ("E", "B", "beta"), tuple(why)
    return tuple(names), tuple(why)


def _ray(o: Observations) -> tuple[float, float]:
    """The slope of ln D in ln N, and by what factor D varies about that line."""
    log_n, log_d = np.log(o.n) - np.log(o.n).mean(), np.log(o.d) - np.log(o.d).mean()
    slope = float(log_n @ log_d / (log_n @ log_n))
    return slope, float(np.exp(np.ptp(log_d - slope * log_n)))


def _told(o: Observations, law: str, unknown: tuple[str, ...], level: float) -> dict[str, Any]:
    """What a single size still tells of the data term, or a single horizon of the size term."""
    if len(unknown) == len(LAWS[law].names):
        return {}
    by_data = "alpha" in unknown
    curve = fit_power(o.d if by_data else o.n, o.loss, level=level)
    if curve.at_bound:
        return {}
    names = {"A": "B", "alpha": "beta"} if by_data else {"A": "A", "alpha": "alpha"}
    return {ours: curve.estimates()[theirs] for theirs, ours in names.items()}


def _condition(form: Any, found: Estimate, x: tuple[Array, ...], free: Array) -> tuple[float, tuple[str, ...], str]:
    """Condition number of the weighted Jacobian with unit columns; parameters it cannot tell, and why, in words."""
    names = np.array(form.names)[free]
    with np.errstate(all="ignore"):
        j = (jacobian(form, found.theta, x) * np.sqrt(found.weight)[:, None])[:, free]
    size = np.linalg.norm(j, axis=0)
    gone = names[~((size > LEAST_EFFECT) & np.isfinite(size))].tolist()
    if gone:
        gone = [name for name in form.names if name in gone or any(PARTNERS.get(name) == one for one in gone)]
        return math.nan, tuple(gone), f"{', '.join(gone)}: no loss of these runs shows a term of the law that they make"
    _, singular, direction = np.linalg.svd(j / size, full_matrices=False)
    lost = singular < singular[0] / WORST_CONDITION
    blurred = names[(np.abs(direction[lost]) > 0.05).any(axis=0)].tolist() if lost.any() else []
    words = (
        f"the runs constrain only a combination of {', '.join(blurred)}; runs at other ratios D/N would separate them"
    )
    return float(singular[0] / max(singular[-1], 1e-300)), tuple(blurred), words


def _vague(result: Fit) -> tuple[str, ...]:
    """Exponents that noise leaves open by more than `VAGUE` either way at 90 %, and their coefficients."""
    law = result.law
    assert law is not None
    reach = t_quantile(0.9, result.dof)
    names = []
    for i, name in enumerate(law.names):
        partner = PARTNERS.get(name)
        if partner and name in law.positive and reach * math.sqrt(result.covariance[i, i]) > math.log(VAGUE):
            names += [partner, name]
    return tuple(name for name in law.names if name in names)


def _doubts(result: Fit, o: Observations, bootstrap: int) -> list[str]:
    """What a reader should know before using the numbers."""
    doubts = []
    for name in result.at_bound:
        value = getattr(result.law, name)
        doubts.append(
            f"{name} = {value:.3g} rests on the edge of its range: the runs do not determine it, no interval is given"
        )
    assert result.weights is not None and result.law is not None
    rejected = [name for name, weight in zip(o.run_id, result.weights, strict=True) if weight < REJECTED]
    if rejected:
        shown = ", ".join(rejected[:12]) + (f" and {len(rejected) - 12} more" if len(rejected) > 12 else "")
        doubts.append(f"{len(rejected)} of {len(o)} runs lie far from the law and count for nothing or almost: {shown}")
    reach = t_quantile(result.level, result.dof)
    for i, name in enumerate(result.law.names):
        width = reach * math.sqrt(max(result.covariance[i, i], 0.0))
        if name in result.law.positive and width > math.log(3) and name not in ("A", "B", "Nc", "Dc"):
            doubts.append(f"{name} is known only within a factor of {min(math.exp(width), 1e9):.2g} either way")
    clusters = len(set(o.trunk))
    if bootstrap and clusters < 10:
        doubts.append(f"the bootstrap draws from {clusters} trunks: fewer than 10 make its intervals too narrow")
    if result.correlation > 0:
        doubts.append(
            f"runs of one trunk share noise (correlation {result.correlation:.2f}); the intervals allow for it"
        )
    if not o.flops_measured:
        doubts.append("the table has no flops: C = 6 N D is assumed")
    if result.holdout is None:
        doubts.append("too few runs to leave the largest compute out: the law's extrapolation is untested")
    elif result.holdout["error"] > result.holdout["baseline"]:
        doubts.append(
            f"left out, the runs of largest compute are predicted {result.holdout['error']:.2%} off, worse than by "
            f"a line through two points ({result.holdout['baseline']:.2%})"
        )
    return doubts
