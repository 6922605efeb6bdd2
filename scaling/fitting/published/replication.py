"""What a published procedure gives on a table, beside what its paper printed."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scaling.fitting.fitted import Fit
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a paper. Agreement is asked for on the paper's own rows alone."""

    name: str
    ours: float
    published: float | None = None
    interval: tuple[float, float] | None = None  # as published, 95 % unless `within` says otherwise
    tolerance: float | None = None  # relative; where no interval was published
    within: str = ""  # why this tolerance
    why: str = ""  # the cause of a difference

    @property
    def agrees(self) -> bool | None:
        """None where nothing was published to agree with."""
        if self.interval is not None:
            return self.interval[0] <= self.ours <= self.interval[1]
        if self.published is None or self.tolerance is None:
            return None
        return abs(self.ours - self.published) <= self.tolerance * abs(self.published)


@dataclass(frozen=True, kw_only=True, eq=False)
class Replication:
    """A procedure applied to a table."""

    name: str  # of the procedure
    paper: str
    words: str  # what is done, step by step
    runs: int
    dropped: dict[str, int]  # rows left out, by reason
    own: bool  # the rows are those of the paper, so that its figures should come out
    quantities: tuple[Quantity, ...]
    default: dict[str, float] = field(default_factory=dict)  # the same quantities by our own default, where it has them
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "procedure": self.name, "paper": self.paper, "words": self.words, "runs": self.runs,
            "dropped": self.dropped, "own_rows": self.own,
            "quantities": [
                _clean(asdict(q)) | {"agrees": q.agrees if self.own else None} for q in self.quantities
            ],
            "default": _clean(self.default), "warnings": list(self.warnings),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """A published way from a table to numbers."""

    paper: str  # authors, year and arXiv number
    law: str
    words: str
    columns: str  # what the table must have
    run: Callable[["pandas.DataFrame", int], Replication]  # a table and a seed


def same_rows(o: Observations, runs: int, mean_loss: float) -> bool:
    """Whether these are the paper's own rows, by their number and mean loss."""
    return len(o) == runs and math.isclose(float(o.loss.mean()), mean_loss, rel_tol=1e-6)


def by_default(found: Fit) -> dict[str, float]:
    """Estimates of our own default, and its exponents of the optimum where it has one; empty where unidentified."""
    if found.law is None:
        return {}
    values = {name: item.value for name, item in found.estimates().items()}
    if hasattr(found.law, "optimum"):
        best = found.optimum_intervals(found.flops_max)
        values |= {name: best[name].value for name in ("exponent_n", "exponent_d")}
    return values


def reached(o: Observations, keep: Array, reason: str) -> dict[str, int]:
    """`dropped` of the rows that a mask leaves out."""
    out = int((~keep).sum())
    return o.dropped | ({reason: out} if out else {})


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
