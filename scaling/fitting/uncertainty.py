"""How far a fitted law can be trusted: its covariance, resampled parameters, and intervals of anything derived.

Two sources of spread are known here: noise of each run, and noise that the branches of one trunk share. Everything
works in z (see `robust.jacobian`), where positive parameters are logarithms, so that their intervals stay positive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.robust import Estimate, at, influence, jacobian, polish, positive

MANY = 40  # runs more than parameters
LANES = 100  # refits at once: what a processor's cache holds
CORRELATIONS = np.linspace(0, 0.95, 20)


def t_quantile(level: float, dof: float) -> float:
    """Half width of a central interval of Student's t, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(max(dof, 1), (1 + level) / 2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """What the residuals say about the noise, and so about z."""

    covariance: Array  # [P, P] of z, zero where a parameter is not free
    correlation: float  # of residuals within a trunk
    noise: float  # standard deviation of ln L of one new run about the law, what it shares with its trunk included
    dof: int  # for Student's t: runs less parameters, or what few trunks leave of that (Satterthwaite 1946)


def covariance(form: Any, estimate: Estimate, x: tuple[Array, ...], free: Array, trunk: Sequence[str]) -> Spread:
    """The spread of an estimate on R runs at x, each [R]; `free` [P] tells which parameters were estimated.

    Three cases. Where trunks hold several runs their correlation is estimated by restricted maximum likelihood on the
    linearised law, and if it is above 0 the covariance is that of this estimator under such noise. Else, with
    `MANY` runs or more to spare, the sandwich (Huber 1967; leverage as in HC3, MacKinnon & White 1985), which does
    not suppose equal noise everywhere; with fewer the sandwich is too small, and the noise of all runs is pooled.
    """
    full = np.zeros((len(free), len(free)))
    used = estimate.weight > 0
    j, weight = jacobian(form, estimate.theta, x)[:, free], estimate.weight
    bread = np.linalg.pinv((j * weight[:, None]).T @ j, hermitian=True, rcond=1e-14)
    psi, curvature = influence(estimate)
    spare = int(used.sum()) - j.shape[1]
    cluster = np.unique(list(trunk), return_inverse=True)[1]
    together = (cluster[:, None] == cluster[None, :])[np.ix_(used, used)].astype(float)
    correlation, inflation = 0.0, 1.0
    if together.sum() > used.sum() and spare > 1:
        correlation, inflation = _shared_noise(j[used], estimate.residual[used], together)
    if correlation == 0 and spare >= MANY:
        leverage = np.einsum("rp,pq,rq->r", j, bread, j) * weight
        curve = (j * curvature[:, None]).T @ j
        if np.linalg.eigvalsh(curve).min() > 0:
            inverse = np.linalg.inv(curve)
            score = j * (psi / (1 - np.minimum(leverage, 0.9)))[:, None]
            full[np.ix_(free, free)] = estimate.scale**2 * inverse @ (score.T @ score) @ inverse
            return Spread(covariance=full, correlation=0.0, noise=estimate.scale, dof=spare)
    mean = max(float(curvature[used].mean()), 0.1)
    small = 1 + j.shape[1] / used.sum() * float(curvature[used].var()) / mean**2  # Huber 1973
    variance = estimate.scale**2 * small**2 * float((psi**2).sum()) / max(spare, 1) / mean**2 * inflation
    root = j[used] * np.sqrt(weight[used])[:, None]
    noise = (1 - correlation) * np.eye(len(root)) + correlation * together
    full[np.ix_(free, free)] = variance * weight[used].mean() * bread @ (root.T @ noise @ root) @ bread
    clusters = len(set(cluster[used].tolist()))
    dof = spare
    if correlation > 0:
        dof = int(1 / (correlation**2 / max(clusters - 3, 1) + (1 - correlation) ** 2 / max(spare, 1)))
    noise_of_run = estimate.scale * float(np.sqrt(inflation))
    return Spread(covariance=full, correlation=correlation, noise=noise_of_run, dof=max(dof, 1))


def _shared_noise(j: Array, residual: Array, together: Array) -> tuple[float, float]:
    """(rho, inflation) by REML: Var r = sigma^2 [(1 - rho) I + rho together], sigma^2 relative to rho = 0."""
    q = np.linalg.qr(j)[0]
    best, sizes = (np.inf, 0.0), []
    for rho in CORRELATIONS:
        v = (1 - rho) * np.eye(len(j)) + rho * together
        solved = np.linalg.solve(v, np.column_stack([q, residual]))
        inner = q.T @ solved[:, :-1]
        quadratic = residual @ solved[:, -1] - (q.T @ solved[:, -1]) @ np.linalg.solve(inner, q.T @ solved[:, -1])
        spare = len(j) - j.shape[1]
        sizes.append(quadratic / spare)
        score = np.linalg.slogdet(v)[1] + np.linalg.slogdet(inner)[1] + spare * np.log(max(quadratic, 1e-300))
        if score < best[0] - 1e-9:
            best = (score, rho)
    chosen = int(np.flatnonzero(CORRELATIONS == best[1])[0])
    return float(best[1]), float(max(sizes[chosen] / max(sizes[0], 1e-300), 1.0))


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
    dof: int,
    level: float,
    log: bool = False,
    draws: Array | None = None,
) -> Interval:
    """Intervals of `function`, which maps a law whose fields are [B, 1] to values [B, K].

    Delta method by central differences in z with Student's t, for ln of a positive value if `log`; or percentiles
    over `draws` [B, P] where given.
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
    reach = t_quantile(level, dof) * se
    if log:
        factor = np.exp(np.minimum(reach / value, 300))
        return Interval(value=value, se=se, low=value / factor, high=value * factor)
    return Interval(value=value, se=se, low=value - reach, high=value + reach)
