"""What each run, and each size, does to a fit: outliers, and the fit without it.

A law that rests on one run is not a law. Leave-one-out refits start at the estimate and keep its scale, so they are
local minima of the same objective (Cook 1977 for the idea of deletion; no linearisation here).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.robust import Estimate, at, polish


@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    """G groups of runs (a run each, or all runs of a size), each left out in turn."""

    left_out: tuple[str, ...]  # [G], what each group is called
    runs: Array  # [G], how many runs it has
    theta: Array  # [G, P], parameters without it
    whole: Array  # [P], parameters with all runs, by the same objective: shared noise is not allowed for here
    residual: Array  # [G], mean residual of the group, ln L_law - ln L_measured
    weight: Array  # [G], mean weight in the fit: 0 where all its runs are rejected

    def value(self, function: Callable[[Any], Array], law: Any) -> Array:
        """A function of the law (fields [G, 1], result [G, 1]) without each group: [G]."""
        return np.broadcast_to(function(at(law, self.theta)), (len(self.left_out), 1))[:, 0]


def leave_out(
    form: Any,
    found: Estimate,
    x: tuple[Array, ...],
    y: Array,
    free: Array,
    labels: Sequence[str],
) -> Influence:
    """Refit without the runs of each label in turn; `labels` [R], equal labels leave together. y is the response."""
    names = list(dict.fromkeys(labels))
    group = np.array([names.index(label) for label in labels])
    kept_GxR = (group[None, :] != np.arange(len(names))[:, None]).astype(float)
    count = np.concatenate([kept_GxR, np.ones((1, len(group)))])
    theta = polish(
        form, np.tile(found.theta, (len(count), 1)), x, y, scale=np.full(len(count), found.scale), free=free,
        multiplicity=count, objective=found.minimised, spread=found.spread,
    )  # fmt: skip
    runs = np.bincount(group)
    return Influence(
        left_out=tuple(names), runs=runs, theta=theta[:-1], whole=theta[-1],
        residual=np.bincount(group, found.residual) / runs, weight=np.bincount(group, found.weight) / runs,
    )  # fmt: skip
