"""The runs of a learning-rate transfer study: cells of a study, each repeated at multiples of its own learning rate.

A cell is one run of the study. Everything but `optim.peak_lr` stays as the study has it, so that the multiple 1 is the
study's own run and the best multiple says how far the study's rule for the rate is off, at each size and horizon.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from scaling.cost import count_params
from scaling.plan.combine import repeated
from scaling.plan.plan import Plan, Planned
from scaling.plan.study import Study
from scaling.spec import Branch, ModelSpec, OptimSpec, Refusal, RunSpec

T = TypeVar("T")

LEAST_RATES = 3  # a parabola has three numbers
LARGEST_STEP = 8.0  # between neighbouring rates; a valley fits between wider ones
EXTENSION = 2  # rates that a grid grows by, on the side on which its optimum lies


@dataclass(frozen=True, kw_only=True)
class Cell:
    group: str
    run: RunSpec  # the study's own
    trunk: RunSpec | None  # of the study, where the run is a branch

    @property
    def grid(self) -> tuple[str, ModelSpec]:
        """What shares a grid of rates: one trunk serves every horizon of a model."""
        return self.group, self.run.model


def cells(study: Study, *, groups: Sequence[str] = (), sizes: int = 3, horizons: int = 2) -> tuple[Cell, ...]:
    """The runs of a study that stand for its groups, small to large models, short to long horizons.

    Of each group `sizes` models and of each model `horizons`, evenly spread in logarithms with the least and the
    largest among them; 0: all. A run that is repeated counts once, with its lowest seed. Without `groups` those that a
    law is fitted to, or where there are none those that are compared. Raises `Refusal` for what cannot be chosen.
    """
    evaluated = [p for p in study.plan.runs if p.role != "trunk"]
    known = list(dict.fromkeys(p.group for p in evaluated))
    faults = [
        f"--group {name}: the study has no group of runs by this name{_near(name, known)}"
        for name in dict.fromkeys(groups)
        if name not in known
    ]
    for option, count in (("--sizes", sizes), ("--horizons", horizons)):
        if count < 0:
            faults.append(f"{option} {count}: must be at least 1, or all")
    if not known:
        faults.append("plan: holds no runs that are evaluated, so there is nothing to tune")
    if faults:
        raise Refusal(faults)
    fitted = [name for name in known if any(p.role == "fitted" for p in evaluated if p.group == name)]
    trunks = {p.run.id: p.run for p in study.plan.with_role("trunk").runs}
    chosen = []
    for name in dict.fromkeys(groups or fitted or known):
        runs = [p.run for p in evaluated if p.group == name]
        models = sorted(dict.fromkeys(run.model for run in runs), key=lambda m: count_params(m).matmul)
        for model in _spread(models, sizes, lambda m: count_params(m).matmul):
            first: dict[int, RunSpec] = {}
            for run in sorted((run for run in runs if run.model == model), key=lambda run: run.seed):
                first.setdefault(run.tokens, run)
            for tokens in _spread(sorted(first), horizons, float):
                run = first[tokens]
                chosen.append(Cell(group=name, run=run, trunk=trunks[run.branch.trunk] if run.branch else None))
    return tuple(chosen)


def ladder(rates: int, step: float) -> tuple[int, ...]:
    """Exponents of `step` for `rates` rates about the study's own; an even number has one more below.

    Raises `Refusal` for numbers that give no ladder.
    """
    faults = []
    if rates < LEAST_RATES:
        faults.append(f"--rates {rates}: a parabola needs at least {LEAST_RATES}, and 5 say how sure it is")
    if not 1 < step <= LARGEST_STEP:
        faults.append(
            f"--step {step:g}: is the factor between neighbouring rates, above 1 and at most {LARGEST_STEP:g}"
        )
    if faults:
        raise Refusal(faults)
    return tuple(range(-(rates // 2), rates - rates // 2))


def extended(exponents: Sequence[int], side: int) -> tuple[int, ...]:
    """The ladder with `EXTENSION` more rates below (side -1) or above (+1)."""
    low, high = min(exponents), max(exponents)
    return tuple(range(low - EXTENSION * (side < 0), high + 1 + EXTENSION * (side > 0)))


def factor(step: float, exponent: int) -> float:
    """step^exponent, without a rounding where the step is a power of 2 or of its root: ladders of 2 and of 1.41421356
    then meet in the same runs."""
    halves = 2 * math.log2(step)
    if abs(halves - round(halves)) < 1e-6:
        return 2.0 ** (round(halves) * exponent / 2)
    return step**exponent


def tuning_plan(
    chosen: Iterable[Cell], ladder_of: Callable[[Cell], Iterable[int]], *, step: float, seeds: int = 1
) -> Plan:
    """Every cell at every rate of its ladder, with `seeds` seeds: its own and the next ones that no cell has.

    A branch has its trunk at the same rate, trained no further than the last chosen branch needs. All runs have the
    role compare.
    """
    chosen = tuple(chosen)
    plan = Plan()
    for cell in chosen:
        for exponent in ladder_of(cell):
            plan += _at(cell, factor(step, exponent), chosen)
    last = max((cell.run.seed for cell in chosen), default=0)
    return plan + repeated(plan, range(last + 1, last + seeds))


def _at(cell: Cell, times: float, chosen: Sequence[Cell]) -> Plan:
    run = replace(cell.run, optim=_faster(cell.run.optim, times))
    runs = []
    if cell.trunk is not None and run.branch is not None:
        same = [c.run.branch for c in chosen if c.run.branch and c.run.branch.trunk == cell.trunk.id]
        steps = max(branch.step for branch in same)
        trunk = replace(cell.trunk, optim=_faster(cell.trunk.optim, times), steps=steps)
        run = replace(run, branch=Branch(trunk=trunk.id, step=run.branch.step))
        runs.append(Planned(run=trunk, group=cell.group, role="trunk"))
    return Plan((*runs, Planned(run=run, group=cell.group, role="compare")))


def _faster(optim: OptimSpec, times: float) -> OptimSpec:
    return replace(optim, peak_lr=optim.peak_lr * times)


def _spread(items: Sequence[T], count: int, size: Callable[[T], float]) -> list[T]:
    """`count` of the items (rising in size), the ends among them and the others nearest to even steps of ln size."""
    if count == 0 or count >= len(items):
        return list(items)
    if count == 1:
        return [items[-1]]
    logs = [math.log(size(item)) for item in items]
    left = list(range(1, len(items) - 1))
    taken = [0, len(items) - 1]
    for i in range(1, count - 1):
        target = logs[0] + (logs[-1] - logs[0]) * i / (count - 1)
        nearest = min(left, key=lambda j: abs(logs[j] - target))
        left.remove(nearest)
        taken.append(nearest)
    return [items[i] for i in sorted(taken)]


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known) or 'none'}"
