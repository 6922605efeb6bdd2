"""Laws in one variable: N, D or C."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, power, stack


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """L(x) = E + A x^-alpha in one variable: N, D or C (arXiv:2001.08361, eqs. 1.1-1.3; E as in arXiv:2010.14701).

    E is the loss that no x removes; `PowerNoFloor` is the law without it. Units: E nats, A nats, alpha none.
    """

    E: float
    A: float
    alpha: float

    formula: ClassVar = "L = E + A x^-alpha"
    source: ClassVar = (
        "Kaplan et al. 2020, arXiv:2001.08361, eqs. 1.1-1.3; floor as in Henighan et al. 2020, arXiv:2010.14701"
    )
    about: ClassVar = (
        "One variable and a floor: L(N) at ample data, L(D) at ample size, L(C) on a frontier, any column."
    )
    variables: ClassVar = ("x",)
    response: ClassVar = "loss"
    units: ClassVar = {"E": "nats", "A": "nats", "alpha": ""}
    linear: ClassVar = ("E", "A")
    names: ClassVar = ("E", "A", "alpha")
    bounds: ClassVar = {"E": (0.0, np.inf), "alpha": EXPONENT}
    positive: ClassVar = ("A", "alpha")  # estimated as logarithms
    grid: ClassVar = {"alpha": np.geomspace(0.02, 2.5, 60)}

    @classmethod
    def form(cls, *x: Array) -> "PowerLaw":
        return cls(E=1.0, A=1.0, alpha=1.0)

    def __call__(self, x: ArrayLike) -> Any:
        return self.E + self.A * np.asarray(x, float) ** -self.alpha

    def gradient(self, x: ArrayLike) -> Array:
        """dL/d(E, A, alpha), [..., R, 3]."""
        x = np.asarray(x, float)
        term = x**-self.alpha
        return stack(1.0, term, -self.A * term * np.log(x))

    def basis(self, shape: Array, x: Array) -> Array:
        """Columns 1, x^-alpha for shape [..., 1]: [..., R, 2]."""
        return stack(1.0, x ** -shape[..., 0:1])

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class PowerNoFloor:
    """y(x) = A x^-alpha in one variable: the power law whose floor is zero. Units: A those of y, alpha none."""

    A: float
    alpha: float

    formula: ClassVar = "L = A x^-alpha"
    source: ClassVar = "Hestness et al. 2017, arXiv:1712.00409; Kaplan et al. 2020, arXiv:2001.08361, eqs. 1.1-1.3"
    about: ClassVar = "A power law far above its floor, or of a quantity that falls to zero: a reducible loss."
    variables: ClassVar = ("x",)
    response: ClassVar = "loss"
    units: ClassVar = {"A": "nats", "alpha": ""}
    linear: ClassVar = ("A",)
    names: ClassVar = ("A", "alpha")
    bounds: ClassVar = {"alpha": EXPONENT}
    positive: ClassVar = ("A", "alpha")
    grid: ClassVar = {"alpha": np.geomspace(0.02, 2.5, 60)}

    @classmethod
    def form(cls, *x: Array) -> "PowerNoFloor":
        return cls(A=1.0, alpha=1.0)

    def __call__(self, x: ArrayLike) -> Any:
        return self.A * power(x, -self.alpha)

    def gradient(self, x: ArrayLike) -> Array:
        """dL/d(A, alpha), [..., R, 2]."""
        term = power(x, -self.alpha)
        return stack(term, -self.A * term * np.log(np.asarray(x, float)))

    def basis(self, shape: Array, x: Array) -> Array:
        """The column x^-alpha for shape [..., 1]: [..., R, 1]."""
        return stack(power(x, -shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)
