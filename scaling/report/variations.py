"""The exponent of the best split under what was changed on purpose: how much of a published one is bookkeeping.

Counting without the head, long warm-ups and decays that do not match the horizon move the exponent of N*(C) from about
0.5 to 0.9 (arXiv:2406.19146). Ways to count are other readings of the same runs; the rest are groups of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.isoflop import IsoFlop, isoflop
from scaling.fitting.observe import observe
from scaling.fitting.uncertainty import Interval
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")

# name -> column that counts N, in words; C = 6 N D by that N
COUNTS = {
    "6ND": ("n_params", "compute counted as 6 N D, without attention"),
    "head left out": ("n_params_kaplan", "N and C without the head, as 6 N D"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Variation:
    name: str  # a group, or a way to count
    words: str
    counted: bool  # another reading of the study's own runs, and not other runs
    fit: Fit | None  # approach 3, by the law of the study's headline
    isoflop: IsoFlop | None  # approach 2
    runs: tuple[str, ...]  # ids of those behind it
    warnings: tuple[str, ...]

    @property
    def exponent(self) -> Interval | None:
        """Of N*(C), by the law, at the largest fitted compute."""
        if self.fit is None or self.fit.law is None:
            return None
        return self.fit.optimum_intervals(self.fit.flops_max)["exponent_n"]

    @property
    def by_valleys(self) -> Interval | None:
        """The same by approach 2."""
        return self.isoflop.exponent_n if self.isoflop else None

    def shift(self, own: Interval | None, other: Interval | None) -> Interval | None:
        """How far the exponent here, `other`, lies from the study's `own`; None where one is not told.

        The arms of the two intervals are added in quadrature, which is right for independent runs. Another reading of
        the same runs shares their noise, by how much is not known: it has no interval.
        """
        if own is None or other is None:
            return None
        value = other.value - own.value
        if self.counted:
            return Interval(value=value, se=math.nan, low=math.nan, high=math.nan)
        return Interval(
            value=value, se=math.hypot(other.se, own.se),
            low=value - math.hypot(other.value - other.low, own.high - own.value),
            high=value + math.hypot(other.high - other.value, own.value - own.low),
        )  # fmt: skip


def vary(
    table: pandas.DataFrame, groups: Mapping[str, str], *, law: str, params: str, level: float
) -> tuple[Variation, ...]:
    """Each way to count, read off the fitted runs, then each group instead of them."""
    if not groups:
        return ()
    how = {"law": law, "level": level}
    counted = table.drop(columns="flops")
    found = [_varied(counted, name, words, params=column, **how) for name, (column, words) in COUNTS.items()]
    for group, words in groups.items():
        rows = table.loc[table["group"] == group]
        found.append(_varied(rows, group, words, params=params, counted=False, **how))
    return tuple(found)


def _varied(
    table: pandas.DataFrame,
    name: str,
    words: str,
    *,
    law: str,
    level: float,
    params: str,
    counted: bool = True,
) -> Variation:
    warnings: list[str] = []
    roles = ("fitted",) if counted else ("fitted", "compare")

    def told(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Refusal as refusal:
            warnings.extend(refusal.faults)
            return None

    o = told(lambda: observe(table, params=params, roles=roles))
    surface = told(lambda: fit(o, law, level=level)) if o else None
    valleys = told(lambda: isoflop(o, level=level)) if o else None
    return Variation(
        name=name, words=words, counted=counted, fit=surface, isoflop=valleys, runs=o.run_id if o else (),
        warnings=tuple(warnings),
    )  # fmt: skip
