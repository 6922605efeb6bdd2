"""Kaplan's three laws of one variable, (scale / x)^alpha, in the parameters of arXiv:2001.08361, eqs. 1.1 to 1.3.

They have no floor: `kaplan` in N and D has one, and so has `power` in any variable.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, power, stack


def _gradient(scale: Any, alpha: Any, x: ArrayLike) -> Array:
    """d (scale / x)^alpha / d(scale, alpha), [..., R, 2]."""
    ratio = scale / np.asarray(x, float)
    loss = power(ratio, alpha)
    return stack(alpha * loss / scale, loss * np.log(ratio))


def _from_basis(shape: Array, coefficient: Array) -> Array:
    """(scale, alpha) for the coefficient scale^alpha of x^-alpha."""
    return np.concatenate([np.exp(np.log(coefficient) / shape), shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class KaplanN:
    """L(N) = (Nc/N)^alpha_n (arXiv:2001.08361, eq. 1.1): data ample, trained to convergence. Units: Nc parameters."""

    Nc: float
    alpha_n: float

    formula: ClassVar = "L = (Nc/N)^alpha_n"
    source: ClassVar = "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.1"
    about: ClassVar = "Loss against size where neither data nor training limits it."
    variables: ClassVar = ("n",)
    response: ClassVar = "loss"
    units: ClassVar = {"Nc": "parameters", "alpha_n": ""}
    linear: ClassVar = ("scale of the power",)
    names: ClassVar = ("Nc", "alpha_n")
    bounds: ClassVar = {"alpha_n": EXPONENT}
    positive: ClassVar = ("Nc", "alpha_n")
    grid: ClassVar = {"alpha_n": np.geomspace(0.02, 2.5, 60)}

    @classmethod
    def form(cls, *x: Array) -> "KaplanN":
        return cls(Nc=1.0, alpha_n=1.0)

    def __call__(self, n: ArrayLike) -> Any:
        return power(self.Nc / np.asarray(n, float), self.alpha_n)

    def gradient(self, n: ArrayLike) -> Array:
        """dL/d(Nc, alpha_n), [..., R, 2]."""
        return _gradient(self.Nc, self.alpha_n, n)

    def basis(self, shape: Array, n: Array) -> Array:
        """The column N^-alpha_n for shape [..., 1]: [..., R, 1]."""
        return stack(power(n, -shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return _from_basis(shape, coefficient)


@dataclass(frozen=True, kw_only=True)
class KaplanD:
    """L(D) = (Dc/D)^alpha_d (arXiv:2001.08361, eq. 1.2): a large model, stopped at its least loss. Units: Dc tokens."""

    Dc: float
    alpha_d: float

    formula: ClassVar = "L = (Dc/D)^alpha_d"
    source: ClassVar = "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.2"
    about: ClassVar = "Loss against data where size does not limit it and training is stopped at its least loss."
    variables: ClassVar = ("d",)
    response: ClassVar = "loss"
    units: ClassVar = {"Dc": "tokens", "alpha_d": ""}
    linear: ClassVar = ("scale of the power",)
    names: ClassVar = ("Dc", "alpha_d")
    bounds: ClassVar = {"alpha_d": EXPONENT}
    positive: ClassVar = ("Dc", "alpha_d")
    grid: ClassVar = {"alpha_d": np.geomspace(0.02, 2.5, 60)}

    @classmethod
    def form(cls, *x: Array) -> "KaplanD":
        return cls(Dc=1.0, alpha_d=1.0)

    def __call__(self, d: ArrayLike) -> Any:
        return power(self.Dc / np.asarray(d, float), self.alpha_d)

    def gradient(self, d: ArrayLike) -> Array:
        """dL/d(Dc, alpha_d), [..., R, 2]."""
        return _gradient(self.Dc, self.alpha_d, d)

    def basis(self, shape: Array, d: Array) -> Array:
        """The column D^-alpha_d for shape [..., 1]: [..., R, 1]."""
        return stack(power(d, -shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return _from_basis(shape, coefficient)


@dataclass(frozen=True, kw_only=True)
class KaplanC:
    """L(C) = (Cc/C)^alpha_c (arXiv:2001.08361, eq. 1.3): size and batch chosen for the compute. Units: Cc FLOPs."""

    Cc: float
    alpha_c: float

    formula: ClassVar = "L = (Cc/C)^alpha_c"
    source: ClassVar = "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.3"
    about: ClassVar = "Loss against compute on the frontier; the paper counts compute in PF-days, this law in FLOPs."
    variables: ClassVar = ("c",)
    response: ClassVar = "loss"
    units: ClassVar = {"Cc": "FLOPs", "alpha_c": ""}
    linear: ClassVar = ("scale of the power",)
    names: ClassVar = ("Cc", "alpha_c")
    bounds: ClassVar = {"alpha_c": EXPONENT}
    positive: ClassVar = ("Cc", "alpha_c")
    grid: ClassVar = {"alpha_c": np.geomspace(0.02, 2.5, 60)}

    @classmethod
    def form(cls, *x: Array) -> "KaplanC":
        return cls(Cc=1.0, alpha_c=1.0)

    def __call__(self, c: ArrayLike) -> Any:
        return power(self.Cc / np.asarray(c, float), self.alpha_c)

    def gradient(self, c: ArrayLike) -> Array:
        """dL/d(Cc, alpha_c), [..., R, 2]."""
        return _gradient(self.Cc, self.alpha_c, c)

    def basis(self, shape: Array, c: Array) -> Array:
        """The column C^-alpha_c for shape [..., 1]: [..., R, 1]."""
        return stack(power(c, -shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return _from_basis(shape, coefficient)
