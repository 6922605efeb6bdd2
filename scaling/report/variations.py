"""The exponent of the best split under what was changed on purpose: how much of a published one is bookkeeping.

Counting without the head, long warm-ups and decays that do not match the horizon move the exponent of N*(C) from about
0.5 to 0.9 (arXiv:2406.19146). Ways to count are other readings of the same runs; the rest are groups of runs.
"""

from __future__ import annotations

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
    fit: Fit | None  # approach 3, by the law of the study's headline
    isoflop: IsoFlop | None  # approach 2
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


def vary(
    table: pandas.DataFrame, groups: Mapping[str, str], *, law: str, params: str, level: float
) -> tuple[Variation, ...]:
    """Each way to count, read off the fitted runs, then each group instead of them."""
    if not groups:
        return ()
    found = []
    for name, (column, words) in COUNTS.items():
        found.append(_varied(table.drop(columns="flops"), name, words, law=law, level=level, params=column))
    for group, words in groups.items():
        rows = table.loc[table["group"] == group]
        found.append(_varied(rows, group, words, law=law, level=level, params=params, roles=("fitted", "compare")))
    return tuple(found)


def _varied(
    table: pandas.DataFrame,
    name: str,
    words: str,
    *,
    law: str,
    level: float,
    params: str,
    roles: tuple[str, ...] = ("fitted",),
) -> Variation:
    warnings: list[str] = []

    def told(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Refusal as refusal:
            warnings.extend(refusal.faults)
            return None

    o = told(lambda: observe(table, params=params, roles=roles))
    surface = told(lambda: fit(o, law, level=level)) if o else None
    valleys = told(lambda: isoflop(o, level=level)) if o else None
    return Variation(name=name, words=words, fit=surface, isoflop=valleys, warnings=tuple(warnings))
