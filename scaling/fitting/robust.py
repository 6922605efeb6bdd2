"""Parameters of a law from runs, some of which may be wrong: variable projection, then MM-estimation on ln L.

Residuals are r = ln L_law - ln L_measured. Tables of losses have heavy tails and a few gross errors, often at the ends
of the design where they weigh most, so least squares and Huber's function follow them. The steps are:

1. For given exponents a law is linear in its coefficients: non-negative least squares on a grid of exponents
   (variable projection, Golub & Pereyra 1973), for all rows and for many small subsets of them.
2. From these starts the fit whose residuals have the least M-scale (S-estimation, Rousseeuw & Yohai 1984), with a
   breakdown point of 25 %: that share of the rows beyond the number of parameters may be arbitrarily wrong.
3. From there a local minimum of sum bisquare(r / s), cut at 4.685 s, which at normal errors has 95 % of the
   efficiency of least squares (MM-estimation, Yohai 1987); s is the M-scale of its own residuals, found in turn.

Everything is batched over a leading axis of starts or resamples. Suffixes: B batch, R rows, P parameters, K columns.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scaling.fitting.laws import Array

M_CUT = 4.685  # in scales: 95 % efficiency at normal errors
S_CUT = 2.937  # in scales: breakdown 25 %, see `m_scale`
LEAST_SCALE = 1e-9  # of ln y: below this a table counts as free of noise
SUBSETS = 40


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised over the runs' residuals, ln y_law - ln y in `space` "log" and y_law - y in "raw".

    "mm" is the sum of the bisquare at residuals over a scale found from the data; "huber" the sum of r^2 / 2 up to
    `delta` and delta (|r| - delta / 2) beyond, which in log space is approach 3 of arXiv:2203.15556 (appendix D.3) as
    arXiv:2404.10102 states it; "squares" the sum of r^2 / 2.
    """

    kind: Literal["mm", "huber", "squares"] = "mm"
    space: Literal["log", "raw"] = "log"
    delta: float = 1e-3  # of "huber" alone, in units of the residual


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    theta: Array  # [P], in the order of `form.names`
    residual: Array  # [R], of the law less the measured value, in the objective's space
    weight: Array  # [R], 1 where a row counts fully, 0 where it is rejected
    scale: float  # standard deviation of a clean residual, of a row whose spread is 1
    objective: float  # the least sum found; for "mm" of bisquare(residual / scale)
    at_bound: tuple[str, ...]  # parameters that rest on the edge of their range
    minimised: Objective = Objective()
    spread: Array | None = None  # [R], as given to `estimate`


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def estimate(
    form: Any,
    x: tuple[Array, ...],
    y: Array,
    *,
    objective: Objective = Objective(),
    spread: Array | None = None,
    seed: int = 0,
) -> Estimate:
    """The law that has the least `objective` on R runs at x, each [R], of responses y > 0 [R].

    `form` is any instance of the law, whose constants are kept. `spread` [R] is the standard deviation of each row's
    residual relative to the others', by which residuals are divided; None means equal. `seed` picks the subsets of
    rows that starts are made from.
    """
    spare = len(y) - len(form.names)
    rule: dict[str, Any] = {"objective": objective, "spread": spread}
    squares = replace(objective, kind="squares")
    least_squares = polish(form, _starts(form, x, y, np.arange(len(y))[None]), x, y, objective=squares, spread=spread)
    candidates = [least_squares]
    if spare > 2:
        chosen = _subsets(len(y), len(form.names), seed)
        chosen_BxR = np.zeros((len(chosen), len(y)))
        np.put_along_axis(chosen_BxR, chosen, 1.0, axis=1)
        candidates.append(
            polish(
                form, _starts(form, x, y, chosen), x, y, objective=squares, spread=spread, multiplicity=chosen_BxR,
                iterations=15,
            )
        )  # fmt: skip
    theta = np.concatenate(candidates)
    if objective.kind == "mm":
        theta, scale = _mm(form, theta, x, y, spare, rule)
    else:
        theta = polish(form, theta, x, y, **rule)
        theta = theta[np.argmin(_rho(_scaled(form, theta, x, y, rule), _cut(objective)).sum(axis=1))]
        scale = float(m_scale(_scaled(form, theta[None], x, y, rule), spare, _unit(y, objective.space))[0])
    residual = _scaled(form, theta[None], x, y, {"objective": objective, "spread": None})[0]
    divisor = scale if objective.kind == "mm" else 1.0
    u = residual / divisor if spread is None else residual / divisor / spread
    at_bound = tuple(
        name
        for name, value in zip(form.names, theta, strict=True)
        if name in form.bounds and _touches(value, form.bounds[name])
    )
    return Estimate(
        theta=theta, residual=residual, weight=_weight(u, _cut(objective)), scale=scale,
        objective=float(_rho(u, _cut(objective)).sum()), at_bound=at_bound, minimised=objective, spread=spread,
    )  # fmt: skip


def _mm(
    form: Any, theta: Array, x: tuple[Array, ...], y: Array, spare: int, rule: dict[str, Any]
) -> tuple[Array, float]:
    """Steps 2 and 3 from starts theta [B, P], of which the first is the least-squares fit: parameters [P] and scale."""
    unit = _unit(y, rule["objective"].space)

    def scales(theta: Array) -> Array:
        return m_scale(_scaled(form, theta, x, y, rule), spare, unit)

    least_squares, scale = theta[:1], scales(theta)
    best = np.argsort(scale, kind="stable")[:6]
    theta, scale = theta[best], scale[best]
    for _ in range(4):
        theta = polish(form, theta, x, y, scale=scale, cut=S_CUT, iterations=6, **rule)
        scale = scales(theta)
    theta = np.concatenate([theta[[scale.argmin()]], least_squares])
    scale = scales(theta)
    for _ in range(20):
        theta = polish(form, theta, x, y, scale=scale, **rule)
        before, scale = scale, scales(theta)
        if np.all(np.abs(scale / before - 1) < 1e-6):
            break
    winner = scale.argmin()
    return polish(form, theta[[winner]], x, y, scale=scale[[winner]], **rule)[0], float(scale[winner])


def at(form: Any, theta: Array) -> Any:
    """The law of parameters [..., P] as an instance whose fields broadcast against rows."""
    return replace(form, **{name: theta[..., i, None] for i, name in enumerate(form.names)})


def jacobian(form: Any, theta: Array, x: tuple[Array, ...], space: str = "log") -> Array:
    """d ln y / d z, or d y / d z in `space` "raw": [..., R, P].

    z is ln theta for the positive parameters and theta for the others.
    """
    law = at(form, theta)
    slope = law.gradient(*x) * stretch(form, theta)[..., None, :]
    return slope / law(*x)[..., None] if space == "log" else slope


def stretch(form: Any, theta: Array) -> Array:
    """d theta / d z, [..., P]."""
    return np.where(positive(form), theta, 1.0)


def project(basis_xRxK: Array, weight: Array) -> tuple[Array, Array]:
    """Non-negative c with the least sum w (X c - 1)^2 for each X: c [..., K] and that sum [...].

    Every set of columns is solved and the best solution without a negative coefficient kept: exact, and quick while
    K is at most 3. Columns are what a law's basis is divided by the measured loss, so X c - 1 is close to ln L's
    residual. `weight` is [..., R].
    """
    size = np.sqrt(np.einsum("...rk,...r->...k", basis_xRxK**2, weight)) + 1e-300
    columns = basis_xRxK / size[..., None, :]
    gram = np.einsum("...rj,...r,...rk->...jk", columns, weight, columns)
    target = np.einsum("...rj,...r->...j", columns, weight)
    best = np.zeros(target.shape)
    total = np.broadcast_to(weight.sum(-1), target.shape[:-1])
    least = total.copy()
    k = target.shape[-1]
    for active in itertools.chain.from_iterable(itertools.combinations(range(k), m) for m in range(1, k + 1)):
        pick = list(active)
        inner = gram[..., pick, :][..., :, pick] + 1e-13 * np.eye(len(pick))
        c = np.linalg.solve(inner, target[..., pick, None])[..., 0]
        rss = total - np.sum(c * target[..., pick], axis=-1)
        better = np.all(c >= 0, axis=-1) & (rss < least)
        least = np.where(better, rss, least)
        full = np.zeros(target.shape)
        full[..., pick] = c
        best = np.where(better[..., None], full, best)
    return best / size, least


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def polish(
    form: Any,
    theta: Array,
    x: tuple[Array, ...],
    y: Array,
    *,
    objective: Objective = Objective(),
    scale: Array | float = 1.0,
    cut: float = M_CUT,
    spread: Array | None = None,
    free: Array | None = None,
    multiplicity: Array | None = None,
    iterations: int = 200,
    tolerance: float | None = None,
    damping: float = 1e-3,
) -> Array:
    """Local minima [B, P] of the objective from starts theta [B, P], each row counted `multiplicity` [B, R] times.

    Levenberg-Marquardt on z (see `jacobian`) within the law's bounds; a lane leaves the batch when a step moves its
    residuals by less than `tolerance` (root mean square, 1e-9 by default; of "mm" in scales). `scale` [B] and `cut` are
    of "mm" alone. `free` [P] tells which parameters move. `damping` is that of the first step: small for near starts.
    """
    rule, unit = _cut(objective, cut), _unit(y, objective.space)
    lanes, rows = len(theta), len(y)
    z = _to_z(form, theta)
    low, high = _z_bounds(form)
    free = np.ones(z.shape[1], bool) if free is None else np.asarray(free)
    z = np.where(free, np.clip(z, low, high), z)
    divisor = np.full(rows, 1.0) if spread is None else np.asarray(spread, float)
    if objective.kind == "mm":
        every_scale = np.broadcast_to(np.asarray(scale, float), (lanes,))
    else:
        every_scale = np.ones(lanes)
    if tolerance is None:
        tolerance = 1e-9 if objective.kind == "mm" else 1e-9 * unit
    target = np.log(y) if objective.space == "log" else y
    every_count = np.ones((lanes, rows)) if multiplicity is None else multiplicity
    ridge = np.full(lanes, damping)
    todo = np.arange(lanes)
    count, width = every_count, every_scale[:, None] * divisor
    here = z.copy()
    u, j = _linearised(form, here, x, target, width, objective.space, unit)
    value = np.sum(count * _rho(u, rule), axis=1)
    for _ in range(iterations):
        weight = count * _weight(u, rule)
        slope = (j @ (weight * u)[..., None])[..., 0]
        size = ((j * j) @ weight[..., None])[..., 0]
        stuck = ~free | ((here <= low) & (slope > 0)) | ((here >= high) & (slope < 0))
        bend = count * np.maximum(_curvature(u, rule), 0.0)
        if rule[0] == "huber":  # few rows bend: away from the minimum their weights are the safer curvature
            bend = np.where(ridge[:, None] > 1e-2, weight, bend)
        curve = (j * bend[:, None, :]) @ np.swapaxes(j, 1, 2)
        curve = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, curve)
        slope, size = np.where(stuck, 0.0, slope), np.where(stuck, 0.0, size)
        added = ridge[:, None] * size + 1e-300 + stuck
        curve[:, range(len(free)), range(len(free))] += np.where(size > 0, added, 1.0)
        new = np.clip(here - _solve(curve, slope), low, high)
        new = np.where(free, new, here)
        new_u, new_j = _linearised(form, new, x, target, width, objective.space, unit)
        new_value = np.sum(count * _rho(new_u, rule), axis=1)
        better = new_value <= value
        moved = np.max(np.abs(new - here) * np.sqrt(size), axis=1)
        if better.all():
            here, u, j, value = new, new_u, new_j, new_value
        else:
            for kept, found in ((here, new), (u, new_u), (j, new_j), (value, new_value)):
                kept[better] = found[better]
        ridge = np.where(better, np.maximum(ridge / 6, 1e-14), ridge * 4)
        keep = ~(((moved < tolerance * np.sqrt(rows)) & better) | (ridge > 1e10))
        if not keep.all():
            z[todo[~keep]] = here[~keep]
            todo = todo[keep]
            lanes_of: list[Array] = [part[keep] for part in (here, u, j, value, ridge, count, width)]
            here, u, j, value, ridge, count, width = lanes_of
        if not len(todo):
            break
    z[todo] = here
    return _from_z(form, z)


def m_scale(residual_BxR: Array, spare: float, unit: float = 1.0) -> Array:
    """M-scale [B]: s with sum bisquare(r / s) / spare = 25 % of the function's ceiling; sigma at normal errors.

    `spare` is rows less parameters, which makes the scale fit for small tables. `unit` is that of the residuals.
    """
    size = np.abs(residual_BxR)
    ceiling = S_CUT**2 / 6
    low = np.full(len(size), np.log(LEAST_SCALE * unit))
    high = np.log(size.max(axis=1) * 10 + LEAST_SCALE * unit)
    for _ in range(45):
        middle = (low + high) / 2
        excess = _rho(size / np.exp(middle)[:, None], ("mm", S_CUT)).sum(axis=1) / max(spare, 1) > 0.25 * ceiling
        low, high = np.where(excess, middle, low), np.where(excess, high, middle)
    return np.exp((low + high) / 2)


def influence(estimate: Estimate) -> tuple[Array, Array]:
    """psi and psi' [R]: first and second derivative of the objective's function at the scaled residuals."""
    u = estimate.residual / estimate.scale
    if estimate.spread is not None:
        u = u / estimate.spread
    kind, cut = _cut(estimate.minimised)
    rule = (kind, cut if kind == "mm" else cut / estimate.scale)
    return u * _weight(u, rule), _curvature(u, rule)


Rule = tuple[str, float]  # the kind of an objective and where its function bends, in units of u


def _cut(objective: Objective, cut: float = M_CUT) -> Rule:
    return objective.kind, {"mm": cut, "huber": objective.delta, "squares": np.inf}[objective.kind]


def _rho(u: Array, rule: Rule) -> Array:
    kind, cut = rule
    if kind == "squares":
        return u**2 / 2
    if kind == "huber":
        inner = np.minimum(np.abs(u), cut)
        return inner * (np.abs(u) - inner / 2)
    left = 1 - np.minimum((u / cut) ** 2, 1.0)
    return cut**2 / 6 * (1 - left * left * left)


def _weight(u: Array, rule: Rule) -> Array:
    kind, cut = rule
    if kind == "squares":
        return np.ones_like(u)
    if kind == "huber":
        return cut / np.maximum(np.abs(u), cut)
    left = np.maximum(1 - (u / cut) ** 2, 0.0)
    return left * left


def _curvature(u: Array, rule: Rule) -> Array:
    kind, cut = rule
    if kind == "squares":
        return np.ones_like(u)
    if kind == "huber":
        return (np.abs(u) <= cut).astype(float)
    v = np.minimum((u / cut) ** 2, 1.0)
    return (1 - v) * (1 - 5 * v)


def _unit(y: Array, space: str) -> float:
    """What a residual of order one is: y itself in raw space."""
    return 1.0 if space == "log" else float(np.exp(np.log(y).mean()))


def _residual(f: Array, target: Array, space: str, unit: float) -> Array:
    """Law less measured value; a law without a value, or below zero where its logarithm is taken, is far off."""
    r = (np.log(f) if space == "log" else f) - target
    if np.isfinite(r.sum()):
        return r
    return np.nan_to_num(r, nan=1e3 * unit, posinf=1e3 * unit, neginf=-1e3 * unit)


def _scaled(form: Any, theta: Array, x: tuple[Array, ...], y: Array, rule: dict[str, Any]) -> Array:
    """Residuals over the rows' spread, [B, R]."""
    space = rule["objective"].space
    r = _residual(at(form, theta)(*x), np.log(y) if space == "log" else y, space, _unit(y, space))
    return r if rule["spread"] is None else r / rule["spread"]


def _linearised(
    form: Any, z: Array, x: tuple[Array, ...], target: Array, width: Array, space: str, unit: float
) -> tuple[Array, Array]:
    """Residuals over their width [B, R] and the derivatives of these by z, [B, P, R]."""
    theta = _from_z(form, z)
    law = at(form, theta)
    if hasattr(form, "value_and_gradient"):
        f, gradient = law.value_and_gradient(*x)
    else:
        f, gradient = law(*x), law.gradient(*x)
    u = _residual(f, target, space, unit) / width
    # Where a term has vanished its columns may overflow: no step is taken along them.
    j = np.swapaxes(gradient, 1, 2) * (1 / (f * width) if space == "log" else 1 / width)[:, None, :]
    j *= stretch(form, theta)[:, :, None]
    if not np.isfinite(j.sum()):
        j = np.nan_to_num(j, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return u, j


def _solve(matrix: Array, vector: Array) -> Array:
    """Solutions [B, P] after scaling each matrix to a unit diagonal."""
    size = np.sqrt(np.einsum("bpp->bp", matrix)) + 1e-300
    scaled = matrix / size[:, :, None] / size[:, None, :] + 1e-15 * np.eye(matrix.shape[-1])
    return np.linalg.solve(scaled, (vector / size)[..., None])[..., 0] / size


def positive(form: Any) -> Array:
    """Which parameters are estimated as logarithms, [P]."""
    return np.array([name in form.positive for name in form.names])


def _to_z(form: Any, theta: Array) -> Array:
    return np.where(positive(form), np.log(np.maximum(theta, 1e-300)), theta)


def _from_z(form: Any, z: Array) -> Array:
    logs = positive(form)
    return np.where(logs, np.exp(np.where(logs, z, 0.0).clip(-690, 690)), z)


def _z_bounds(form: Any) -> tuple[Array, Array]:
    bounds = [form.bounds.get(name, (1e-300, 1e300)) for name in form.names]
    low, high = np.array(bounds, float).T
    logs = positive(form)
    return (
        np.where(logs, np.log(np.maximum(low, 1e-300)), low),
        np.where(logs, np.log(np.minimum(high, 1e300)), high),
    )


def _touches(value: float, bound: tuple[float, float]) -> bool:
    return value <= bound[0] + 1e-9 * (1 + abs(bound[0])) or value >= bound[1] - 1e-9 * abs(bound[1])


def _starts(form: Any, x: tuple[Array, ...], y: Array, rows_BxM: Array) -> Array:
    """The best point of the law's grid for each choice of M rows: [B, P]. Every second point is enough for many."""
    axes = [axis[:: 2 if len(rows_BxM) > 1 else 1] for axis in form.grid.values()]
    points = list(itertools.product(*axes))  # one point without coordinates where a law has no shape
    shape_GxS = np.array(points, float).reshape(len(points), len(axes))
    basis_GxRxK = form.basis(shape_GxS, *x) / y[:, None]
    basis_GxBxMxK = basis_GxRxK[:, rows_BxM]
    coefficient, rss = project(basis_GxBxMxK, np.ones(basis_GxBxMxK.shape[:-1]))
    best, lane = rss.argmin(axis=0), np.arange(len(rows_BxM))
    c = coefficient[best, lane]
    c = np.maximum(c, 1e-9 * c.max(axis=1, keepdims=True))
    return form.from_basis(shape_GxS[best], c, *x)


def _subsets(rows: int, parameters: int, seed: int) -> Array:
    """Small random choices of rows [B, M]: among them some without a wrong row, if 25 % of the rows are wrong."""
    rng = np.random.default_rng(seed)
    size = min(rows, max(parameters + 2, min(2 * parameters, rows // 2)))
    return np.sort(rng.random((SUBSETS, rows)).argsort(axis=1)[:, :size], axis=1)
