"""One algorithm priced in the compute of another: L_o = E + A (rho_N N)^-alpha + B (rho_D D)^-beta, most of it shared.

An algorithm of the shared-exponent form (arXiv:2602.07712) acts as if it had rho_N N parameters and saw rho_D D tokens.
Under the cost C = k N^p D, put N' = rho_N N and D' = rho_D D: the least loss at k N^p D = C is that of the baseline at
k N'^p D' = rho_N^p rho_D C. So the compute multiplier is m = rho_N^p rho_D at every C, and rho_N rho_D only for p = 1.
Where a token costs the algorithm k_o N^p instead of k N^p, m = rho_N^p rho_D k / k_o.

Whether m changes with scale is asked by one more parameter: rho_N ~ N^s and rho_D ~ D^s give the algorithm exponents
(1 + s) alpha and (1 + s) beta. The least loss is E + K C^-gamma with gamma = alpha beta / (alpha + p beta), so matching
E + K_o C^-(1 + s) gamma gives d ln m / d ln C = s, the same at every C.

`compare` prices the same runs without a law, at matched losses. Suffixes: R runs, K columns.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting import identify
from scaling.fitting.compare import FLAT
from scaling.fitting.laws import Array
from scaling.fitting.laws.form import EXPONENT, power, stack
from scaling.fitting.observe import Observations
from scaling.fitting.robust import estimate
from scaling.fitting.uncertainty import Interval, Spread, covariance, spread
from scaling.spec import Refusal

LEAST_DISTINCT = 2  # sizes, and horizons, of an algorithm: at one of them its rho cannot be told from another floor E
VAGUE = 10.0  # a multiplier known within this factor or worse is not known
UNEVEN = 0.05  # deviation of ln(FLOPs per token) from k N^p that is worth a word


@dataclass(frozen=True, kw_only=True)
class Rescaled:
    """L = E + A (rho_n N)^-alpha + B (rho_d D)^-beta for `group` 1 and rho = 1 for group 0 (arXiv:2602.07712).

    With `drifting`, rho_n is multiplied by (N/n_mid)^drift and rho_d by (D/d_mid)^drift; n_mid and d_mid, the
    geometric middle of the runs, are not parameters. Units: E, A, B nats, the others none.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    rho_n: float
    rho_d: float
    drift: float = 0.0
    drifting: bool
    n_mid: float  # parameters
    d_mid: float  # tokens

    variables: ClassVar = ("n", "d", "group")
    linear: ClassVar = ("E", "A", "B", "A of the algorithm", "B of the algorithm")
    bounds: ClassVar = {
        "E": (0.0, np.inf), "alpha": EXPONENT, "beta": EXPONENT, "rho_n": (1e-4, 1e4), "rho_d": (1e-4, 1e4),
        "drift": (-0.9, 5.0),
    }  # fmt: skip
    positive: ClassVar = ("A", "B", "alpha", "beta", "rho_n", "rho_d")

    @property
    def names(self) -> tuple[str, ...]:
        return ("E", "A", "B", "alpha", "beta", "rho_n", "rho_d", *(("drift",) if self.drifting else ()))

    @property
    def grid(self) -> dict[str, Array]:
        axis = np.geomspace(0.04, 1.6, 8)
        return {"alpha": axis, "beta": axis} | ({"drift": np.linspace(-0.4, 0.4, 5)} if self.drifting else {})

    @classmethod
    def form(cls, n: Array, d: Array, *, drifting: bool = False) -> "Rescaled":
        n_mid, d_mid = (float(np.exp(np.log(v).mean())) for v in (n, d))
        return cls(
            E=1.0, A=1.0, B=1.0, alpha=1.0, beta=1.0, rho_n=1.0, rho_d=1.0, drifting=drifting, n_mid=n_mid, d_mid=d_mid
        )

    def _logs(self, n: ArrayLike, d: ArrayLike, group: ArrayLike) -> tuple[Any, Any]:
        """ln(rho_N N) and ln(rho_D D)."""
        log_n, log_d, group = np.log(n), np.log(d), np.asarray(group, float)
        turn_n, turn_d = self.drift * (log_n - np.log(self.n_mid)), self.drift * (log_d - np.log(self.d_mid))
        return log_n + group * (np.log(self.rho_n) + turn_n), log_d + group * (np.log(self.rho_d) + turn_d)

    def __call__(self, n: ArrayLike, d: ArrayLike, group: ArrayLike) -> Any:
        log_n, log_d = self._logs(n, d, group)
        return self.E + self.A * np.exp(-self.alpha * log_n) + self.B * np.exp(-self.beta * log_d)

    def gradient(self, n: ArrayLike, d: ArrayLike, group: ArrayLike) -> Array:
        """dL/d(parameter), [..., R, 7], or 8 with drift."""
        log_n, log_d = self._logs(n, d, group)
        size, data = np.exp(-self.alpha * log_n), np.exp(-self.beta * log_d)
        by_n, by_d = -self.alpha * self.A * size * group, -self.beta * self.B * data * group  # dL/d ln rho
        columns = [
            1.0,
            size,
            data,
            -self.A * size * log_n,
            -self.B * data * log_d,
            by_n / self.rho_n,
            by_d / self.rho_d,
        ]
        if self.drifting:
            columns.append(by_n * np.log(n / np.asarray(self.n_mid)) + by_d * np.log(d / np.asarray(self.d_mid)))
        return stack(*columns)

    def basis(self, shape: Array, n: Array, d: Array, group: Array) -> Array:
        """Columns 1, the two terms of group 0 and the two of group 1: [..., R, 5]."""
        drift = shape[..., 2:3] * group if self.drifting else 0.0
        size = power(n, -shape[..., 0:1]) * power(n / self.n_mid, -shape[..., 0:1] * drift)
        data = power(d, -shape[..., 1:2]) * power(d / self.d_mid, -shape[..., 1:2] * drift)
        return stack(1.0, size * (1 - group), data * (1 - group), size * group, data * group)

    def from_basis(self, shape: Array, coefficient: Array, *x: Array) -> Array:
        ratio = coefficient[..., 3:5] / coefficient[..., 1:3]
        rho = np.exp(np.clip(-np.log(ratio) / shape[..., :2], -9.2, 9.2))
        return np.concatenate([coefficient[..., :3], shape[..., :2], rho, shape[..., 2:]], axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaling:
    """An algorithm against a baseline under the law that they share."""

    algorithm: str
    baseline: str
    level: float
    runs: tuple[int, int]  # of the algorithm, of the baseline
    cost: tuple[float, float]  # (k of the algorithm / k of the baseline, p) of C = k N^p D
    multiplier: Interval | None = None  # rho_N^p rho_D k / k_o; None where the runs cannot tell it
    rho_n: Interval | None = None
    rho_d: Interval | None = None
    slope: Interval | None = None  # d ln m / d ln C
    law: Rescaled | None = None  # without drift
    verdict: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm, "baseline": self.baseline, "level": self.level,
            "runs": {"algorithm": self.runs[0], "baseline": self.runs[1]},
            "cost": {"ratio": self.cost[0], "p": self.cost[1]},
            **{name: _json(getattr(self, name)) for name in ("multiplier", "rho_n", "rho_d", "slope")},
            "law": None if self.law is None else {name: getattr(self.law, name) for name in self.law.names},
            "verdict": self.verdict, "warnings": list(self.warnings),
        }  # fmt: skip


def rescale(observations: Observations, baseline: str, *, level: float = 0.9, seed: int = 0) -> list[Rescaling]:
    """Every other group of the runs against `baseline`, each in a joint fit of the two.

    Intervals at `level` by the delta method. Raises `Refusal` for an unknown baseline, a single group or a level out
    of range.
    """
    groups = sorted(set(observations.group))
    faults = []
    if baseline not in groups:
        faults.append(f"--baseline {baseline}: there is no such group; there are {', '.join(groups)}")
    if len(groups) < 2:
        faults.append("there is one group: nothing to compare it with")
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if faults:
        raise Refusal(faults)
    label = np.array(observations.group)
    return [
        _rescale(observations.pick((label == name) | (label == baseline)), name, baseline, level, seed)
        for name in groups
        if name != baseline
    ]


def _rescale(o: Observations, name: str, base: str, level: float, seed: int) -> Rescaling:
    group = (np.array(o.group) == name).astype(float)
    cost, uneven = _cost(o, group)
    warnings = []
    if uneven > UNEVEN:
        warnings.append(f"FLOPs per token lie up to {math.expm1(uneven):.0%} off k N^{cost[1]:.3g}, which m supposes")
    found = Rescaling(
        algorithm=name, baseline=base, level=level, runs=(int(group.sum()), int((1 - group).sum())), cost=cost,
        verdict="",
    )  # fmt: skip
    if why := _untold(o.pick(group == 1), o.pick(group == 0), name, base):
        return replace(found, verdict=f"{name} against {base}: no multiplier can be told; {why[0]}", warnings=why[1:])

    law, noise, why = _fitted(o, group, False, seed)
    if law is None or noise is None:
        return replace(found, verdict=f"{name} against {base}: no multiplier can be told; {why}")
    intervals = {
        key: _interval(law, noise, level, function)
        for key, function in {
            "multiplier": lambda law: law.rho_n ** cost[1] * law.rho_d / cost[0],
            "rho_n": lambda law: law.rho_n,
            "rho_d": lambda law: law.rho_d,
        }.items()
    }
    m = intervals["multiplier"]
    vague = [key for key, item in intervals.items() if item.high / item.low > VAGUE**2]
    if "multiplier" in vague:
        return replace(
            found, warnings=tuple(warnings), verdict=f"{name} against {base}: not resolvable at this noise: "
            f"the multiplier is open by more than a factor of {VAGUE:g} either way",
        )  # fmt: skip
    if vague:
        warnings.append(f"{' and '.join(vague)}: only their product is told by these runs")
    # The verdict asks two questions, each at half the error, so that equal algorithms pass both as often as `level`.
    strict = (1 + level) / 2
    sure = _interval(law, noise, strict, lambda law: law.rho_n ** cost[1] * law.rho_d / cost[0])
    slope, changes, drifting, turned, _ = None, False, *_fitted(o, group, True, seed)
    if drifting is not None and turned is not None:
        slope = _interval(drifting, turned, level, lambda law: law.drift, log=False)
        certain = _interval(drifting, turned, strict, lambda law: law.drift, log=False)
        changes = not certain.low <= 0 <= certain.high
    known = {key: None if key in vague else item for key, item in intervals.items()}
    return replace(
        found,
        **known,
        slope=slope,
        law=law,
        warnings=tuple(warnings),
        verdict=_verdict(m, slope, not sure.low <= 1 <= sure.high, changes, name, base),
    )


def _untold(a: Observations, b: Observations, name: str, base: str) -> tuple[str, ...]:
    """Why no estimator could tell the two rho from these designs, in words."""
    _, why = identify.by_design(b, "chinchilla", (b.n, b.d))
    why = [f"{base}: {line}" for line in why]
    for values, what in ((a.n, "size"), (a.d, "horizon")):
        if identify.count(values) < LEAST_DISTINCT:
            why.append(f"{name} was run at a single {what}: its rho cannot be told from another floor; run two or more")
    if len(a) < 4:
        why.append(f"{name} has {len(a)} runs: two rho and a test of the law need at least 4")
    return tuple(why)


def _fitted(o: Observations, group: Array, drifting: bool, seed: int) -> tuple[Rescaled | None, Spread | None, str]:
    """The law and its spread, or why the runs leave it open."""
    x, form = (o.n, o.d, group), Rescaled.form(o.n, o.d, drifting=drifting)
    found = estimate(form, x, o.loss, seed=seed)
    free = np.array([key not in found.at_bound for key in form.names])
    if lost := [key for key in found.at_bound if key != "E"]:
        return None, None, f"{', '.join(lost)} rests on the edge of its range"
    _, (blurred, why) = identify.by_jacobian(form, found, x, free)
    if blurred:
        return None, None, why[0]
    law = replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True)))
    return law, covariance(form, found, x, free, o.trunk), ""


def _interval(law: Rescaled, noise: Spread, level: float, function: Any, log: bool = True) -> Interval:
    """Delta method: of ln m where `log`, whose interval is not bent by a wide spread."""
    theta = np.array([getattr(law, key) for key in law.names])
    found = spread(
        law, theta, (lambda law: np.log(function(law))) if log else function,
        covariance_z=noise.covariance, dof=noise.dof, level=level,
    ).at(0)  # fmt: skip
    if not log:
        return found
    value = math.exp(found.value)
    low, high = (math.exp(min(max(end, -300), 300)) for end in (found.low, found.high))
    return Interval(value=value, se=value * found.se, low=low, high=high)


def _cost(o: Observations, group: Array) -> tuple[tuple[float, float], float]:
    """(k_o / k, p) by least squares of ln(FLOPs per token) with one p for both groups; the greatest deviation."""
    y, log_n = np.log(o.flops / o.d), np.log(o.n)
    columns = np.stack([1 - group, group, log_n - log_n.mean()], axis=1)
    k, k_o, p = np.linalg.lstsq(columns, y, rcond=None)[0]
    off = float(np.abs(columns @ np.array([k, k_o, p]) - y).max())
    return (float(np.exp(k_o - k)), float(p)), off


def _verdict(m: Interval, slope: Interval | None, differs: bool, changes: bool, name: str, base: str) -> str:
    number = f"compute multiplier x{m.value:.3g} [{m.low:.3g}, {m.high:.3g}]"
    if slope is not None and changes:
        per = f"it moves by x{10**slope.value:.3g} [{10**slope.low:.3g}, {10**slope.high:.3g}] per tenfold compute"
        return f"{name} against {base}: {number} in the middle of the runs, and {per}"
    if not differs:
        return f"{name} against {base}: a difference is not resolvable at this noise, {number}"
    what = f"{name} {'gains on' if m.value > 1 else 'loses to'} {base}: {number}"
    if slope is not None and max(-slope.low, slope.high) <= FLAT:
        return f"{what}; it lasts over this range"
    return f"{what}; whether it changes with scale is not resolvable at this noise"


def _json(item: Interval | None) -> dict[str, Any] | None:
    return None if item is None else {"value": item.value, "se": item.se, "interval": [item.low, item.high]}
