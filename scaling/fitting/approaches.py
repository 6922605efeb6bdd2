"""The three approaches of arXiv:2203.15556 and our default side by side: exponents, and the optimum at two budgets.

Where they differ by more than their intervals, what is said of N* rests on the method and not on the runs.
"""

import math
from dataclasses import dataclass
from typing import Any

from scaling.fitting.envelope import envelope
from scaling.fitting.fit import fit
from scaling.fitting.isoflop import isoflop
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval
from scaling.spec import Refusal

NAMES = {
    "envelope": "1 envelope",
    "isoflop": "2 parabolas",
    "huber": "3 Huber",
    "surface": "surface",
}
AHEAD = 10.0  # the second budget over the largest of the runs


@dataclass(frozen=True, kw_only=True)
class Approach:
    """What one approach says, or why it says nothing."""

    name: str  # a key of NAMES
    level: float
    exponent_n: Interval | None = None  # of N*(C); bounds NaN where too few points leave no interval
    exponent_d: Interval | None = None
    at: tuple[tuple[float, float, float], ...] = ()  # (C, N*, D*) at the largest compute and `AHEAD` times it
    why: str = ""  # it says nothing
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        exponents = {}
        for name in ("exponent_n", "exponent_d"):
            item = getattr(self, name)
            known = item is not None and math.isfinite(item.low)
            exponents[name] = item and {
                "value": item.value, "se": item.se if known else None,
                "interval": [item.low, item.high] if known else None,
            }  # fmt: skip
        at = [{"flops": c, "n": n, "d": d} for c, n, d in self.at]
        return {"approach": self.name, **exponents, "at": at, "why_not": self.why, "warnings": list(self.warnings)}


def approaches(observations: Observations, *, level: float = 0.9, seed: int = 0) -> list[Approach]:
    """Envelope, isoFLOP parabolas, Huber's fit and our default on the same runs, with intervals at `level`.

    In that order. An approach that cannot answer says why, and raises nothing.
    """
    return [approach(observations, name, level=level, seed=seed) for name in NAMES]


def approach(observations: Observations, name: str, *, level: float = 0.9, seed: int = 0) -> Approach:
    """One of them, by `name` envelope, isoflop, huber or surface, with its optima at the largest compute of the runs
    and ten times that."""
    budgets = [float(observations.flops.max()) * factor for factor in (1.0, AHEAD)]
    try:
        if name in ("envelope", "isoflop"):
            found = envelope(observations, level=level) if name == "envelope" else isoflop(observations, level=level)
            if found.line_n is None or found.line_d is None:
                return Approach(name=name, level=level, why=found.warnings[-1], warnings=found.warnings[:-1])
            (a, b), (g, h) = found.line_n, found.line_d
            at = tuple((c, math.exp(a + b * math.log(c)), math.exp(g + h * math.log(c))) for c in budgets)
            return Approach(
                name=name, level=level, exponent_n=found.exponent_n, exponent_d=found.exponent_d, at=at,
                warnings=found.warnings,
            )  # fmt: skip
        whole = fit(
            observations, "chinchilla", estimator="huber" if name == "huber" else "surface", level=level, seed=seed
        )
    except Refusal as refusal:
        return Approach(name=name, level=level, why="; ".join(refusal.faults))
    if whole.law is None:
        return Approach(name=name, level=level, why=whole.warnings[0])
    best = whole.optimum_intervals(whole.flops_max)
    at = tuple((c, float(o.n), float(o.d)) for c, o in ((c, whole.optimum(c)) for c in budgets))
    return Approach(
        name=name, level=level, exponent_n=best["exponent_n"], exponent_d=best["exponent_d"], at=at,
        warnings=whole.warnings,
    )  # fmt: skip
