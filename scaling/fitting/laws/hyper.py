"""Laws of the learning rate and the batch size, and of what a batch costs in steps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array, power, stack

EITHER_WAY = (-3.0, 3.0)  # range of an exponent that may have either sign


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """lr(N, D) = c N^a D^b, the best peak learning rate (arXiv:2503.04715). Units: c that of lr at N = D = 1."""

    c: float
    a: float
    b: float

    formula: ClassVar = "lr = c N^a D^b"
    source: ClassVar = "Li et al. 2025 (Step Law), arXiv:2503.04715"
    about: ClassVar = "The best peak learning rate of each size and horizon, found by a sweep; holds for its optimizer."
    variables: ClassVar = ("n", "d")
    response: ClassVar = "lr"
    units: ClassVar = {"c": "learning rate", "a": "", "b": ""}
    linear: ClassVar = ("c",)
    names: ClassVar = ("c", "a", "b")
    bounds: ClassVar = {"a": EITHER_WAY, "b": EITHER_WAY}
    positive: ClassVar = ("c",)
    grid: ClassVar = {"a": np.linspace(-1.5, 1.5, 31), "b": np.linspace(-1.5, 1.5, 31)}

    @classmethod
    def form(cls, *x: Array) -> "LearningRate":
        return cls(c=1.0, a=0.0, b=0.0)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Any:
        return self.c * power(n, self.a) * power(d, self.b)

    def gradient(self, n: ArrayLike, d: ArrayLike) -> Array:
        """d lr/d(c, a, b), [..., R, 3]."""
        y = self(n, d)
        return stack(y / self.c, y * np.log(np.asarray(n, float)), y * np.log(np.asarray(d, float)))

    def basis(self, shape: Array, n: Array, d: Array) -> Array:
        """The column N^a D^b for shape [..., 2]: [..., R, 1]."""
        return stack(power(n, shape[..., 0:1]) * power(d, shape[..., 1:2]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class BatchSize(LearningRate):
    """B(N, D) = c N^a D^b, the best batch in tokens (arXiv:2503.04715, which finds a = 0). Units: c tokens."""

    formula: ClassVar = "B = c N^a D^b"
    about: ClassVar = "The best batch of each size and horizon, found by a sweep; the source finds no dependence on N."
    response: ClassVar = "batch_tokens"
    units: ClassVar = {"c": "tokens", "a": "", "b": ""}


@dataclass(frozen=True, kw_only=True)
class LearningRateCompute:
    """lr(C) = c C^a, the best peak learning rate on the frontier (arXiv:2401.02954). Units: c that of lr at C = 1."""

    c: float
    a: float

    formula: ClassVar = "lr = c C^a"
    source: ClassVar = "DeepSeek-AI 2024, arXiv:2401.02954"
    about: ClassVar = "The best peak learning rate of each budget, for models near the compute optimum."
    variables: ClassVar = ("c",)
    response: ClassVar = "lr"
    units: ClassVar = {"c": "learning rate", "a": ""}
    linear: ClassVar = ("c",)
    names: ClassVar = ("c", "a")
    bounds: ClassVar = {"a": EITHER_WAY}
    positive: ClassVar = ("c",)
    grid: ClassVar = {"a": np.linspace(-1.5, 1.5, 61)}

    @classmethod
    def form(cls, *x: Array) -> "LearningRateCompute":
        return cls(c=1.0, a=0.0)

    def __call__(self, c: ArrayLike) -> Any:
        return self.c * power(c, self.a)

    def gradient(self, c: ArrayLike) -> Array:
        """d lr/d(c, a), [..., R, 2]."""
        y = self(c)
        return stack(y / self.c, y * np.log(np.asarray(c, float)))

    def basis(self, shape: Array, c: Array) -> Array:
        """The column C^a for shape [..., 1]: [..., R, 1]."""
        return stack(power(c, shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class BatchSizeCompute(LearningRateCompute):
    """B(C) = c C^a, the best batch in tokens on the frontier (arXiv:2401.02954). Units: c tokens."""

    formula: ClassVar = "B = c C^a"
    about: ClassVar = "The best batch of each budget, for models near the compute optimum."
    response: ClassVar = "batch_tokens"
    units: ClassVar = {"c": "tokens", "a": ""}


@dataclass(frozen=True, kw_only=True)
class CriticalBatch:
    """B_crit(L) = B_star L^(-1/alpha_B), in tokens (arXiv:2001.08361, eq. 5.3; the batch itself is arXiv:1812.06162's).

    A batch of B_crit takes twice the fewest steps and twice the fewest tokens to a loss. Units: B_star tokens, at
    1 nat.
    """

    B_star: float
    alpha_B: float

    formula: ClassVar = "B_crit = B_star L^(-1/alpha_B)"
    source: ClassVar = "Kaplan et al. 2020, arXiv:2001.08361, eq. 5.3, after McCandlish et al. 2018, arXiv:1812.06162"
    about: ClassVar = "The batch beyond which more parallel work saves few steps, at each loss on the way."
    variables: ClassVar = ("loss",)
    response: ClassVar = "batch_tokens"
    units: ClassVar = {"B_star": "tokens", "alpha_B": ""}
    linear: ClassVar = ("B_star",)
    names: ClassVar = ("B_star", "alpha_B")
    bounds: ClassVar = {"alpha_B": EXPONENT}
    positive: ClassVar = ("B_star", "alpha_B")
    grid: ClassVar = {"alpha_B": np.geomspace(0.03, 3.0, 60)}

    @classmethod
    def form(cls, *x: Array) -> "CriticalBatch":
        return cls(B_star=1.0, alpha_B=1.0)

    def __call__(self, loss: ArrayLike) -> Any:
        return self.B_star * power(loss, -1 / self.alpha_B)

    def gradient(self, loss: ArrayLike) -> Array:
        """dB/d(B_star, alpha_B), [..., R, 2]."""
        batch = self(loss)
        return stack(batch / self.B_star, batch * np.log(np.asarray(loss, float)) / self.alpha_B**2)

    def basis(self, shape: Array, loss: Array) -> Array:
        """The column L^(-1/alpha_B) for shape [..., 1]: [..., R, 1]."""
        return stack(power(loss, -1 / shape[..., 0:1]))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape], axis=-1)


@dataclass(frozen=True, kw_only=True)
class StepsExamples:
    """(S/S_min - 1) (X/X_min - 1) = 1 for one loss reached in S steps over X examples (arXiv:1812.06162), as X(S).

    X_min / S_min is the critical batch, in examples. Units: S_min steps, X_min what the column counts.
    """

    X_min: float
    S_min: float

    formula: ClassVar = "(S/S_min - 1) (X/X_min - 1) = 1"
    source: ClassVar = "McCandlish et al. 2018, arXiv:1812.06162"
    about: ClassVar = "Steps against examples to one loss over a range of batches; X_min/S_min is the critical batch."
    variables: ClassVar = ("steps",)
    response: ClassVar = "examples"
    units: ClassVar = {"X_min": "examples", "S_min": "steps"}
    linear: ClassVar = ("X_min",)
    names: ClassVar = ("X_min", "S_min")
    bounds: ClassVar = {}
    positive: ClassVar = ("X_min", "S_min")
    # `share` is S_min over the fewest steps of the runs.
    grid: ClassVar = {"share": 1 - np.geomspace(0.002, 0.99, 60)}

    @classmethod
    def form(cls, *x: Array) -> "StepsExamples":
        return cls(X_min=1.0, S_min=0.0)

    def __call__(self, steps: ArrayLike) -> Any:
        steps = np.asarray(steps, float)
        return self.X_min * steps / (steps - self.S_min)

    def gradient(self, steps: ArrayLike) -> Array:
        """dX/d(X_min, S_min), [..., R, 2]."""
        steps = np.asarray(steps, float)
        more = steps / (steps - self.S_min)
        return stack(more, self.X_min * more / (steps - self.S_min))

    def basis(self, shape: Array, steps: Array) -> Array:
        """The column S / (S - S_min) for shape [..., 1] (share): [..., R, 1]."""
        return stack(steps / (steps - shape[..., 0:1] * steps.min()))

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        return np.concatenate([coefficient, shape * x[0].min()], axis=-1)
