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
from typing import Any

import numpy as np

from scaling.fit.laws import Array

M_CUT = 4.685  # in scales: 95 % efficiency at normal errors
S_CUT = 2.937  # in scales: breakdown 25 %, see `m_scale`
LEAST_SCALE = 1e-9  # of ln L: below this a table counts as free of noise
SUBSETS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    theta: Array  # [P], in the order of `form.names`
    residual: Array  # [R], ln L_law - ln L_measured
    weight: Array  # [R], 1 where a row counts fully, 0 where it is rejected
    scale: float  # standard deviation of a clean residual
    objective: float  # sum of bisquare(residual / scale)
    at_bound: tuple[str, ...]  # parameters that rest on the edge of their range


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def estimate(form: Any, x: tuple[Array, ...], loss: Array, *, floor: bool = True, seed: int = 0) -> Estimate:
    """The MM-estimate of a law on R runs at x, each [R]; `form` is any instance of it, whose constants are kept.

    `floor` False holds E at 0. `seed` picks the subsets of rows that starts are made from.
    """
    free = np.array([floor or name != "E" for name in form.names])
    y, spare = np.log(loss), len(loss) - free.sum()
    all_rows = np.arange(len(loss))[None]
    least_squares = polish(form, _starts(form, x, loss, all_rows, floor), x, y, free=free)
    candidates = [least_squares]
    if spare > 2:
        chosen = _subsets(len(loss), len(form.names), seed)
        starts = _starts(form, x, loss, chosen, floor)
        chosen_BxR = np.zeros((len(chosen), len(loss)))
        np.put_along_axis(chosen_BxR, chosen, 1.0, axis=1)
        candidates.append(polish(form, starts, x, y, free=free, multiplicity=chosen_BxR, iterations=15))
    theta = np.concatenate(candidates)
    scale = m_scale(_residual(form, theta, x, y), spare)
    best = np.argsort(scale, kind="stable")[:6]
    theta, scale = theta[best], scale[best]
    for _ in range(4):
        theta = polish(form, theta, x, y, scale=scale, cut=S_CUT, free=free, iterations=6)
        scale = m_scale(_residual(form, theta, x, y), spare)
    theta = np.concatenate([theta[[scale.argmin()]], least_squares])
    scale = m_scale(_residual(form, theta, x, y), spare)
    for _ in range(20):
        theta = polish(form, theta, x, y, scale=scale, free=free)
        before, scale = scale, m_scale(_residual(form, theta, x, y), spare)
        if np.all(np.abs(scale / before - 1) < 1e-6):
            break
    winner = scale.argmin()
    theta, scale = polish(form, theta[[winner]], x, y, scale=scale[[winner]], free=free)[0], float(scale[winner])
    residual = _residual(form, theta[None], x, y)[0]
    at_bound = tuple(
        name
        for name, value in zip(form.names, theta, strict=True)
        if name in form.bounds and (name != "E" or floor) and _touches(value, form.bounds[name])
    )
    return Estimate(
        theta=theta, residual=residual, weight=_weight(residual / scale, M_CUT), scale=scale,
        objective=float(_rho(residual / scale, M_CUT).sum()), at_bound=at_bound,
    )  # fmt: skip


def at(form: Any, theta: Array) -> Any:
    """The law of parameters [..., P] as an instance whose fields broadcast against rows."""
    return replace(form, **{name: theta[..., i, None] for i, name in enumerate(form.names)})


def jacobian(form: Any, theta: Array, x: tuple[Array, ...]) -> Array:
    """d ln L / d z, [..., R, P], where z is ln theta for the positive parameters and theta for the others."""
    law = at(form, theta)
    return law.gradient(*x) / law(*x)[..., None] * stretch(form, theta)[..., None, :]


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
    scale: Array | float = 1.0,
    cut: float | None = None,
    free: Array | None = None,
    multiplicity: Array | None = None,
    iterations: int = 200,
) -> Array:
    """Local minima [B, P] of sum_R multiplicity * bisquare(r / scale) from starts theta [B, P].

    Levenberg-Marquardt on z (see `jacobian`) within the law's bounds; lanes leave the batch as they converge. `scale`
    is [B] or 1.0 with `cut` None, which means least squares; a given scale means `cut` = M_CUT unless said.
    """
    if cut is None:
        cut = np.inf if isinstance(scale, float) else M_CUT
    lanes, rows = len(theta), len(y)
    z = _to_z(form, theta)
    low, high = _z_bounds(form)
    free = np.ones(z.shape[1], bool) if free is None else np.asarray(free)
    z = np.where(free, np.clip(z, low, high), z)
    every_scale = np.broadcast_to(np.asarray(scale, float), (lanes,))
    every_count = np.ones((lanes, rows)) if multiplicity is None else multiplicity
    damping = np.full(lanes, 1e-3)
    todo = np.arange(lanes)
    u, value = _objective(form, z, x, y, every_scale, every_count, cut)
    value = value.copy()
    for _ in range(iterations):
        s, count, here = every_scale[todo], every_count[todo], z[todo]
        # Where a term has vanished its columns may overflow: no step is taken along them.
        j = np.nan_to_num(jacobian(form, _from_z(form, here), x) / s[:, None, None], posinf=0.0, neginf=0.0)
        weighted = j * (count * _weight(u, cut))[..., None]
        slope = np.einsum("brp,br->bp", weighted, u)
        stuck = ~free | ((here <= low) & (slope > 0)) | ((here >= high) & (slope < 0))
        j = np.where(stuck[:, None, :], 0.0, j)
        slope = np.where(stuck, 0.0, slope)
        size = np.einsum("brp,brp->bp", weighted, j)
        curve = np.swapaxes(j * (count * np.maximum(_curvature(u, cut), 0.0))[..., None], 1, 2) @ j
        ridge = damping[todo, None] * size + 1e-300 + stuck
        curve[:, range(len(free)), range(len(free))] += np.where(size > 0, ridge, 1.0)
        step = -_solve(curve, slope)
        new = np.clip(here + step, low, high)
        new_u, new_value = _objective(form, new, x, y, s, count, cut)
        better = new_value <= value[todo]
        z[todo[better]], value[todo[better]] = new[better], new_value[better]
        u = np.where(better[:, None], new_u, u)
        damping[todo] = np.where(better, np.maximum(damping[todo] / 6, 1e-14), damping[todo] * 4)
        small = np.max(np.abs(new - here) * np.sqrt(size), axis=1) < 1e-9 * np.sqrt(rows)
        keep = ~((small & better) | (damping[todo] > 1e10))
        todo, u = todo[keep], u[keep]
        if not len(todo):
            break
    return _from_z(form, z)


def m_scale(residual_BxR: Array, spare: float) -> Array:
    """M-scale [B]: s with sum bisquare(r / s) / spare = 25 % of the function's ceiling; sigma at normal errors.

    `spare` is rows less parameters, which makes the scale fit for small tables.
    """
    size = np.abs(residual_BxR)
    ceiling = S_CUT**2 / 6
    low = np.full(len(size), np.log(LEAST_SCALE))
    high = np.log(size.max(axis=1) * 10 + LEAST_SCALE)
    for _ in range(45):
        middle = (low + high) / 2
        excess = _rho(size / np.exp(middle)[:, None], S_CUT).sum(axis=1) / max(spare, 1) > 0.25 * ceiling
        low, high = np.where(excess, middle, low), np.where(excess, high, middle)
    return np.exp((low + high) / 2)


def influence(estimate: Estimate) -> tuple[Array, Array]:
    """psi and psi' [R]: first and second derivative of the bisquare at the scaled residuals."""
    u = estimate.residual / estimate.scale
    return u * _weight(u, M_CUT), _curvature(u, M_CUT)


def _rho(u: Array, cut: float) -> Array:
    if np.isinf(cut):
        return u**2 / 2
    return cut**2 / 6 * (1 - (1 - np.minimum((u / cut) ** 2, 1.0)) ** 3)


def _weight(u: Array, cut: float) -> Array:
    return np.maximum(1 - (u / cut) ** 2, 0.0) ** 2


def _curvature(u: Array, cut: float) -> Array:
    v = np.minimum((u / cut) ** 2, 1.0)
    return (1 - v) * (1 - 5 * v)


def _residual(form: Any, theta: Array, x: tuple[Array, ...], y: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.log(at(form, theta)(*x)) - y, nan=1e3, posinf=1e3, neginf=-1e3)


def _objective(
    form: Any, z: Array, x: tuple[Array, ...], y: Array, scale: Array, count: Array, cut: float
) -> tuple[Array, Array]:
    u = _residual(form, _from_z(form, z), x, y) / scale[:, None]
    return u, (count * _rho(u, cut)).sum(axis=1)


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


def _starts(form: Any, x: tuple[Array, ...], loss: Array, rows_BxM: Array, floor: bool) -> Array:
    """The best point of the law's grid for each choice of M rows: [B, P]. Every second point is enough for many."""
    axes = [axis[:: 2 if len(rows_BxM) > 1 else 1] for axis in form.grid.values()]
    shape_GxS = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    basis_GxRxK = form.basis(shape_GxS, *x) / loss[:, None]
    if not floor:
        basis_GxRxK = basis_GxRxK[..., 1:]
    basis_GxBxMxK = basis_GxRxK[:, rows_BxM]
    coefficient, rss = project(basis_GxBxMxK, np.ones(basis_GxBxMxK.shape[:-1]))
    best, lane = rss.argmin(axis=0), np.arange(len(rows_BxM))
    c = coefficient[best, lane]
    c = np.maximum(c, 1e-9 * c.max(axis=1, keepdims=True))
    if not floor:
        c = np.concatenate([np.zeros((len(c), 1)), c], axis=1)
    return form.from_basis(shape_GxS[best], c, *x)


def _subsets(rows: int, parameters: int, seed: int) -> Array:
    """Small random choices of rows [B, M]: among them some without a wrong row, if 25 % of the rows are wrong."""
    rng = np.random.default_rng(seed)
    size = min(rows, max(parameters + 2, min(2 * parameters, rows // 2)))
    return np.sort(rng.random((SUBSETS, rows)).argsort(axis=1)[:, :size], axis=1)
