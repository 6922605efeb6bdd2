"""Laws of N and D."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, Optimum, power, stack


@dataclass(frozen=True, kw_only=True)
class Chinchilla:
    """L(N, D) = E + A N^-alpha + B D^-beta (arXiv:2203.15556, eq. 2).

    E is the entropy of text, the next two terms what a finite model and finite data add. Units: E, A, B nats.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    formula: ClassVar = "L = E + A N^-alpha + B D^-beta"
    source: ClassVar = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2"
    about: ClassVar = "Finite model and finite data add independent terms to the entropy of text; unrepeated data."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "A": "nats", "B": "nats", "alpha": "", "beta": ""}
    linear: ClassVar = ("E", "A", "B")
    names: ClassVar = ("E", "A", "B", "alpha", "beta")
    bounds: ClassVar = {"E": (0.0, np.inf), "alpha": EXPONENT, "beta": EXPONENT}
    positive: ClassVar = ("A", "B", "alpha", "beta")
    grid: ClassVar = {"alpha": np.geomspace(0.04, 1.6, 16), "beta": np.geomspace(0.04, 1.6, 16)}

    @classmethod
    def form(cls, *x: Array) -> "Chinchilla":
        return cls(E=1.0, A=1.0, B=1.0, alpha=1.0, beta=1.0)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        return self.E + self.A * power(n, -self.alpha) + self.B * power(d, -self.beta)

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """dL/d(E, A, B, alpha, beta), [..., R, 5]."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        size, data = power(n, -self.alpha), power(d, -self.beta)
        return stack(1.0, size, data, -self.A * size * np.log(n), -self.B * data * np.log(d))

    def value_and_gradient(self, n: ArrayLike, d: ArrayLike) -> tuple[Array, Array]:
        """L [..., R] and its gradient [..., R, 5] from one exponential per term, for fields [..., 1] and n, d [R].

        Each of the five columns lies together in memory: estimators spend most of their time here.
        """
        log_n, log_d = np.log(np.asarray(n, float)), np.log(np.asarray(d, float))
        columns = np.empty((*np.broadcast_shapes(np.shape(self.alpha), log_n.shape)[:-1], 5, len(log_n)))
        columns[..., 0, :] = 1.0
        size, data = columns[..., 1, :], columns[..., 2, :]
        np.exp(-self.alpha * log_n, out=size)
        np.exp(-self.beta * log_d, out=data)
        np.multiply(size, -self.A * log_n, out=columns[..., 3, :])
        np.multiply(data, -self.B * log_d, out=columns[..., 4, :])
        return self.E + self.A * size + self.B * data, np.swapaxes(columns, -1, -2)

    def slopes(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any]:
        """dL/d ln N and dL/d ln D."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        return -self.alpha * self.A * power(n, -self.alpha), -self.beta * self.B * power(d, -self.beta)

    def optimum(self, flops: ArrayLike, cost: tuple[float, float]) -> Optimum:
        """The least loss under C = k N^p D, cost = (k, p), in closed form (arXiv:2203.15556, eq. 4, for p = 1).

        alpha A N^-alpha = p beta B D^-beta at the optimum, hence N* ~ C^(beta / (alpha + p beta)).
        """
        k, p = cost
        c = np.asarray(flops, float) / k
        g = self.alpha * self.A / (p * self.beta * self.B)
        n = (g * c**self.beta) ** (1 / (self.alpha + p * self.beta))
        d = c / n**p
        return Optimum(flops=flops, n=n, d=d, loss=self(n, d))

    def exponents(self, flops: ArrayLike, cost: tuple[float, float]) -> tuple[Any, Any]:
        """d ln N*/d ln C and d ln D*/d ln C: beta / (alpha + p beta) and alpha / (alpha + p beta), at any C."""
        total = self.alpha + cost[1] * self.beta
        same = np.zeros_like(np.asarray(flops, float))
        return self.beta / total + same, self.alpha / total + same

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """Columns 1, N^-alpha, D^-beta for shape [..., 2]: [..., R, 3]."""
        return stack(1.0, n ** -shape[..., 0:1], d ** -shape[..., 1:2])

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Kaplan:
    """L(N, D) = E + [(Nc/N)^(alpha_n/alpha_d) + Dc/D]^alpha_d: arXiv:2001.08361, eq. 1.5, on top of a floor E.

    The paper has E = 0. Units: E nats, Nc parameters, Dc tokens; with a floor their values are not the paper's.
    """

    E: float
    Nc: float
    Dc: float
    alpha_n: float
    alpha_d: float

    formula: ClassVar = "L = E + [(Nc/N)^(alpha_n/alpha_d) + Dc/D]^alpha_d"
    source: ClassVar = "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5, on top of a floor"
    about: ClassVar = "Size and data limit each other inside one bracket: data matters less to small models."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "Nc": "parameters", "Dc": "tokens", "alpha_n": "", "alpha_d": ""}
    linear: ClassVar = ("E", "scale of the bracket")
    names: ClassVar = ("E", "Nc", "Dc", "alpha_n", "alpha_d")
    bounds: ClassVar = {"E": (0.0, np.inf), "alpha_n": EXPONENT, "alpha_d": EXPONENT}
    positive: ClassVar = ("Nc", "Dc", "alpha_n", "alpha_d")
    # `balance` is the log ratio of the two terms in the bracket at the geometric middle of the runs.
    grid: ClassVar = {
        "alpha_n": np.geomspace(0.04, 1.6, 10),
        "alpha_d": np.geomspace(0.04, 1.6, 10),
        "balance": np.linspace(-5, 5, 9),
    }

    @classmethod
    def form(cls, *x: Array) -> "Kaplan":
        return cls(E=1.0, Nc=1.0, Dc=1.0, alpha_n=1.0, alpha_d=1.0)

    def _terms(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any, Any]:
        n, d = np.asarray(n, float), np.asarray(d, float)
        return self.alpha_n / self.alpha_d, (self.Nc / n) ** (self.alpha_n / self.alpha_d), self.Dc / d

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        _, size, data = self._terms(n, d)
        return self.E + (size + data) ** self.alpha_d

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """dL/d(E, Nc, Dc, alpha_n, alpha_d), [..., R, 5]."""
        ratio, size, data = self._terms(n, d)
        both = size + data
        outer = self.alpha_d * both ** (self.alpha_d - 1)  # dL/d(size + data)
        turn = size * np.log(self.Nc / np.asarray(n, float))  # d size / d ratio
        return stack(
            1.0,
            outer * size * ratio / self.Nc,
            outer * data / self.Dc,
            outer * turn / self.alpha_d,
            both**self.alpha_d * np.log(both) - outer * turn * ratio / self.alpha_d,
        )

    def slopes(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any]:
        """dL/d ln N and dL/d ln D."""
        ratio, size, data = self._terms(n, d)
        outer = self.alpha_d * (size + data) ** (self.alpha_d - 1)
        return -outer * ratio * size, -outer * data

    def optimum(self, flops: ArrayLike, cost: tuple[float, float]) -> Optimum:
        """The least loss under C = k N^p D, cost = (k, p): there (alpha_n/alpha_d) (Nc/N)^(...) = p Dc/D."""
        k, p = cost
        c = np.asarray(flops, float) / k
        ratio = self.alpha_n / self.alpha_d
        n = np.exp((np.log(ratio / (p * self.Dc)) + ratio * np.log(self.Nc) + np.log(c)) / (ratio + p))
        d = c / n**p
        return Optimum(flops=flops, n=n, d=d, loss=self(n, d))

    def exponents(self, flops: ArrayLike, cost: tuple[float, float]) -> tuple[Any, Any]:
        """d ln N*/d ln C = 1 / (alpha_n/alpha_d + p) and the same of D*, at any C."""
        total = self.alpha_n / self.alpha_d + cost[1]
        same = np.zeros_like(np.asarray(flops, float))
        return 1 / total + same, self.alpha_n / self.alpha_d / total + same

    def _log_weight(self, shape: Array, n: Array, d: Array) -> Array:
        """ln w in (w N^-ratio + 1/D), [..., 1]."""
        ratio = shape[..., 0:1] / shape[..., 1:2]
        return shape[..., 2:3] + ratio * np.log(n).mean() - np.log(d).mean()

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """Columns 1, (w N^-ratio + 1/D)^alpha_d for shape [..., 3] (alpha_n, alpha_d, balance): [..., R, 2]."""
        ratio = shape[..., 0:1] / shape[..., 1:2]
        both = np.logaddexp(self._log_weight(shape, n, d) - ratio * np.log(n), -np.log(d))
        return stack(1.0, np.exp(shape[..., 1:2] * both))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        alpha_n, alpha_d = shape[..., 0:1], shape[..., 1:2]
        log_dc = np.log(coefficient[..., 1:2]) / alpha_d
        nc = np.exp((self._log_weight(shape, *x) + log_dc) * alpha_d / alpha_n)
        return np.concatenate([coefficient[..., 0:1], nc, np.exp(log_dc), alpha_n, alpha_d], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """L(N, D) = E + A N^-alpha + B (D/d_mid)^-(beta + gamma ln(N/n_mid)): data helps larger models more if gamma > 0.

    The idea that the data term depends on N is Farseer's (arXiv:2506.10972); its exponent there is a stretched power
    of N and its coefficient moves too. This form is simpler: one parameter more than Chinchilla's. `n_mid` and
    `d_mid` are the geometric middle of the runs, not parameters: there beta is the data exponent and B, in nats, what
    finite data adds. Units: E, A, B nats. It is an expansion about the middle: far from there the exponent may turn
    negative.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float
    n_mid: float  # parameters
    d_mid: float  # tokens

    formula: ClassVar = "L = E + A N^-alpha + B (D/d_mid)^-(beta + gamma ln(N/n_mid))"
    source: ClassVar = "simplified from Farseer, Li et al. 2025, arXiv:2506.10972"
    about: ClassVar = "Chinchilla with a data exponent that moves with size; an expansion about the middle of the runs."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "A": "nats", "B": "nats", "alpha": "", "beta": "", "gamma": ""}
    linear: ClassVar = ("E", "A", "B")
    names: ClassVar = ("E", "A", "B", "alpha", "beta", "gamma")
    bounds: ClassVar = {"E": (0.0, np.inf), "alpha": EXPONENT, "beta": (-5.0, 5.0), "gamma": (-1.0, 1.0)}
    positive: ClassVar = ("A", "B", "alpha")
    grid: ClassVar = {
        "alpha": np.geomspace(0.04, 1.6, 9),
        "beta": np.geomspace(0.04, 1.6, 9),
        "gamma": np.linspace(-0.12, 0.12, 9),
    }

    @classmethod
    def form(cls, *x: Array) -> "Interaction":
        n_mid, d_mid = (float(np.exp(np.log(v).mean())) for v in x)
        return cls(E=1.0, A=1.0, B=1.0, alpha=1.0, beta=1.0, gamma=0.0, n_mid=n_mid, d_mid=d_mid)

    def _exponent(self, n: Any) -> Any:
        return self.beta + self.gamma * np.log(n / self.n_mid)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        n, d = np.asarray(n, float), np.asarray(d, float)
        return self.E + self.A * power(n, -self.alpha) + self.B * power(d / self.d_mid, -self._exponent(n))

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """dL/d(E, A, B, alpha, beta, gamma), [..., R, 6]."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        size, data = power(n, -self.alpha), power(d / self.d_mid, -self._exponent(n))
        per_beta = -self.B * data * np.log(d / self.d_mid)
        return stack(1.0, size, data, -self.A * size * np.log(n), per_beta, per_beta * np.log(n / self.n_mid))

    def slopes(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any]:
        """dL/d ln N and dL/d ln D."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        data = self.B * power(d / self.d_mid, -self._exponent(n))
        by_n = -self.alpha * self.A * power(n, -self.alpha) - self.gamma * np.log(d / self.d_mid) * data
        return by_n, -self._exponent(n) * data

    def optimum(self, flops: ArrayLike, cost: tuple[float, float]) -> Optimum:
        """The least loss under C = k N^p D, cost = (k, p), by bisection of its slope along ln N; NaN where it has none.

        Sizes within a factor of 10,000 of n_mid are looked at.
        """
        k, p = cost
        c = np.asarray(flops, float)[..., None] / k  # [..., F, 1]: the search adds a last axis
        wide = replace(self, **{name: np.asarray(getattr(self, name))[..., None] for name in self.names})
        log_n = np.log(self.n_mid) + np.linspace(-9.2, 9.2, 185)
        loss = wide(np.exp(log_n), c / np.exp(log_n) ** p)
        best = loss.argmin(axis=-1)
        edge = (best == 0) | (best == len(log_n) - 1)
        best = best.clip(1, len(log_n) - 2)[..., None]
        low, high = log_n[best - 1], log_n[best + 1]
        for _ in range(60):
            middle = (low + high) / 2
            n = np.exp(middle)
            by_n, by_d = wide.slopes(n, c / n**p)
            falling = by_n - p * by_d < 0
            low, high = np.where(falling, middle, low), np.where(falling, high, middle)
        n = np.where(edge, np.nan, np.exp((low + high) / 2)[..., 0])
        d = c[..., 0] / n**p
        return Optimum(flops=flops, n=n, d=d, loss=self(n, d))

    def exponents(self, flops: ArrayLike, cost: tuple[float, float]) -> tuple[Any, Any]:
        """d ln N*/d ln C and d ln D*/d ln C at this C, by a central difference: they drift with C here."""
        flops, step = np.asarray(flops, float), 0.02
        low, high = self.optimum(flops * np.exp(-step), cost), self.optimum(flops * np.exp(step), cost)
        return np.log(high.n / low.n) / (2 * step), np.log(high.d / low.d) / (2 * step)

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """Columns 1, N^-alpha, (D/d_mid)^-(beta + gamma ln(N/n_mid)) for shape [..., 3]: [..., R, 3]."""
        exponent = shape[..., 1:2] + shape[..., 2:3] * np.log(n / self.n_mid)
        return stack(1.0, n ** -shape[..., 0:1], (d / self.d_mid) ** -exponent)

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)
