"""Loss against one thing that grows while all else stays: a ladder of sizes at one number of tokens, or of horizons.

Where D is the same for every rung, the Chinchilla surface L = E + A N^-alpha + B D^-beta is a power law in N with the
floor E + B D^-beta, so its exponent is alpha and its floor is that of this D; and the same in D at one N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.observe import Observations, observe
from scaling.fitting.uncertainty import Interval
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

Variable = Literal["n", "d"]
LAWS = ("power", "broken")  # that forecast; the exponent is that of the first
CONVENTIONS = ("n_params", "n_params_kaplan", "n_params_total")  # columns that count N
ALIKE = 0.05  # relative difference up to which what should stay the same does


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """A group in which `x` alone grows, N (parameters) or D (tokens), and the laws of one variable fitted to it."""

    group: str
    x: Variable
    observations: Observations
    fits: dict[str, Fit]  # by law
    conventions: dict[str, Fit]  # the power law by the column that counts N; for x = "d" of one alone

    @property
    def law(self) -> Fit | None:
        """The power law, where the runs tell it."""
        found = self.fits["power"]
        return found if found.law is not None else None

    @property
    def at(self) -> float:
        """What stays: D of a ladder of sizes, N of one of horizons."""
        return float(np.median(self.observations.d if self.x == "n" else self.observations.n))

    @property
    def top(self) -> float:
        """The largest rung."""
        return float(self.observations.variable(self.x).max())

    @property
    def decades(self) -> float:
        values = self.observations.variable(self.x)
        return float(np.log10(values.max() / values.min()))

    def gain(self, factor: float) -> Interval | None:
        """How many nats the largest rung would lose, grown by `factor`; None where the law is not told."""
        return self.law.gain((self.top,), (factor * self.top,)) if self.law else None


def climb(table: pandas.DataFrame, group: str, x: Variable, *, params: str, level: float = 0.9) -> Ladder:
    """The ladder of a group of a table of runs: its finished runs but the held-out ones, N counted by column `params`.

    Raises `Refusal` for fewer than four rungs, and where something else than `x` grows with it.
    """
    seen = {name: _observed(table, group, name) for name in (CONVENTIONS if x == "n" else (params,))}
    o = seen[params]
    rungs, other = o.variable(x), o.d if x == "n" else o.n
    faults = []
    if len(np.unique(rungs)) < 4:
        faults.append(f"ladder {group}: {len(np.unique(rungs))} values of {x.upper()}: a law of one variable needs 4")
    if other.max() > (1 + ALIKE) * other.min():
        what = "D" if x == "n" else "N"
        faults.append(
            f"ladder {group}: {what} is from {other.min():.4g} to {other.max():.4g}: it must be the same on every rung"
        )
    if faults:
        raise Refusal(faults)
    return Ladder(
        group=group, x=x, observations=o,
        fits={law: fit(o, law, x=x, level=level) for law in LAWS},
        conventions={name: fit(runs, "power", x=x, level=level) for name, runs in seen.items()},
    )  # fmt: skip


def _observed(table: pandas.DataFrame, group: str, params: str) -> Observations:
    return observe(table.loc[table["group"] == group], params=params, roles=("fitted", "compare"))
