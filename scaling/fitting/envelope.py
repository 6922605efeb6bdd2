"""Approach 1: the runs of least loss for their compute, then lines in logarithms (arXiv:2203.15556, section 3.1).

A run is on the envelope if none of as little compute or less reached a loss as low. Every row of a table counts as the
end of its own schedule: losses read off in the middle of a schedule that goes on are too high, and an envelope of
them is that of another, worse way to train (arXiv:2406.19146 puts this at 0.03 in the exponent of N*).

A size is best over a stretch of compute, so its runs on the envelope are one point, at the geometric middle of their
compute; the smallest and the largest size of the table are left out, for their stretch is cut off by the sizes tried.
What is left is coarse: the points lie on the sizes that were tried, and an envelope takes the luckiest run at each
compute. It is shown beside the fit of the whole surface as a check by eye, not in its place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.isoflop import straight
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval
from scaling.spec import Refusal

SAME_SIZE = 0.01  # sizes within this of one another in ln N are one
LEAST_POINTS = 3
BIAS = "an envelope takes the luckiest run at each compute, on the sizes that were tried: its loss is too low"


@dataclass(frozen=True, kw_only=True, eq=False)
class Envelope:
    """P points on the envelope, one a size, in order of compute."""

    run_id: tuple[str, ...]  # every run on the envelope, in order of compute
    flops: Array  # [P]
    n: Array  # [P], parameters
    d: Array  # [P], tokens
    loss: Array  # [P], nats per token
    level: float
    exponent_n: Interval  # of N*(C)
    exponent_d: Interval  # of D*(C)
    line_n: tuple[float, float]  # ln N* = line_n[0] + line_n[1] ln C
    line_d: tuple[float, float]
    line_loss: tuple[float, float]  # ln L* likewise: a line, which has no floor
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs_on_the_envelope": list(self.run_id), "level": self.level,
            "points": [
                {"flops": float(c), "n": float(n), "d": float(d), "loss": float(loss)}
                for c, n, d, loss in zip(self.flops, self.n, self.d, self.loss, strict=True)
            ],
            **{
                name: {"value": item.value, "se": item.se, "interval": [item.low, item.high]}
                for name, item in (("exponent_n", self.exponent_n), ("exponent_d", self.exponent_d))
            },
            "warnings": list(self.warnings),
        }  # fmt: skip


def envelope(observations: Observations, *, level: float = 0.9) -> Envelope:
    """The envelope of R runs and its lines, with t intervals over the points.

    Raises `Refusal` when fewer than `LEAST_POINTS` sizes between the smallest and the largest are on it.
    """
    o = observations.ordered()
    order = np.lexsort((o.loss, o.flops))
    before = np.concatenate([[np.inf], np.minimum.accumulate(o.loss[order])[:-1]])
    best = order[o.loss[order] < before]
    label = np.concatenate([[0], np.cumsum(np.diff(np.sort(np.log(o.n))) > SAME_SIZE)])
    size = np.empty(len(o), int)
    size[np.argsort(o.n, kind="stable")] = label
    inside = [s for s in dict.fromkeys(size[best].tolist()) if 0 < s < label[-1]]
    if len(inside) < LEAST_POINTS:
        raise Refusal(
            f"envelope: {len(inside)} sizes between the smallest and the largest have the least loss at some compute: "
            f"{LEAST_POINTS} or more make a line; train more sizes, or over horizons that overlap in compute"
        )
    points = sorted(
        tuple(float(np.exp(np.log(column[rows]).mean())) for column in (o.flops, o.n, o.d, o.loss))
        for rows in (best[size[best] == s] for s in inside)
    )
    flops, n, d, loss = np.array(points).T
    warnings = [BIAS]
    if len(inside) < len(set(size[best].tolist())):
        warnings.append(
            "the smallest or the largest size is on the envelope too and left out: sizes beyond were not tried"
        )
    (line_n, of_n), (line_d, of_d), (line_loss, _) = (straight(np.log(flops), np.log(v), level) for v in (n, d, loss))
    return Envelope(
        run_id=tuple(o.run_id[i] for i in best), flops=flops, n=n, d=d, loss=loss, level=level, exponent_n=of_n,
        exponent_d=of_d, line_n=line_n, line_d=line_d, line_loss=line_loss, warnings=tuple(warnings),
    )  # fmt: skip
