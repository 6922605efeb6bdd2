"""Where the noise of a table comes from: variances of what runs share and of what each has to itself.

Runs that were cut from one trajectory, have one size (and so one untuned learning rate) or one seed miss the law
together. Their residuals, taken linear in the parameters, have the covariance

    V = run^2 S^2 + sum_k var_k Z_k Z_k' + diag(known^2),

Z_k [R, G] telling who shares what, S the spread of the rows and `known` the standard error of their evaluation. The
variances are those of restricted maximum likelihood (Patterson & Thompson, Biometrika 58 (1971) 545) by Fisher scoring,
none below 0. Nothing of size R x R is made. Suffixes: R rows, P parameters, K sources, G groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.laws import Array

LEAST_LEFT = 0.25  # of the square of a source's strongest contrast, left when the law is fitted
LEAST_APART = 0.05  # 1 - correlation^2 between what two sources do to the residuals, below which they are one
RANK = 1e-10  # of the largest singular value, below which a direction of the Jacobian is rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Variances of the residuals by source, and how well they are known."""

    names: tuple[str, ...]  # of the sources whose variance was sought, "run" first
    variance: Array  # [K], 0 where the residuals show nothing
    information: Array  # [K, K], tr(P B_k P B_l); its inverse, twice, is the covariance of `variance` (Fisher)
    labels: dict[str, Array]  # [R] each: of the sources but "run", a number for each group
    spread: Array  # [R], of run noise, relative
    known: Array  # [R], standard deviation of the evaluation's part
    weight: Array | float = 1.0  # [R], a run's own part of the variance is divided by it; 0 leaves the run out

    def root(self, name: str) -> Array:
        """Z [R, G] of a source, S of "run" (diagonal): its part of V is the variance times Z Z'."""
        return np.diag(self.spread) if name == "run" else indicator(self.labels[name])

    def solve(self, columns: Array) -> Array:
        """V^-1 columns, for columns [R] or [R, C]."""
        inverse = self.weight / (self.variance[0] * self.spread**2 + self.known**2)
        shared = self._shared()
        scaled, over = shared * inverse[:, None], (columns.T * inverse).T
        inner = np.eye(shared.shape[1]) + shared.T @ scaled
        return over - scaled @ np.linalg.solve(inner, shared.T @ over)

    def predict(self, residual: Array) -> Array:
        """What residuals [R] hold that is shared: its expectation given them (Henderson 1975), [R]."""
        shared = self._shared()
        return shared @ (shared.T @ self.solve(residual))

    def draw(self, rng: np.random.Generator, run_BxR: Array) -> Array:
        """[B, R], noise with these components; `run_BxR` is its part of each run, of unit variance."""
        noise = np.sqrt(self.variance[0]) * self.spread * run_BxR
        noise = noise + self.known * rng.normal(size=noise.shape)
        for name, variance in zip(self.names[1:], self.variance[1:], strict=True):
            z = indicator(self.labels[name])
            noise = noise + np.sqrt(variance) * rng.normal(size=(len(noise), z.shape[1])) @ z.T
        return noise

    @property
    def doubt(self) -> Array:
        """[K, K], covariance of the estimated variances, which end at 0: as of max(0, X), X normal about them."""
        covariance = 2 * np.linalg.pinv(self.information, hermitian=True)
        error = np.sqrt(np.diag(covariance)) + 1e-300
        share = np.sqrt(_variance_above_zero(self.variance / error))
        share[0] = 1.0
        return covariance * share[:, None] * share

    def _shared(self) -> Array:
        """F [R, G]: the shared part of V is F F'."""
        shared = [
            np.sqrt(v) * indicator(self.labels[name])
            for name, v in zip(self.names[1:], self.variance[1:], strict=True)
            if v > 0
        ]
        return np.concatenate([*shared, np.zeros((len(self.spread), 0))], axis=1)


def _variance_above_zero(a: Array) -> Array:
    """Var max(0, X) of X normal about a with variance 1."""
    from scipy.special import ndtr

    density = np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)
    mean = a * ndtr(a) + density
    return (a**2 + 1) * ndtr(a) + a * density - mean**2


def indicator(label: Array) -> Array:
    """[R, G]: 1 where a row is of a group."""
    return (label[:, None] == np.unique(label)[None, :]).astype(float)


def sources(j: Array, shared: Mapping[str, Iterable[Any]]) -> dict[str, Array]:
    """Of `shared`, labels of the rows by source, those whose variance the rows can tell; numbers for labels, [R] each.

    A source needs groups of several rows that differ in a way which the law, linear with the columns of j [R, P],
    cannot copy. Of two that do the same to the residuals, such as trunk and size where each size has one trunk, the
    first is kept.
    """
    q = np.linalg.qr(j)[0]
    told: dict[str, Array] = {}
    kept: list[Array] = []
    for name, labels in shared.items():
        label = np.unique(list(labels), return_inverse=True)[1]
        groups = int(label.max()) + 1 if len(label) else 0
        if groups in (0, 1, len(label)):
            continue
        z = indicator(label)
        left = z - q @ (q.T @ z)
        square = np.linalg.eigvalsh(left.T @ left).clip(0)
        if square.max() < LEAST_LEFT * len(label) / groups:
            continue
        if _apart(q, [left, *kept]) < LEAST_APART:
            continue
        kept.append(left)
        told[name] = label
    return told


def _apart(q: Array, roots: list[Array]) -> float:
    """1 - R^2 of the first source's M B M on the others' and on the run's M, as vectors."""
    m = len(q) - q.shape[1]
    gram = np.array([[float(((a.T @ b) ** 2).sum()) for b in roots] for a in roots])
    trace = np.array([float((a * a).sum()) for a in roots])
    full = np.block([[gram, trace[:, None]], [trace[None, :], np.array([[float(m)]])]])
    own, cross, rest = full[0, 0], full[0, 1:], full[1:, 1:]
    return float(1 - cross @ np.linalg.lstsq(rest, cross, rcond=None)[0] / own)


def components(
    j: Array,
    residual: Array,
    shared: Mapping[str, Iterable[Any]],
    *,
    spread: Array | None = None,
    known: Array | None = None,
    iterations: int = 60,
) -> Components:
    """Variances of R residuals [R] of a law of Jacobian j [R, P], by restricted maximum likelihood.

    `shared` maps a source's name to the rows' labels; those that the rows cannot tell are left out (`sources`).
    `spread` [R] is of run noise relative to the other rows', `known` [R] the standard deviation of the evaluation.
    """
    rows = len(residual)
    spread = np.ones(rows) if spread is None else np.asarray(spread, float)
    known = np.zeros(rows) if known is None else np.nan_to_num(np.asarray(known, float))
    labels = sources(j / spread[:, None], shared)
    names = ("run", *labels)
    roots = [indicator(label) for label in labels.values()]
    j = _basis(j, spread)
    q = np.linalg.qr(j / spread[:, None])[0]
    white = residual / spread
    total = float(((white - q @ (q.T @ white)) ** 2).sum()) / max(rows - j.shape[1], 1)
    floor = 1e-12 * total + 1e-28  # rounding errors of a law without noise have no sources
    variance = np.array([max(total - float(np.mean((known / spread) ** 2)), 0.2 * total), *[0.0] * len(roots)])
    variance += floor
    variance[1:] = variance[0] / (1 + len(roots)) / 2
    best, value = variance, -np.inf
    step = 1.0
    for _ in range(iterations):
        score, information, likelihood = _score(j, residual, variance, roots, spread, known)
        if likelihood >= value - 1e-12:
            gained = likelihood - value
            best, value, step = variance, likelihood, min(2 * step, 1.0)
            if gained < 1e-9:
                break
            best_score, best_information = score, information
        else:
            step /= 4
            if step < 1e-4:
                break
        at_zero = (best <= floor) & (best_score <= 0)
        inner = best_information + 1e-12 * np.diag(np.diag(best_information))
        move = np.zeros(len(best))
        for _ in range(len(best)):
            active = ~at_zero
            move[:] = 0
            move[active] = np.linalg.solve(inner[np.ix_(active, active)], best_score[active])
            stopped = active & (best <= floor) & (move < 0)
            if not stopped.any():
                break
            at_zero |= stopped
        variance = np.maximum(best + step * move, floor)
    variance = best
    information = _score(j, residual, variance, roots, spread, known)[1]
    return Components(
        names=names, variance=np.where(variance <= 2 * floor, 0.0, variance), information=information, labels=labels,
        spread=spread, known=known,
    )  # fmt: skip


def _basis(j: Array, spread: Array) -> Array:
    """Columns that span what j's do; of j itself they may be alike up to rounding, where a law is hardly told."""
    scaled = j / spread[:, None]
    scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=0), 1e-300)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, singular > RANK * singular.max()] * spread[:, None]


def _score(
    j: Array, residual: Array, variance: Array, roots: list[Array], spread: Array, known: Array
) -> tuple[Array, Array, float]:
    """Twice the slope of the restricted likelihood [K], twice its expected curvature [K, K], and twice its value.

    V^-1 = 1 / D - T T' and P = V^-1 - U U' with few columns T, U: P is never made.
    """
    d, s2 = variance[0] * spread**2 + known**2, spread**2
    z = np.concatenate([*roots, np.zeros((len(d), 0))], axis=1)
    source = np.repeat(np.arange(len(roots)), [root.shape[1] for root in roots])
    g = np.sqrt(variance[1:])[source]
    inner = np.eye(z.shape[1]) + g[:, None] * ((z / d[:, None]).T @ z) * g
    lower = np.linalg.cholesky(inner)
    t = np.linalg.solve(lower, (z * g / d[:, None]).T).T
    solved = j / d[:, None] - t @ (t.T @ j)
    fisher = j.T @ solved
    size = np.sqrt(np.diag(fisher)) + 1e-300
    root_fisher = np.linalg.cholesky(fisher / size / size[:, None] + 1e-13 * np.eye(len(size)))
    u = np.linalg.solve(root_fisher, (solved / size).T).T
    f = np.concatenate([t, u], axis=1)

    def project(columns: Array) -> Array:
        return (columns.T / d).T - f @ (f.T @ columns)

    py, pz, sf = project(residual), project(z), (s2[:, None] * f)
    zpz = z.T @ pz
    k = len(roots)
    score, information = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    score[0] = float(s2 @ py**2 - (s2 / d).sum() + (sf * f).sum())
    information[0, 0] = float((s2**2 / d**2).sum() - 2 * ((sf * sf).sum(axis=1) / d).sum() + ((f.T @ sf) ** 2).sum())
    shared = (z.T @ py) ** 2 - np.diag(zpz)
    mixed = (s2[:, None] * pz**2).sum(axis=0)
    for a in range(k):
        score[a + 1] = shared[source == a].sum()
        information[0, a + 1] = information[a + 1, 0] = mixed[source == a].sum()
        for b in range(k):
            information[a + 1, b + 1] = (zpz[np.ix_(source == a, source == b)] ** 2).sum()
    value = -float(
        np.log(d).sum() + 2 * np.log(np.diag(lower)).sum() + 2 * np.log(np.diag(root_fisher) * size).sum()
        + residual @ py
    )  # fmt: skip
    return score, information, value
