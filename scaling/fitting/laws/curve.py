"""Laws of a whole training curve: the loss at every step, from the learning rates up to it.

The learning rate of step k is eta_k, k = 1, 2, ...; S1(t) is the sum of eta_1 .. eta_t. Both laws are a power of S1
and a term for what annealing, a fall of the learning rate, takes off the loss.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.laws.form import EXPONENT, Array

NODES = 4  # of the quadrature of a block of steps
BLOCKS = 128  # a schedule is cut into at least so many
FLOOR = 1e-12  # of a learning rate, over the peak: a power of zero has no value


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The learning rate of every step, warm-up included.

    Rises before the first fall are warm-up: they enter S1 and are no annealing, as in arXiv:2503.12811, where S_W is
    their sum and the loss drop starts after them. With `warmup_counts` each of them is a fall below zero, as in the
    code released with that paper; its published parameters are of that reading.
    """

    lr: Array  # [T], of steps 1 .. T
    warmup_counts: bool = False

    def __len__(self) -> int:
        return len(self.lr)

    @cached_property
    def total(self) -> Array:
        """S1 after each step, [T]."""
        return np.cumsum(self.lr)

    @cached_property
    def warmup(self) -> int:
        """The last step of warm-up; 0 where there is none."""
        change = np.diff(self.lr)
        falls = np.flatnonzero(change < 0)
        rises = np.flatnonzero(change[: falls[0] if len(falls) else None] > 0)
        return int(rises[-1]) + 2 if len(rises) else 0

    @cached_property
    def fall(self) -> Array:
        """eta_{k-1} - eta_k, [T]; nothing in warm-up, unless that counts."""
        if self.warmup_counts:
            return -np.diff(self.lr, prepend=0.0)
        change = -np.diff(self.lr, prepend=self.lr[0])
        change[: self.warmup] = 0.0
        return change


class Design:
    """R rows of one or more curves: which steps of which schedules. It is the `curve` that the laws are of."""

    def __init__(self, *parts: tuple[Schedule, ArrayLike]):
        """Each of `parts` is a schedule and the steps of it, from 1 on, that rows are of."""
        self.parts = tuple((schedule, np.asarray(steps, int)) for schedule, steps in parts)
        self.sum = np.concatenate([schedule.total[steps - 1] for schedule, steps in self.parts])  # S1, [R]

    def __len__(self) -> int:
        return len(self.sum)

    @cached_property
    def blocks(self) -> list[tuple[Array, Array, Array]]:
        """For each curve: weights [M], ln eta [M] and what S1 has grown by since, [R, M]; see `_blocks`."""
        return [_blocks(schedule, steps) for schedule, steps in self.parts]

    def annealed(self, decay: float) -> tuple[Array, Array]:
        """S2 of Tissue's law and its derivative by lambda, each [R], in O(T)."""
        from scipy.signal import lfilter

        area, slope = [], []
        for schedule, steps in self.parts:
            momentum = lfilter([1.0], [1.0, -decay], schedule.fall)
            by_decay = lfilter([0.0, 1.0], [1.0, -decay], momentum)
            area.append(np.cumsum(momentum)[steps - 1])
            slope.append(np.cumsum(by_decay)[steps - 1])
        return np.concatenate(area), np.concatenate(slope)

    def dropped(self, c: float, beta: float, gamma: float) -> Array:
        """sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k) and its derivatives by C, beta and gamma: [4, R]."""
        found = []
        for weight, log_lr, since in self.blocks:
            x = np.exp(-gamma * log_lr) * since
            u = 1 + c * x
            log_u = np.log(u)
            power = np.exp(-beta * log_u)
            bend = beta * x * power / u
            terms = (1 - power, bend, power * log_u, -c * bend * log_lr)
            found.append(np.stack([term @ weight for term in terms]))
        return np.concatenate(found, axis=1)


def _blocks(schedule: Schedule, steps: Array) -> tuple[Array, Array, Array]:
    """The falls of a schedule as few points: weights [M], ln eta [M], and growth of S1 up to each row [R, M].

    A sum over all falls up to each row costs T R powers. Falls between two rows, and of a 1/128 of the schedule at
    most, are a measure on S1, of which `NODES` points keep the moments (Gauss quadrature, Golub & Welsch 1969); up to
    that many falls are kept as they are. With published parameters L then differs from the full sum by 4e-6 nats at
    most on cosine and linear decays of 24,000 and 72,000 steps; by 1e-4 in the last steps of a warm-up that counts.
    """
    fall, before = schedule.fall, schedule.total - schedule.lr  # S1 before each step
    last = int(steps.max())
    log_lr = np.log(np.maximum(schedule.lr, FLOOR * schedule.lr.max()))
    edges = np.unique(np.concatenate([[0, last], np.linspace(0, last, BLOCKS + 1).astype(int)[1:], np.sort(steps)]))
    weights, logs, places, ends = [], [], [], []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        for sign in (1.0, -1.0):
            chosen = start + np.flatnonzero(sign * fall[start:end] > 0)
            if len(chosen):
                place, weight = _gauss(before[chosen], sign * fall[chosen])
                weights.append(sign * weight)
                places.append(place)
                logs.append(np.interp(place, before[chosen], log_lr[chosen]))
                ends.append(np.full(len(place), end))
    if not weights:
        return np.zeros(0), np.zeros(0), np.zeros((len(steps), 0))
    end_M, place_M = np.concatenate(ends), np.concatenate(places)
    since = schedule.total[steps - 1][:, None] - place_M
    return np.concatenate(weights), np.concatenate(logs), np.where(end_M <= steps[:, None], np.maximum(since, 0.0), 0.0)


def _gauss(place: Array, weight: Array) -> tuple[Array, Array]:
    """At most `NODES` points and weights with the moments of the given ones, whose weights are above zero."""
    if len(place) <= NODES or place[-1] <= place[0]:
        return place, weight
    middle, half = (place[0] + place[-1]) / 2, (place[-1] - place[0]) / 2
    x, mass = (place - middle) / half, weight.sum()
    basis = [np.sqrt(weight / mass)]  # orthogonal polynomials times the root of the weight, by Lanczos
    diagonal, beside = [], []
    for i in range(NODES):
        diagonal.append(float(basis[-1] @ (x * basis[-1])))
        new = x * basis[-1]
        for _ in range(2):  # twice is enough
            new = new - sum(b * (b @ new) for b in basis)
        if i < NODES - 1:
            beside.append(float(np.linalg.norm(new)))
            basis.append(new / beside[-1])
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return middle + half * nodes, mass * vectors[0] ** 2


def _lanes(law: Any) -> tuple[tuple[int, ...], Array]:
    """The leading shape of a law's fields, [...], or () for numbers; and its parameters [B, P]."""
    fields = np.broadcast_arrays(*(np.asarray(getattr(law, name), float) for name in law.names))
    lead = fields[0].shape[:-1]
    return lead, np.stack([field.ravel() for field in fields], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """L(s) = L0 + A S1^-alpha - C S2 (Tissue et al. 2024, arXiv:2408.11029, eq. 1).

    S2(s) = sum_{i<=s} sum_{k<=i} (eta_{k-1} - eta_k) lam^(i-k): a fall goes on to lower the loss for about 1/(1 - lam)
    steps, and by C/(1 - lam) for each unit of eta in the end. Units: L0 nats; S1 and S2 are in units of eta, so A and C
    are in nats per power of it.
    """

    L0: float
    A: float
    alpha: float
    C: float
    lam: float

    formula: ClassVar = (
        "L = L0 + A S1^-alpha - C S2, S1 = sum eta_k, S2 = sum_i sum_{k<=i} (eta_{k-1} - eta_k) lam^(i-k)"
    )
    source: ClassVar = "Tissue et al. 2024, arXiv:2408.11029"
    about: ClassVar = "A training curve under any schedule: what steps and what annealing take off the loss."
    variables: ClassVar = ("curve",)
    response: ClassVar = "loss"
    units: ClassVar = {"L0": "nats", "A": "nats", "alpha": "", "C": "nats per eta", "lam": ""}
    linear: ClassVar = ("L0", "A", "C")
    names: ClassVar = ("L0", "A", "alpha", "C", "lam")
    bounds: ClassVar = {"L0": (0.0, np.inf), "alpha": EXPONENT, "lam": (0.5, 0.99999)}
    positive: ClassVar = ("A", "alpha", "C")
    grid: ClassVar = {"alpha": np.geomspace(0.1, 2.0, 14), "lam": 1 - np.geomspace(0.1, 5e-5, 14)}
    annealing: ClassVar = ("C", "lam")  # what a learning rate that never falls says nothing of

    @classmethod
    def form(cls, curve: Design) -> "Tissue":
        return cls(L0=1.0, A=1.0, alpha=1.0, C=1.0, lam=0.99)

    def __call__(self, curve: Design) -> Any:
        return self.value_and_gradient(curve)[0]

    def gradient(self, curve: Design) -> Array:
        """dL/d(L0, A, alpha, C, lam), [..., R, 5]."""
        return self.value_and_gradient(curve)[1]

    def value_and_gradient(self, curve: Design) -> tuple[Any, Array]:
        lead, theta = _lanes(self)
        log_sum = np.log(curve.sum)
        value, gradient = np.empty((len(theta), len(curve))), np.empty((len(theta), len(curve), 5))
        for i, (floor, a, alpha, c, lam) in enumerate(theta):
            term, (area, by_lam) = np.exp(-alpha * log_sum), curve.annealed(lam)
            value[i] = floor + a * term - c * area
            gradient[i] = np.stack([np.ones_like(term), term, -a * term * log_sum, -area, -c * by_lam], axis=-1)
        return value.reshape(*lead, -1), gradient.reshape(*lead, *gradient.shape[1:])

    def basis(self, shape: Array, curve: Design) -> Array:
        """Columns 1, S1^-alpha, -S2 for shape [B, 2] (alpha, lam): [B, R, 3]."""
        area = {lam: curve.annealed(lam)[0] for lam in np.unique(shape[:, 1])}
        power = np.exp(-shape[:, 0:1] * np.log(curve.sum))
        return np.stack([np.ones_like(power), power, [-area[lam] for lam in shape[:, 1]]], axis=-1)

    def from_basis(self, shape: Array, coefficient: Array, curve: Design) -> Array:
        return np.stack([*coefficient[:, :2].T, shape[:, 0], coefficient[:, 2], shape[:, 1]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class MultiPower:
    """L(t) = L0 + A S1^-alpha - B sum_{k<=t} (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t)) (arXiv:2503.12811, eq. 1).

    S_k(t) = eta_k + ... + eta_t and G(x) = 1 - (1 + C x)^-beta: what a fall takes off the loss grows as training goes
    on, to B times the fall. S1 holds the warm-up, S_W in the paper. Units: L0 nats; A, B and C follow those of eta.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    formula: ClassVar = (
        "L = L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k), S_k = eta_k + ... + eta_t, "
        "G(x) = 1 - (1 + C x)^-beta"
    )
    source: ClassVar = "Luo et al. 2025, arXiv:2503.12811"
    about: ClassVar = "A training curve under any schedule, where the worth of annealing is itself a power law."
    variables: ClassVar = ("curve",)
    response: ClassVar = "loss"
    units: ClassVar = {
        "L0": "nats", "A": "nats", "alpha": "", "B": "nats per eta", "C": "eta^(gamma - 1)", "beta": "", "gamma": "",
    }  # fmt: skip
    linear: ClassVar = ("L0", "A", "B")
    names: ClassVar = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    bounds: ClassVar = {
        "L0": (0.0, np.inf), "alpha": EXPONENT, "C": (1e-6, 1e6), "beta": (0.01, 10.0), "gamma": (-1.0, 2.0),
    }  # fmt: skip
    positive: ClassVar = ("A", "alpha", "B", "C", "beta")
    grid: ClassVar = {
        "alpha": np.geomspace(0.1, 2.0, 10),
        "C": np.geomspace(0.01, 100.0, 7),
        "beta": np.array([0.1, 0.3, 0.6, 1.2]),
        "gamma": np.array([0.0, 0.4, 0.8]),
    }
    annealing: ClassVar = ("B", "C", "beta", "gamma")

    @classmethod
    def form(cls, curve: Design) -> "MultiPower":
        return cls(L0=1.0, A=1.0, alpha=1.0, B=1.0, C=1.0, beta=1.0, gamma=0.5)

    def __call__(self, curve: Design) -> Any:
        return self.value_and_gradient(curve)[0]

    def gradient(self, curve: Design) -> Array:
        """dL/d(L0, A, alpha, B, C, beta, gamma), [..., R, 7]."""
        return self.value_and_gradient(curve)[1]

    def value_and_gradient(self, curve: Design) -> tuple[Any, Array]:
        lead, theta = _lanes(self)
        log_sum = np.log(curve.sum)
        value, gradient = np.empty((len(theta), len(curve))), np.empty((len(theta), len(curve), 7))
        for i, (floor, a, alpha, b, c, beta, gamma) in enumerate(theta):
            term, drop = np.exp(-alpha * log_sum), curve.dropped(c, beta, gamma)
            value[i] = floor + a * term - b * drop[0]
            gradient[i] = np.stack(
                [np.ones_like(term), term, -a * term * log_sum, -drop[0], -b * drop[1], -b * drop[2], -b * drop[3]],
                axis=-1,
            )
        return value.reshape(*lead, -1), gradient.reshape(*lead, *gradient.shape[1:])

    def basis(self, shape: Array, curve: Design) -> Array:
        """Columns 1, S1^-alpha, minus the drop for B = 1, for shape [B, 4] (alpha, C, beta, gamma): [B, R, 3]."""
        drop = {tuple(row): curve.dropped(*row)[0] for row in np.unique(shape[:, 1:], axis=0)}
        power = np.exp(-shape[:, 0:1] * np.log(curve.sum))
        return np.stack([np.ones_like(power), power, [-drop[tuple(row)] for row in shape[:, 1:]]], axis=-1)

    def from_basis(self, shape: Array, coefficient: Array, curve: Design) -> Array:
        return np.stack([*coefficient[:, :2].T, shape[:, 0], coefficient[:, 2], *shape[:, 1:].T], axis=-1)
