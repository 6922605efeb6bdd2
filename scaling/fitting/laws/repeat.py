"""The law of repeated data."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, Optimum, power, stack


def _worth(repeats: Any, half: Any) -> Any:
    """What `repeats` further passes are worth, in first passes: at most `half`."""
    return -half * np.expm1(-repeats / half)


@dataclass(frozen=True, kw_only=True)
class DataConstrained:
    """L(N, D, U) = E + A N'^-alpha + B D'^-beta, where a repeated token is worth less each time (arXiv:2305.16264).

    D' = U (1 + R_D (1 - exp(-(D/U - 1) / R_D))) for U unique tokens; more unique tokens than D count as D. Likewise
    N' = U_N (1 + R_N (1 - exp(-(N/U_N - 1) / R_N))), where U_N = min(N, N_opt(U)) and N_opt(U) is the size for which U
    fresh tokens are compute-optimal under C ~ N D: (alpha A / (beta B))^(1/alpha) U^(beta/alpha). So a size above
    N_opt(U) is worth less than itself even in one epoch, and up to that size one epoch is Chinchilla's law. Units:
    E, A, B nats; R_D and R_N are numbers of repetitions.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    R_D: float
    R_N: float

    formula: ClassVar = (
        "L = E + A N'^-alpha + B D'^-beta, D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D))), "
        "N' = U_N (1 + R_N (1 - exp(-(N/U_N - 1)/R_N))), U_N = min(N, (alpha A/(beta B))^(1/alpha) U^(beta/alpha))"
    )
    source: ClassVar = "Muennighoff et al. 2023, arXiv:2305.16264"
    about: ClassVar = "Training for several epochs: what repeated tokens and excess parameters are worth."
    variables: ClassVar = ("n", "d", "u")
    response: ClassVar = "loss"
    units: ClassVar = {
        "E": "nats", "A": "nats", "B": "nats", "alpha": "", "beta": "", "R_D": "repetitions", "R_N": "repetitions",
    }  # fmt: skip
    linear: ClassVar = ("E", "scale of A and B")
    names: ClassVar = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
    bounds: ClassVar = {
        "E": (0.0, np.inf), "alpha": EXPONENT, "beta": EXPONENT, "R_D": (0.01, 1e4), "R_N": (0.01, 1e4),
    }  # fmt: skip
    positive: ClassVar = ("A", "B", "alpha", "beta", "R_D", "R_N")
    # `balance` is ln N_opt(U) over N, at the geometric middle of the runs: it fixes A over B.
    grid: ClassVar = {
        "alpha": np.geomspace(0.06, 1.2, 6),
        "beta": np.geomspace(0.06, 1.2, 6),
        "R_D": np.geomspace(1.0, 100.0, 4),
        "R_N": np.geomspace(1.0, 100.0, 4),
        "balance": np.linspace(-6, 3, 7),
    }

    @classmethod
    def form(cls, *x: Array) -> "DataConstrained":
        return cls(E=1.0, A=1.0, B=1.0, alpha=1.0, beta=1.0, R_D=1.0, R_N=1.0)

    def unique_size(self, u: ArrayLike) -> Any:
        """N_opt(U): the parameters for which `u` fresh tokens are compute-optimal."""
        log_ratio = np.log(self.alpha * self.A / (self.beta * self.B))
        return np.exp((log_ratio + self.beta * np.log(np.asarray(u, float))) / self.alpha)

    def effective(self, n: ArrayLike, d: ArrayLike, u: ArrayLike) -> tuple[Any, Any]:
        """N' in parameters and D' in tokens."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        u = np.minimum(np.asarray(u, float), d)
        size = np.minimum(n, self.unique_size(u))
        return size * (1 + _worth(n / size - 1, self.R_N)), u * (1 + _worth(d / u - 1, self.R_D))

    def __call__(self, n: ArrayLike, d: ArrayLike, u: ArrayLike) -> Any:
        size, data = self.effective(n, d, u)
        return self.E + self.A * power(size, -self.alpha) + self.B * power(data, -self.beta)

    def gradient(self, n: ArrayLike, d: ArrayLike, u: ArrayLike) -> Array:
        """dL/d(E, A, B, alpha, beta, R_D, R_N), [..., R, 7]; at N = N_opt(U), a kink, that of smaller N."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        u = np.minimum(np.asarray(u, float), d)
        best = self.unique_size(u)
        base = np.minimum(n, best)
        again_n, again_d = n / base - 1, d / u - 1
        size, data = base * (1 + _worth(again_n, self.R_N)), u * (1 + _worth(again_d, self.R_D))
        left_n, left_d = np.exp(-again_n / self.R_N), np.exp(-again_d / self.R_D)
        by_n, by_d = self.A * power(size, -self.alpha), self.B * power(data, -self.beta)
        # d ln N' / d ln N_opt, nothing where N_opt is not the smaller
        follows = np.where(best < n, base * (1 + _worth(again_n, self.R_N) - left_n * n / base) / size, 0.0)
        per_best = -self.alpha * by_n * follows  # dL / d ln N_opt
        turn = (1 / self.alpha - np.log(best)) / self.alpha  # d ln N_opt / d alpha
        return stack(
            1.0,
            by_n / self.A + per_best / (self.alpha * self.A),
            by_d / self.B - per_best / (self.alpha * self.B),
            -by_n * np.log(size) + per_best * turn,
            -by_d * np.log(data) + per_best * (np.log(u) - 1 / self.beta) / self.alpha,
            -self.beta * by_d * u / data * (1 - left_d * (1 + again_d / self.R_D)),
            -self.alpha * by_n * base / size * (1 - left_n * (1 + again_n / self.R_N)),
        )

    def allocation(self, flops: ArrayLike, cost: tuple[float, float], unique: float) -> Optimum:
        """The least loss under C = k N^p D, cost = (k, p), from `unique` different tokens; NaN where it has none.

        Looked for within a factor of 10,000 of the size that is best for fresh data, on a grid, and then where the
        slope changes its sign: a least value is flat, and would tell its place to half of the digits alone.
        """
        k, p = cost
        c = np.asarray(flops, float)[..., None] / k  # [..., F, 1]: the search adds a last axis
        wide = replace(self, **{name: np.asarray(getattr(self, name))[..., None] for name in self.names})
        g = np.log(wide.alpha * wide.A / (p * wide.beta * wide.B)) + wide.beta * np.log(c)
        log_n = g / (wide.alpha + p * wide.beta) + np.linspace(-9.2, 9.2, 185)

        def loss(log_n: Array) -> Any:
            return wide(np.exp(log_n), c / np.exp(p * log_n), unique)

        best = loss(log_n).argmin(axis=-1)
        edge = (best == 0) | (best == log_n.shape[-1] - 1)
        best = best.clip(1, log_n.shape[-1] - 2)[..., None]
        low, high = np.take_along_axis(log_n, best - 1, -1), np.take_along_axis(log_n, best + 1, -1)
        for _ in range(60):
            middle = (low + high) / 2
            falling = wide._tilt(np.exp(middle), c / np.exp(p * middle), unique, p) < 0
            low, high = np.where(falling, middle, low), np.where(falling, high, middle)
        n = np.where(edge, np.nan, np.exp((low + high) / 2)[..., 0])
        d = c[..., 0] / n**p
        return Optimum(flops=flops, n=n, d=d, loss=self(n, d, unique))

    def _tilt(self, n: Array, d: Array, u: Any, p: float) -> Array:
        """dL/d ln N along constant N^p D."""
        fresh = d < u
        u = np.minimum(u, d)
        best = self.unique_size(u)
        size, data = self.effective(n, d, u)
        by_n, by_d = self.alpha * self.A * power(size, -self.alpha), self.beta * self.B * power(data, -self.beta)
        # d ln N' / d ln N and d ln D' / d ln D: 1 where nothing is repeated or in excess
        up_n = n * np.exp(-(n / np.minimum(n, best) - 1) / self.R_N) / size
        up_d = d * np.exp(-(d / u - 1) / self.R_D) / data
        follows = np.where(fresh & (best < n), (1 - up_n) * self.beta / self.alpha, 0.0)  # of N_opt with D
        return -by_n * up_n + p * (by_d * up_d + by_n * follows)

    def _log_ratio(self, shape: Array, n: Array, u: Array) -> Array:
        """ln(A/B), [..., 1], from the size that is optimal for the unique tokens at the middle of the runs."""
        alpha, beta = shape[..., 0:1], shape[..., 1:2]
        middle = shape[..., 4:5] + np.log(n).mean()
        return alpha * middle - beta * np.log(u).mean() + np.log(beta / alpha)

    def basis(self, shape: Array, n: Array, d: Array, u: Array) -> Array:
        """Columns 1, (A/B) N'^-alpha + D'^-beta for shape [..., 5] (alpha, ..., R_N, balance): [..., R, 2]."""
        log_ratio = self._log_ratio(shape, n, np.minimum(u, d))
        alpha, beta, again_d, again_n = (shape[..., i : i + 1] for i in range(4))
        values: dict[str, Any] = {"A": np.exp(log_ratio), "alpha": alpha, "beta": beta, "R_D": again_d, "R_N": again_n}
        law = DataConstrained(E=0.0, B=1.0, **values)
        return stack(1.0, law(n, d, u))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        n, d, u = x
        scale = coefficient[..., 1:2]
        a = scale * np.exp(self._log_ratio(shape, n, np.minimum(u, d)))
        return np.concatenate([coefficient[..., 0:1], a, scale, shape[..., :4]], axis=-1)
