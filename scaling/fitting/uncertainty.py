"""How far a fitted law can be trusted: its covariance, resampled parameters, and intervals of anything derived.

Noise is that of each run, of its evaluation, and what runs of one trunk, size or seed share (`components`). Everything
works in z (see `robust.jacobian`), where positive parameters are logarithms, so that their intervals stay positive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scaling.fitting.components import Components, components
from scaling.fitting.laws import Array
from scaling.fitting.robust import M_CUT, Estimate, at, influence, jacobian, m_scale, polish, positive

MANY = 40  # runs more than parameters
HALVINGS = 20  # of a step that would not lower the generalised sum of squares
APART = 2.0  # times the scale of the robust fit that the generalised one's residuals may have
LANES = 100  # refits at once: what a processor's cache holds


def t_quantile(level: float, dof: float) -> float:
    """Half width of a central interval of Student's t, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(max(dof, 1), (1 + level) / 2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """What the residuals say about the noise, and so about z."""

    covariance: Array  # [P, P] of z, zero where a parameter is not free
    correlation: float  # of residuals within a trunk
    noise: float  # standard deviation of one new run about the law, what it shares with others included
    dof: int  # for Student's t, the least over the parameters: one number for all, at most `spare`; see `dof_of`
    spare: int = 1  # runs that count less parameters
    components: dict[str, float] = field(default_factory=dict)  # of noise: standard deviations by source
    parts: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))  # [K, P, P], of covariance, by unit of variance
    variances: Array = field(default_factory=lambda: np.zeros((0, 0)))  # [K, K], covariance of the sources' variances

    def dof_of(self, slope: Array) -> float:
        """Degrees of freedom of the variance of slope' z (Satterthwaite, Biometrics Bulletin 2 (1946) 110)."""
        part = np.einsum("p,kpq,q->k", slope, self.parts, slope)
        variance, doubt = float(slope @ self.covariance @ slope), float(part @ self.variances @ part)
        return float(np.clip(2 * variance**2 / doubt, 1, max(self.spare, 1))) if doubt > 0 else float(self.dof)


def covariance(
    form: Any,
    estimate: Estimate,
    x: tuple[Array, ...],
    free: Array,
    trunk: Sequence[str],
    *,
    size: Sequence[str] | None = None,
    seed: Sequence[str] | None = None,
    loss_se: Array | None = None,
    noise: Components | None = None,
) -> Spread:
    """The spread of an estimate on R runs at x, each [R]; `free` [P] tells which parameters were estimated.

    Runs of one trunk, one size and one seed may share a deviation: sources that the rows can tell get a variance by
    `components`, of the pseudo-residuals for which a robust estimate is that of least squares (Huber, Robust Statistics
    (1981), section 7.6). `loss_se` [R] is the known standard error of each response, in its own units. Rejected runs
    say nothing. The covariance is that of the estimator that was used, under such noise: of `generalised` where its
    `noise` is given, else of the objective that was minimised.

    Where nothing is shared and `MANY` runs or more are to spare, the sandwich (Huber 1967; leverage as in HC3,
    MacKinnon & White 1985), which does not suppose equal noise everywhere; with fewer the sandwich is too small, and
    the noise of all runs is pooled.
    """
    used = estimate.weight > 0
    width = np.ones(len(used)) if estimate.spread is None else np.asarray(estimate.spread, float)
    j = jacobian(form, estimate.theta, x, space=estimate.minimised.space)[:, free]
    spare = int(used.sum()) - j.shape[1]
    pseudo, slope, curvature = pseudo_residuals(estimate, j.shape[1])
    if noise is None:
        found = sources_of_noise(form, estimate, x, free, trunk, size=size, seed=seed, loss_se=loss_se, rows=used)
        weight = estimate.weight / width**2
        bread = _inverse((j * weight[:, None]).T @ j)
        share = np.sqrt(estimate.weight * estimate.weight[used].mean()) / width**2
        lever = (share[:, None] * j)[used] @ bread
    else:
        found = noise
        solved = found.solve(j)
        bread = _inverse(j.T @ solved)
        lever = solved @ bread
    parts = np.array([root @ root.T for root in (lever.T @ found.root(name) for name in found.names)])
    evaluation = lever.T * found.known
    matrix = np.einsum("k,kpq->pq", found.variance, parts) + evaluation @ evaluation.T
    plain = not found.variance[1:].any() and not found.known.any() and noise is None
    if plain and spare >= MANY:
        leverage = np.einsum("rp,pq,rq->r", j, bread, j) * weight
        curve = (j * (curvature / width**2)[:, None]).T @ j
        if np.linalg.eigvalsh(curve).min() > 0:
            inverse = np.linalg.inv(curve)
            score = j * (slope / width / (1 - np.minimum(leverage, 0.9)))[:, None]
            matrix = estimate.scale**2 * inverse @ (score.T @ score) @ inverse
    total = max(float(found.variance.sum()), 1e-300)
    own = float(((pseudo / width)[used] ** 2).sum()) / max(spare, 1)
    clean = estimate.scale * np.sqrt(found.variance / max(own, 1e-300))
    embed = np.flatnonzero(free)
    every = np.zeros((len(parts), len(free), len(free)))
    every[:, embed[:, None], embed] = parts
    full = np.zeros((len(free), len(free)))
    full[embed[:, None], embed] = matrix
    result = Spread(
        covariance=full,
        correlation=0.0
        if "trunk" not in found.names
        else float(found.variance[found.names.index("trunk")] / max(total, 1e-300)),
        noise=float(np.sqrt((clean**2).sum())) if not plain else estimate.scale,
        dof=max(spare, 1),
        spare=max(spare, 1),
        components=dict(zip(found.names, clean.tolist(), strict=True)),
        parts=every,
        variances=found.doubt,
    )
    least = min(result.dof_of(row) for row in np.eye(len(free))[free])
    return replace(result, dof=int(least))


def _inverse(gram: Array) -> Array:
    """Of J' W J [P, P], after its columns have one length: a steep pair of parameters must not pass for a known one."""
    size = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    return np.linalg.pinv(gram / size / size[:, None], hermitian=True, rcond=1e-15) / size / size[:, None]


def pseudo_residuals(estimate: Estimate, parameters: int) -> tuple[Array, Array, Array]:
    """Residuals of the least-squares fit that equals a robust one to first order, psi and psi', each [R].

    The first are scale psi(u) / mean psi', in the units of the residuals, with the factor of Huber (1973) for few
    rows. The psi' of Huber's function tells only how many residuals lie within delta: the window is widened to
    scale R^(-1/5), for which there are enough.
    """
    psi, curvature = influence(estimate)
    used = estimate.weight > 0
    width = np.ones(len(psi)) if estimate.spread is None else np.asarray(estimate.spread, float)
    if estimate.minimised.kind == "huber":
        cut = estimate.minimised.delta / estimate.scale
        window = max(cut, len(psi) ** -0.2)
        curvature = cut / window * (np.abs(estimate.residual / width / estimate.scale) <= window)
        mean = float(curvature.mean())
    else:
        mean = float(curvature[used].mean())
    mean = max(mean, 0.1 if estimate.minimised.kind == "mm" else 1e-300)
    small = 1 + parameters / used.sum() * float(curvature[used].var()) / mean**2 * (estimate.minimised.kind != "huber")
    return estimate.scale * width * psi / mean * small, psi, curvature


def sources_of_noise(
    form: Any,
    estimate: Estimate,
    x: tuple[Array, ...],
    free: Array,
    trunk: Sequence[str],
    *,
    size: Sequence[str] | None = None,
    seed: Sequence[str] | None = None,
    loss_se: Array | None = None,
    rows: Array | None = None,
) -> Components:
    """The components of an estimate's noise (arguments as of `covariance`), found from the runs that count.

    Of all runs; with a mask `rows` of those alone.
    """
    used = estimate.weight > 0
    every = np.ones(len(used), bool)
    width = np.ones(len(used)) if estimate.spread is None else np.asarray(estimate.spread, float)
    known = _evaluation(form, estimate, x, loss_se)
    j = jacobian(form, estimate.theta, x, space=estimate.minimised.space)[:, free]
    pseudo = pseudo_residuals(estimate, j.shape[1])[0]
    found = components(j[used], pseudo[used], _labels(used, trunk, size, seed), spread=width[used], known=known[used])
    rows = every if rows is None else rows
    labels = {
        name: np.unique(label, return_inverse=True)[1]
        for name, label in _labels(rows, trunk, size, seed).items()
        if name in found.labels
    }
    return replace(found, labels=labels, spread=width[rows], known=known[rows])


def _labels(
    rows: Array, trunk: Sequence[str], size: Sequence[str] | None, seed: Sequence[str] | None
) -> dict[str, Array]:
    named = {"trunk": trunk, "size": size, "seed": seed}
    return {name: np.asarray(list(label))[rows] for name, label in named.items() if label is not None}


def _evaluation(form: Any, estimate: Estimate, x: tuple[Array, ...], loss_se: Array | None) -> Array:
    """Standard deviation [R] of the residuals that is the evaluation's, 0 where unknown."""
    if loss_se is None:
        return np.zeros(len(estimate.residual))
    known = np.nan_to_num(np.asarray(loss_se, float))
    return known if estimate.minimised.space == "raw" else known / at(form, estimate.theta)(*x)


def generalised(
    form: Any,
    estimate: Estimate,
    x: tuple[Array, ...],
    y: Array,
    free: Array,
    trunk: Sequence[str],
    *,
    size: Sequence[str] | None = None,
    seed: Sequence[str] | None = None,
    loss_se: Array | None = None,
    iterations: int = 50,
) -> tuple[Estimate, Components | None]:
    """The MM-estimate by generalised least squares under the components of its own residuals, and these.

    What runs share is predicted (Henderson, Biometrics 31 (1975) 423), and each run's weight is that of the rest of its
    residual, so that a wrong run is rejected and a size that lies off is not. With nothing shared, from another
    objective than "mm", or where it would leave the runs far from the law, it is the estimate itself and None.
    """
    space = estimate.minimised.space
    width = np.ones(len(y)) if estimate.spread is None else np.asarray(estimate.spread, float)
    found = sources_of_noise(form, estimate, x, free, trunk, size=size, seed=seed, loss_se=loss_se)
    if estimate.minimised.kind != "mm" or not found.variance[1:].any():
        return estimate, None
    noise, known = found, found.known
    theta, weight, residual = estimate.theta, estimate.weight, estimate.residual
    own = np.sqrt(noise.variance[0] * width**2 + known**2)
    target = np.log(y) if space == "log" else y
    for _ in range(iterations):
        weighted = replace(noise, weight=weight)
        j = jacobian(form, theta, x, space=space)[:, free]
        solved = weighted.solve(np.column_stack([j, residual]))
        step = np.zeros(len(theta))
        step[free] = np.linalg.lstsq(j.T @ solved[:, :-1], -(j.T @ solved[:, -1]), rcond=1e-14)[0]
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-300))
        least = float(residual @ solved[:, -1])
        for _ in range(HALVINGS):
            moved = move(form, theta, step)
            law = at(form, moved)(*x)
            left = (np.log(law) if space == "log" else law) - target
            if float(left @ weighted.solve(left)) <= least * (1 + 1e-9):
                break
            step /= 2
        else:
            break
        theta, residual = moved, left
        weight = _bisquare((residual - weighted.predict(residual)) / own)
        if np.abs(step).max() < 1e-8:
            break
    if not np.isfinite(theta).all() or (weight > 0).sum() <= len(theta):  # the runs' own noise vanishes: no weights
        return estimate, None
    spread = float(m_scale((residual / width)[None], len(y) - int(free.sum()))[0])
    if spread > APART * estimate.scale:  # a law so far from its runs follows from the components and not from them
        return estimate, None
    return replace(estimate, theta=theta, residual=residual, weight=weight), replace(noise, weight=weight)


def move(form: Any, theta: Array, step: Array) -> Array:
    """Parameters [..., P] after a step in z (see `robust.jacobian`), within the law's bounds."""
    moved = np.where(positive(form), theta * np.exp(np.clip(step, -690, 690)), theta + step)
    low, high = np.array([form.bounds.get(name, (-np.inf, np.inf)) for name in form.names], float).T
    return np.clip(moved, low, high)


def shifted(form: Any, draws: Array, before: Array, after: Array) -> Array:
    """Resamples [B, P] made about the estimate `before` [P], about `after`: shifted alike in z."""
    by, logs = after - before, positive(form)
    by[logs] = np.log(after[logs] / before[logs])
    return move(form, draws, by)


def _bisquare(u: Array) -> Array:
    return np.maximum(1 - (u / M_CUT) ** 2, 0.0) ** 2


def resample(
    form: Any,
    estimate: Estimate,
    x: tuple[Array, ...],
    y: Array,
    free: Array,
    trunk: Sequence[str],
    draws: int,
    seed: int,
) -> Array:
    """Parameters [draws, P] of refits to trunks drawn with replacement; each refit starts from the estimate.

    A run without a trunk is its own. y is the response. The refits minimise what the estimate did; the scale of the
    residuals is kept (MM-estimation's last step). Each ends within about 1e-4 of the spread that is sought.
    """
    cluster = np.unique(list(trunk), return_inverse=True)[1]
    count = cluster.max() + 1
    rng = np.random.default_rng(seed)
    drawn = rng.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    multiplicity = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)[:, cluster].astype(float)
    near = 1e-4 if estimate.minimised.kind == "mm" else 1e-4 * estimate.scale
    parts = []
    for count_LxR in np.array_split(multiplicity, max(draws // LANES, 1)):
        theta, scale = np.tile(estimate.theta, (len(count_LxR), 1)), np.full(len(count_LxR), estimate.scale)
        parts.append(
            polish(
                form, theta, x, y, objective=estimate.minimised, scale=scale, spread=estimate.spread, free=free,
                multiplicity=count_LxR, iterations=60, tolerance=near, damping=1e-6,
            )
        )  # fmt: skip
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the interval that holds it with probability `level`; fields are floats or arrays of one shape."""

    value: Any
    se: Any  # standard error
    low: Any
    high: Any

    def at(self, i: int) -> "Interval":
        """The i-th of arrays, as floats."""
        return Interval(
            value=float(self.value[i]), se=float(self.se[i]), low=float(self.low[i]), high=float(self.high[i])
        )


def spread(
    form: Any,
    theta: Array,
    function: Callable[[Any], Array],
    *,
    covariance_z: Array,
    dof: float | Callable[[Array], float],
    level: float,
    log: bool = False,
    draws: Array | None = None,
) -> Interval:
    """Intervals of `function`, which maps a law whose fields are [B, 1] to values [B, K].

    Delta method by central differences in z with Student's t, for ln of a positive value if `log`; or percentiles
    over `draws` [B, P] where given. `dof` is one number, or maps the slope in z [P] of a quantity to its own
    (`Spread.dof_of`).
    """
    if draws is not None:
        value, every = function(at(form, theta[None]))[0], function(at(form, draws))
        low, high = np.nanquantile(every, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Interval(value=value, se=np.nanstd(every, axis=0, ddof=1), low=low, high=high)
    step, logs = 1e-5, positive(form)
    moves = np.concatenate([np.zeros((1, len(theta))), np.eye(len(theta)) * step, -np.eye(len(theta)) * step])
    values = function(at(form, np.where(logs, theta * np.exp(moves), theta + moves)))
    value = values[0]
    slope = (values[1 : len(theta) + 1] - values[len(theta) + 1 :]) / (2 * step)
    se = np.sqrt(np.maximum(np.einsum("pk,pq,qk->k", slope, covariance_z, slope), 0.0))
    if callable(dof):
        quantile = np.array([t_quantile(level, dof(column)) for column in slope.T])
    else:
        quantile = t_quantile(level, dof)
    reach = quantile * se
    if log:
        factor = np.exp(np.minimum(reach / value, 300))
        return Interval(value=value, se=se, low=value / factor, high=value * factor)
    return Interval(value=value, se=se, low=value - reach, high=value + reach)
