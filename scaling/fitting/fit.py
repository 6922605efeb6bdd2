"""The whole fit of a law: can these runs tell it, what is it, how sure is it, and does it extrapolate?"""

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from scaling.fitting import identify
from scaling.fitting.baseline import line_through_two
from scaling.fitting.fitted import Estimator, Fit, Space
from scaling.fitting.identify import PARTNERS
from scaling.fitting.influence import Influence, leave_out
from scaling.fitting.laws import LAWS, Array
from scaling.fitting.observe import Observations
from scaling.fitting.profile import profile
from scaling.fitting.robust import LEAST_SCALE, Estimate, Objective, at, estimate, polish
from scaling.fitting.solve import shared_by, solve
from scaling.fitting.uncertainty import Interval, resample, shifted, t_quantile
from scaling.spec import Refusal

REJECTED = 0.01  # a run of less weight than this is named
DELTA = 1e-3  # of Huber's function on ln L in the published approach 3 (arXiv:2203.15556, appendix D.3)


def fit(
    observations: Observations,
    law: str = "chinchilla",
    *,
    x: str | None = None,
    estimator: Estimator = "surface",
    space: Space = "log",
    delta: float | None = None,
    level: float = 0.9,
    bootstrap: int = 0,
    seed: int = 0,
) -> Fit:
    """Estimate a law of `LAWS` on R runs; intervals hold at `level`, by the delta method or from resampled cells.

    `x` names the variable of a law of any one variable: n, d, c or a further column of the table. `estimator` is
    "surface", variable projection and MM-estimation with a scale found from the data (`robust`), or "huber", the
    published approach 3: the sum of Huber's function of width `delta` (arXiv:2203.15556, appendix D.3). Residuals are
    those of ln y, or of y with `space` "raw". `bootstrap` is the number of resamples, 0 for the delta method.

    The verdict is the fit's `status`: `unidentified` names parameters that the runs cannot tell. Raises `Refusal`
    with every fault of the arguments, or for fewer than three runs.
    """
    if faults := _faults(observations, law, x, estimator, space, delta, level, bootstrap):
        raise Refusal(faults)
    o = observations.ordered()
    points, y = variables(o, law, x), o.variable(LAWS[law].response)
    objective = _objective(estimator, space, delta)
    base: dict[str, Any] = {
        "name": law, "params": o.params or None, "x": x, "estimator": estimator, "space": space,
        "delta": objective.delta if estimator == "huber" else None, "runs": len(o),
        "dropped": o.dropped, "level": level, "cost": o.cost, "flops_max": float(o.flops.max()),
    }  # fmt: skip
    design = identify.spans(o)
    unknown, why = identify.by_design(o, law, points)
    if unknown:
        return Fit(
            **base, law=None, status="unidentified", unidentified=unknown, partial=_told(o, law, unknown, level),
            design=design, warnings=(*why, *o.warnings),
        )  # fmt: skip

    form = LAWS[law].form(*points)
    solved = solve(form, points, y, objective=objective, shared=shared_by(o, LAWS[law].response), seed=seed)
    design["condition"] = solved.condition
    if solved.uncertain is None:
        return Fit(
            **base, law=None, status="unidentified", unidentified=solved.unidentified, design=design,
            warnings=(*solved.why, *o.warnings),
        )  # fmt: skip
    draws = None
    if bootstrap:
        draws = resample(form, solved.least, points, y, solved.free, o.trunk, bootstrap, seed)
        draws = shifted(form, draws, solved.least.theta, solved.found.theta)
    found = solved.found
    result = Fit(
        **base,
        law=replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True))),
        status="at_bound" if found.at_bound else "converged",
        at_bound=found.at_bound,
        uncertain=solved.uncertain,
        draws=draws,
        scale=found.scale,
        objective=found.objective,
        residuals=found.residual,
        weights=found.weight,
        holdout=hold_out(o, law, x=x, objective=objective, seed=seed),
        design=design,
    )
    if solved.unidentified:
        known = {name: item for name, item in result.estimates().items() if name not in solved.unidentified}
        return replace(
            result, law=None, uncertain=None, status="unidentified", unidentified=solved.unidentified, partial=known,
            warnings=(*solved.why, *o.warnings),
        )  # fmt: skip
    return replace(result, warnings=(*_doubts(result, o, bootstrap), *o.warnings))


def variables(o: Observations, law: str, x: str | None = None) -> tuple[Array, ...]:
    """The law's variables as columns of the runs, each [R]."""
    return tuple(o.variable(x if name == "x" and x else name) for name in LAWS[law].variables)


def influence(observations: Observations, found: Fit, by: str = "run_id") -> Influence:
    """The fit without each run in turn, or without all runs of equal `by`: "size", "trunk", "group".

    The fit must be of these observations. Raises `Refusal` where the law is unidentified.
    """
    if found.law is None:
        raise Refusal(f"law {found.name} is unidentified: there is no fit that a run could move")
    o = observations.ordered()
    free = np.array([name not in found.at_bound for name in found.law.names])
    return leave_out(
        found.law, _estimate_of(found), variables(o, found.name, found.x), o.variable(found.law.response), free,
        getattr(o, by),
    )  # fmt: skip


def profile_intervals(observations: Observations, found: Fit) -> dict[str, Interval]:
    """Intervals of the floor and the exponents by the profile of the objective, at the fit's level.

    Of every parameter that is neither on a bound nor a coefficient. An end is infinite, or the edge of the range, where
    the runs exclude nothing that far out. The objective is the one that was minimised; where runs share noise, the
    profile is about its minimum. Raises `Refusal` where the law is unidentified or was read from JSON.
    """
    whole = _estimate_of(found)
    law, o = found.law, observations.ordered()
    assert law is not None and found.uncertain is not None
    x, y = variables(o, found.name, found.x), o.variable(law.response)
    free = np.array([name not in found.at_bound for name in law.names])
    theta = polish(
        law, whole.theta[None], x, y, objective=whole.minimised, scale=whole.scale, spread=whole.spread, free=free
    )[0]
    least = replace(whole, theta=theta)
    asked = [
        name for name in law.names if (name not in law.linear or name == "E") and name not in found.at_bound
    ]  # fmt: skip
    return {
        name: profile(
            law, least, x, y, name, covariance_z=found.covariance, level=found.level,
            dof=found.uncertain.dof_of(np.eye(len(free))[law.names.index(name)]), free=free,
        ).interval
        for name in asked
    }  # fmt: skip


def _estimate_of(found: Fit) -> Estimate:
    """What `fit` estimated, from its result. Raises `Refusal` for a fit read from JSON, which keeps no residuals."""
    if found.law is None:
        raise Refusal(f"law {found.name} is unidentified: there is no fit to look at")
    if found.residuals is None or found.weights is None:
        raise Refusal(f"law {found.name}: read from JSON, which keeps no residuals; fit the runs again")
    return Estimate(
        theta=found.theta, residual=found.residuals, weight=found.weights, scale=found.scale,
        objective=found.objective, at_bound=found.at_bound,
        minimised=_objective(found.estimator, found.space, found.delta),
    )  # fmt: skip


def hold_out(
    observations: Observations,
    law: str,
    *,
    x: str | None = None,
    objective: Objective | None = None,
    share: float = 0.25,
    seed: int = 0,
) -> dict[str, float] | None:
    """Fit without the quarter of the runs that has the most compute, and predict that quarter.

    {cut: compute above which runs are left out, runs: how many those are, error: mean |y_law / y - 1| over them,
    baseline: the same for a power law in compute through the last two points of the frontier of the runs kept}. None
    where the runs kept cannot tell the law. For a law of something else than N and D, its first variable takes the
    place of compute.
    """
    o = observations
    along = o.flops if np.isfinite(o.flops).all() else variables(o, law, x)[0]
    order = np.sort(along)
    cut = float(order[math.ceil((1 - share) * len(order)) - 1])
    if cut > 0.97 * order[-1] and order[0] < 0.97 * order[-1]:  # the top budget holds more than a quarter of the runs
        cut = float(order[order < 0.97 * order[-1]][-1])
    kept, out = o.pick(along <= cut), o.pick(along > cut)
    inner = variables(kept, law, x)
    if not len(out) or identify.by_design(kept, law, inner)[0]:
        return None
    form, response = LAWS[law].form(*inner), LAWS[law].response
    y, truth = kept.variable(response), out.variable(response)
    theta = estimate(form, inner, y, objective=objective or Objective(), seed=seed).theta
    error = np.abs(at(form, theta)(*variables(out, law, x)) / truth - 1).mean()
    line = line_through_two(along[along <= cut], y)
    baseline = np.abs(line(along[along > cut]) / truth - 1).mean()
    return {"cut": cut, "runs": len(out), "error": float(error), "baseline": float(baseline)}


def _objective(estimator: Estimator, space: Space, delta: float | None) -> Objective:
    if estimator == "huber":
        return Objective(kind="huber", space=space, delta=DELTA if delta is None else delta)
    return Objective(space=space)


def _faults(
    o: Observations, law: str, x: str | None, estimator: str, space: str, delta: float | None, level: float, draws: int
) -> list[str]:
    faults = []
    if law not in LAWS:
        faults.append(f"--law {law}: there is no such law; there are {', '.join(LAWS)}")
    elif LAWS[law].variables == ("curve",):
        faults.append(f"--law {law}: is of whole training curves and not of end points; `scaling curves` fits it")
    elif "x" in LAWS[law].variables and not x:
        faults.append(f"--law {law}: is of one variable: say which, as --x n, --x d, --x c or --x COLUMN")
    elif x and "x" not in LAWS[law].variables:
        faults.append(f"--x {x}: law {law} is of {', '.join(LAWS[law].variables)}; --x is for laws of any one variable")
    for name, value, kind in (("estimator", estimator, Estimator), ("loss-space", space, Space)):
        if value not in get_args(kind):
            faults.append(f"--{name} {value}: must be one of {', '.join(get_args(kind))}")
    if delta is not None and estimator != "huber":
        faults.append(f"--delta {delta:g}: only --estimator huber has a width; surface finds its scale from the runs")
    if delta is not None and not (math.isfinite(delta) and delta > 0):
        faults.append(f"--delta {delta:g}: must be above 0")
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if draws < 0 or draws == 1:
        faults.append(f"--bootstrap {draws}: must be 0 (delta method) or at least 2 resamples")
    if len(o) < 3:
        faults.append(f"{len(o)} runs: nothing can be estimated from fewer than 3")
    return faults


def _told(o: Observations, law: str, unknown: tuple[str, ...], level: float) -> dict[str, Any]:
    """What the runs still tell: the data term from a single size, the size term from a single horizon."""
    if len(unknown) == len(LAWS[law].names):
        return {}
    if law == "data_constrained":
        return fit(o, "chinchilla", level=level).estimates()
    by_data = "alpha" in unknown
    curve = fit(o, "power", x="d" if by_data else "n", level=level)
    if curve.law is None or curve.at_bound:
        return {}
    names = {"A": "B", "alpha": "beta"} if by_data else {"A": "A", "alpha": "alpha"}
    return {ours: curve.estimates()[theirs] for theirs, ours in names.items()}


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
    noisy = result.scale > 10 * LEAST_SCALE * (
        1.0 if result.space == "log" else float(o.variable(result.law.response).mean())
    )
    if rejected and noisy and result.estimator == "surface":  # Huber's function rejects nothing
        shown = ", ".join(rejected[:12]) + (f" and {len(rejected) - 12} more" if len(rejected) > 12 else "")
        doubts.append(f"{len(rejected)} of {len(o)} runs lie far from the law and count for nothing or almost: {shown}")
    reach = t_quantile(result.level, result.dof)
    for i, name in enumerate(result.law.names):
        width = reach * math.sqrt(max(result.covariance[i, i], 0.0))
        if name in result.law.positive and width > math.log(3) and name not in PARTNERS.values():
            doubts.append(f"{name} is known only within a factor of {min(math.exp(width), 1e9):.2g} either way")
    clusters = len(set(o.trunk))
    if bootstrap and clusters < 10:
        doubts.append(f"the bootstrap draws from {clusters} trunks: fewer than 10 make its intervals too narrow")
    shared = [f"{name} {sd:.2g}" for name, sd in result.components.items() if name != "run" and sd > 0]
    if shared and noisy:
        sd = result.components["run"]
        own = f"{sd:.2g}" if sd > 0 else "none beyond its evaluation's"
        doubts.append(
            f"runs share noise: standard deviations {', '.join(shared)}, of a run {own}; the intervals allow for it"
        )
    if not o.flops_measured and "d" in result.law.variables:
        doubts.append("the table has no flops: C = 6 N D is assumed")
    if result.holdout is None:
        doubts.append("too few runs to leave the largest compute out: the law's extrapolation is untested")
    elif result.holdout["error"] > result.holdout["baseline"]:
        doubts.append(
            f"left out, the runs of largest compute are predicted {result.holdout['error']:.2%} off, worse than by "
            f"a line through two points ({result.holdout['baseline']:.2%})"
        )
    return doubts
