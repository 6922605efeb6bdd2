"""`tuning.json` of a results folder: how far the learning rate of each run is from the best one, and what that costs.

Made by `scaling tune` (`scaling.fitting.tuning` writes a group's part); read to fill columns of `runs.csv`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.cost import count_params
from scaling.record.files import read_json
from scaling.spec import Refusal, RunSpec

BEYOND = 2.0  # factor in N or D outside the tuned range up to which the plane is believed
MOST = 2**26  # bytes of a tuning.json
REACH = 4.0  # factor from the best rate up to which its parabola is


def same_but_rate(run: RunSpec) -> str:
    """What runs that differ in learning rate and seed alone, or in the trunk they share, have in common."""
    optim, data = replace(run.optim, peak_lr=1.0), replace(run.data, seed=0)
    return replace(run, optim=optim, data=data, seed=0, branch=None).id


@dataclass(frozen=True, kw_only=True)
class Mistuning:
    """How far a run's learning rate is from the best one of its size and horizon."""

    lr_over_best: float
    kappa: float  # curvature of ln loss in ln rate at the best one

    def excess(self, loss: float) -> float | None:
        """What the best rate would have gained, in the unit of the loss; None beyond the reach of the parabola."""
        if not 1 / REACH <= self.lr_over_best <= REACH:
            return None
        return -loss * math.expm1(-self.kappa * math.log(self.lr_over_best) ** 2)


@dataclass(frozen=True, kw_only=True)
class GroupTuning:
    """ln(best rate / planned) = a + b ln(N / n0) + c ln(D / d0) within a range; N is non-embedding and head."""

    values: Mapping[str, float]  # by a, b, c; a term that could not be told is left out
    n0: float
    d0: float
    n: tuple[float, float]  # least and largest N that has an optimum
    d: tuple[float, float]
    kappa: float
    planned: Mapping[str, float]  # learning rate that the study planned, by `same_but_rate`

    def __call__(self, run: RunSpec) -> Mistuning | None:
        """None outside the range, and for a run that the study had not planned when it was tuned."""
        n, d, planned = count_params(run.model).matmul, run.tokens, self.planned.get(same_but_rate(run))
        inside = all(low / BEYOND <= value <= high * BEYOND for value, (low, high) in ((n, self.n), (d, self.d)))
        if planned is None or not inside:
            return None
        at = {"a": 1.0, "b": math.log(n / self.n0), "c": math.log(d / self.d0)}
        best = planned * math.exp(sum(value * at[term] for term, value in self.values.items()))
        return Mistuning(lr_over_best=run.optim.peak_lr / best, kappa=self.kappa)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What `tuning.json` of a study says: `tuning(run, group)` is how far its learning rate is from the best."""

    groups: Mapping[str, GroupTuning]  # those whose rates the tuning could tell

    def __call__(self, run: RunSpec, group: str) -> Mistuning | None:
        """None for a group that was not tuned, and as `GroupTuning` says."""
        return self.groups[group](run) if group in self.groups else None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Tuning":
        """Of a document {groups: [...]}. A group without a plane or a curvature is not tuned."""
        return cls(groups={one["group"]: _group(one) for one in values["groups"] if one["plane"] and one["kappa"]})

    @classmethod
    def of(cls, folder: Path) -> "Tuning":
        """What `tuning.json` in a results folder says, or nothing. Raises `Refusal` for a file that is none."""
        path = folder / "tuning.json"
        try:
            return cls.from_json(read_json(path, most=MOST))
        except FileNotFoundError:
            return cls(groups={})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(
                f"{path}: not a tuning ({error!r}); move it away, and `scaling tune` makes it again"
            ) from error


def _group(values: Mapping[str, Any]) -> GroupTuning:
    plane = values["plane"]
    (n_low, n_high), (d_low, d_high) = values["range"]["n"], values["range"]["d"]
    return GroupTuning(
        values=dict(zip(plane["terms"], map(float, plane["values"]), strict=True)), n0=float(plane["n0"]),
        d0=float(plane["d0"]), n=(float(n_low), float(n_high)), d=(float(d_low), float(d_high)),
        kappa=float(values["kappa"]["value"]), planned={key: float(rate) for key, rate in values["planned"].items()},
    )  # fmt: skip
