"""What a plan could resolve: known before a FLOP is spent."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.cost import ParamConvention, count_params, train_flops
from scaling.plan.plan import Plan

# A law for judging designs, not results: the exponents of arXiv:2404.10102, with terms that weigh alike mid-plan.
REFERENCE_EXPONENTS = (0.35, 0.37)
REFERENCE_NOISE = 0.01  # standard deviation of ln loss: seed and misfit of a small, well-kept study


@dataclass(frozen=True, kw_only=True)
class Design:
    """Of the fitted runs of a plan, in one convention of N."""

    runs: int
    sizes: int  # distinct N
    horizons: int  # distinct D
    span_n: float  # largest over smallest N
    span_d: float
    span_ratio: float  # largest over smallest D/N
    flops: tuple[float, float]  # smallest and largest C of a run
    condition: float  # of the column-scaled Jacobian of ln L in (ln E, ln A, ln B, alpha, beta)
    half_width: dict[str, float]  # expected 90 % half-widths at the reference noise; empty when not identified

    @property
    def warnings(self) -> list[str]:
        lines = []
        if self.sizes < 3 or self.horizons < 3:
            lines.append(f"{self.sizes} sizes and {self.horizons} horizons: L(N, D) needs at least 3 of each")
        if self.span_ratio < 16:
            lines.append(f"D/N spans {self.span_ratio:.3g}x: below 16x the exponents of N and D are hard to tell apart")
        if not self.half_width:
            lines.append("no exponent can be told from this design: vary N and D separately")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": self.runs, "sizes": self.sizes, "horizons": self.horizons, "span_n": self.span_n,
            "span_d": self.span_d, "span_ratio": self.span_ratio, "flops": list(self.flops),
            "condition": self.condition if math.isfinite(self.condition) else None,
            "expected_half_width": self.half_width, "noise": REFERENCE_NOISE, "warnings": self.warnings,
        }  # fmt: skip


def design(plan: Plan, params: ParamConvention) -> Design | None:
    """The design of the runs that a law is fitted to; None where there are none."""
    runs = [planned.run for planned in plan.with_role("fitted").runs]
    if not runs:
        return None
    n = np.array([getattr(count_params(run.model), params) for run in runs], np.float64)
    d = np.array([run.tokens for run in runs], np.float64)
    c = [train_flops(run) for run in runs]
    condition, half_width = _resolution(n, d)
    return Design(
        runs=len(runs),
        sizes=len(np.unique(n)),
        horizons=len(np.unique(d)),
        span_n=float(n.max() / n.min()),
        span_d=float(d.max() / d.min()),
        span_ratio=float((d / n).max() / (d / n).min()),
        flops=(min(c), max(c)),
        condition=condition,
        half_width=half_width,
    )


def _resolution(n: np.ndarray, d: np.ndarray) -> tuple[float, dict[str, float]]:
    """Condition number and expected half-widths by the linearised law (Cramer-Rao) at the reference."""
    alpha, beta = REFERENCE_EXPONENTS
    x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()
    a, b = np.exp(-alpha * x), np.exp(-beta * y)
    loss = 2 + a + b
    jacobian = np.stack([np.full_like(a, 2), a, b, -a * x, -b * y], axis=1) / loss[:, None]
    norms = np.linalg.norm(jacobian, axis=0)
    if not norms.all():
        return math.inf, {}
    condition = float(np.linalg.cond(jacobian / norms))
    if len(n) <= 5 or condition > 1e6:
        return condition, {}
    covariance = np.linalg.inv(jacobian.T @ jacobian) * REFERENCE_NOISE**2
    gradients = {
        "alpha": np.array([0, 0, 0, 1, 0.0]),
        "beta": np.array([0, 0, 0, 0, 1.0]),
        # N*(C) ~ C^(beta / (alpha + beta))
        "exponent_n": np.array([0, 0, 0, -beta, alpha]) / (alpha + beta) ** 2,
    }
    return condition, {name: 1.645 * float(np.sqrt(g @ covariance @ g)) for name, g in gradients.items()}
