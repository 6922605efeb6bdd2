"""The smoothly broken power law in one variable."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import Array, power, stack


@dataclass(frozen=True, kw_only=True)
class Broken:
    """y(x) = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1) (arXiv:2210.14891, eq. 1, with one break).

    Far below the break d1 the excess over a falls as x^-c0, far above it as x^-(c0 + c1); f1 is the width of the break
    in ln x. Units: a, b those of y (b at x = 1), d1 those of x.
    """

    a: float
    b: float
    c0: float
    c1: float
    d1: float
    f1: float

    formula: ClassVar = "L = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)"
    source: ClassVar = "Caballero et al. 2022, arXiv:2210.14891, eq. 1, with one break"
    about: ClassVar = "A power law whose exponent changes from c0 to c0 + c1 around d1; needs runs well on both sides."
    variables: ClassVar = ("x",)
    response: ClassVar = "loss"
    units: ClassVar = {"a": "nats", "b": "nats", "c0": "", "c1": "", "d1": "as x", "f1": ""}
    linear: ClassVar = ("a", "b")
    names: ClassVar = ("a", "b", "c0", "c1", "d1", "f1")
    bounds: ClassVar = {"a": (0.0, np.inf), "c0": (-5.0, 5.0), "c1": (-20.0, 20.0), "f1": (0.01, 10.0)}
    positive: ClassVar = ("b", "d1", "f1")
    # `place` is where ln d1 lies in the range of ln x of the runs: 0 at their least, 1 at their largest.
    grid: ClassVar = {
        "c0": np.array([-0.1, 0.0, 0.05, 0.12, 0.25, 0.5, 1.0]),
        "c1": np.array([-0.5, -0.2, -0.07, 0.1, 0.25, 0.5, 1.0, 2.0]),
        "place": np.linspace(0.1, 0.9, 9),
        "f1": np.array([0.1, 0.3, 1.0]),
    }

    @classmethod
    def form(cls, *x: Array) -> "Broken":
        return cls(a=1.0, b=1.0, c0=1.0, c1=0.0, d1=1.0, f1=1.0)

    def __call__(self, x: ArrayLike) -> Any:
        x = np.asarray(x, float)
        past = np.logaddexp(0.0, np.log(x / self.d1) / self.f1)  # ln(1 + (x/d1)^(1/f1)), at any width
        return self.a + self.b * power(x, -self.c0) * np.exp(-self.c1 * self.f1 * past)

    def gradient(self, x: ArrayLike) -> Array:
        """dy/d(a, b, c0, c1, d1, f1), [..., R, 6]."""
        x = np.asarray(x, float)
        along = np.log(x / self.d1) / self.f1
        past = np.logaddexp(0.0, along)
        share = np.exp(along - past)  # of the slope c1 that is in force at x
        term = power(x, -self.c0) * np.exp(-self.c1 * self.f1 * past)
        excess = self.b * term
        return stack(
            1.0,
            term,
            -excess * np.log(x),
            -excess * self.f1 * past,
            excess * self.c1 * share / self.d1,
            -excess * self.c1 * (past - along * share),
        )

    def _break(self, shape: Array, x: Array) -> Array:
        """ln d1, [..., 1]."""
        low, high = np.log(x).min(), np.log(x).max()
        return low + shape[..., 2:3] * (high - low)

    def basis(self, shape: Array, x: Array) -> Array:
        """Columns 1 and the rest over b, for shape [..., 4] (c0, c1, place, f1): [..., R, 2]."""
        width = shape[..., 3:4]
        past = np.logaddexp(0.0, (np.log(x) - self._break(shape, x)) / width)
        return stack(1.0, np.exp(-shape[..., 0:1] * np.log(x) - shape[..., 1:2] * width * past))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        d1 = np.exp(self._break(shape, *x))
        return np.concatenate([coefficient, shape[..., 0:2], d1, shape[..., 3:4]], axis=-1)
