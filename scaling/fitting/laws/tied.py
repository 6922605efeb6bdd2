"""Laws of N and D with one exponent: Chinchilla's with alpha = beta, and the same surface in Gadre's coordinates."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, Optimum, power, stack
from scaling.fitting.laws.surface import Chinchilla

FLOPS_PER_ND = 6.0  # C = 6 N D, which the paper's form is written in, whatever the cost of the runs


@dataclass(frozen=True, kw_only=True)
class ChinchillaTied:
    """L(N, D) = E + A N^-alpha + B D^-alpha: N* and D* grow alike, D*/N* is the same at every C = k N D.

    Units: E, A, B nats.
    """

    E: float
    A: float
    B: float
    alpha: float

    formula: ClassVar = "L = E + A N^-alpha + B D^-alpha"
    source: ClassVar = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2, with alpha = beta as in arXiv:2305.16264"
    about: ClassVar = "One exponent for size and data: few runs, or runs that cannot tell the two apart."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "A": "nats", "B": "nats", "alpha": ""}
    linear: ClassVar = ("E", "A", "B")
    names: ClassVar = ("E", "A", "B", "alpha")
    bounds: ClassVar = {"E": (0.0, np.inf), "alpha": EXPONENT}
    positive: ClassVar = ("A", "B", "alpha")
    grid: ClassVar = {"alpha": np.geomspace(0.03, 2.0, 60)}

    @classmethod
    def form(cls, *x: Array) -> "ChinchillaTied":
        return cls(E=1.0, A=1.0, B=1.0, alpha=1.0)

    def untied(self) -> Chinchilla:
        return Chinchilla(E=self.E, A=self.A, B=self.B, alpha=self.alpha, beta=self.alpha)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        return self.untied()(n, d)

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """dL/d(E, A, B, alpha), [..., R, 4]."""
        full = self.untied().gradient(n, d)
        return np.concatenate([full[..., :3], full[..., 3:4] + full[..., 4:5]], axis=-1)

    def slopes(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any]:
        """dL/d ln N and dL/d ln D."""
        return self.untied().slopes(n, d)

    def optimum(self, flops: ArrayLike, cost: tuple[float, float]) -> Optimum:
        """As `Chinchilla.optimum`."""
        return self.untied().optimum(flops, cost)

    def exponents(self, flops: ArrayLike, cost: tuple[float, float]) -> tuple[Any, Any]:
        """d ln N*/d ln C and d ln D*/d ln C: both 1 / (1 + p), whatever alpha is."""
        return self.untied().exponents(flops, cost)

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """Columns 1, N^-alpha, D^-alpha for shape [..., 1]: [..., R, 3]."""
        return stack(1.0, power(n, -shape[..., 0:1]), power(d, -shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Overtraining:
    """L(C, M) = E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6 N D (arXiv:2403.08540).

    It is `ChinchillaTied` in other coordinates: alpha = 2 eta, A = a 6^-eta, B = b 6^-eta. At a constant number of
    tokens per parameter the excess over E falls as C^-eta, whatever M is. Units: E, a, b nats.
    """

    E: float
    a: float
    b: float
    eta: float

    formula: ClassVar = "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6 N D"
    source: ClassVar = "Gadre et al. 2024, arXiv:2403.08540"
    about: ClassVar = "Models trained on more tokens than is optimal: one exponent at every M, in tokens per parameter."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "a": "nats", "b": "nats", "eta": ""}
    linear: ClassVar = ("E", "a", "b")
    names: ClassVar = ("E", "a", "b", "eta")
    bounds: ClassVar = {"E": (0.0, np.inf), "eta": (EXPONENT[0] / 2, EXPONENT[1] / 2)}
    positive: ClassVar = ("a", "b", "eta")
    grid: ClassVar = {"eta": np.geomspace(0.015, 1.0, 60)}

    @classmethod
    def form(cls, *x: Array) -> "Overtraining":
        return cls(E=1.0, a=1.0, b=1.0, eta=1.0)

    def untied(self) -> Chinchilla:
        by_six = power(FLOPS_PER_ND, -self.eta)
        return Chinchilla(E=self.E, A=self.a * by_six, B=self.b * by_six, alpha=2 * self.eta, beta=2 * self.eta)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        return self.untied()(n, d)

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """dL/d(E, a, b, eta), [..., R, 4]."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        size, data = power(FLOPS_PER_ND * n**2, -self.eta), power(FLOPS_PER_ND * d**2, -self.eta)
        per_eta = -self.a * size * np.log(FLOPS_PER_ND * n**2) - self.b * data * np.log(FLOPS_PER_ND * d**2)
        return stack(1.0, size, data, per_eta)

    def slopes(self, n: ArrayLike, d: ArrayLike) -> tuple[Any, Any]:
        """dL/d ln N and dL/d ln D."""
        return self.untied().slopes(n, d)

    def optimum(self, flops: ArrayLike, cost: tuple[float, float]) -> Optimum:
        """As `Chinchilla.optimum`; with C = 6 N D it is at M = (b/a)^(1 / (2 eta))."""
        return self.untied().optimum(flops, cost)

    def exponents(self, flops: ArrayLike, cost: tuple[float, float]) -> tuple[Any, Any]:
        """d ln N*/d ln C and d ln D*/d ln C: both 1 / (1 + p), whatever eta is."""
        return self.untied().exponents(flops, cost)

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """Columns 1, (6 N^2)^-eta = (M/C)^eta, (6 D^2)^-eta = (M C)^-eta for shape [..., 1]: [..., R, 3]."""
        eta = shape[..., 0:1]
        return stack(1.0, power(FLOPS_PER_ND * n**2, -eta), power(FLOPS_PER_ND * d**2, -eta))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)
