"""What a loss is worth on tasks."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import Array, stack


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """error(L) = eps - k exp(-gamma L): the mean error of a set of tasks against the loss (arXiv:2403.08540).

    eps is the error at a large loss, that of chance. Units: eps, k fractions of 1, gamma 1/nats.
    """

    eps: float
    k: float
    gamma: float

    formula: ClassVar = "error = eps - k exp(-gamma L)"
    source: ClassVar = "Gadre et al. 2024, arXiv:2403.08540"
    about: ClassVar = "Mean error over many tasks from the loss; a single task is too noisy or too sudden for it."
    variables: ClassVar = ("loss",)
    response: ClassVar = "error"
    units: ClassVar = {"eps": "fraction", "k": "fraction", "gamma": "1/nats"}
    linear: ClassVar = ("eps", "k")
    names: ClassVar = ("eps", "k", "gamma")
    bounds: ClassVar = {"gamma": (0.01, 50.0)}
    positive: ClassVar = ("eps", "k", "gamma")
    grid: ClassVar = {"gamma": np.geomspace(0.03, 20.0, 60)}

    @classmethod
    def form(cls, *x: Array) -> "Downstream":
        return cls(eps=1.0, k=0.0, gamma=1.0)

    def __call__(self, loss: ArrayLike) -> Any:
        return self.eps - self.k * np.exp(-self.gamma * np.asarray(loss, float))

    def gradient(self, loss: ArrayLike) -> Array:
        """d error/d(eps, k, gamma), [..., R, 3]."""
        loss = np.asarray(loss, float)
        fall = np.exp(-self.gamma * loss)
        return stack(1.0, -fall, self.k * loss * fall)

    def basis(self, shape: Array, loss: Array) -> Array:
        """Columns 1, -exp(-gamma L) for shape [..., 1]: [..., R, 2]."""
        return stack(1.0, -np.exp(-shape[..., 0:1] * loss))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)
