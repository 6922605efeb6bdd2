"""A plan: runs, each with the group that it belongs to and the role that it plays."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from scaling.cost import marginal_flops
from scaling.spec import Branch, OptimSpec, RunSpec, faults, from_json, ill_typed, override, to_json

# trunk: trained for its branches, not evaluated; fitted: the law is fitted to it; held_out: forecast, then trained;
# compare: measured for another question than the law, e.g. another algorithm.
Role = Literal["trunk", "fitted", "held_out", "compare"]

GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run of a plan: `group` is what a figure calls it, `role` what it is for (trunk, fitted, held_out, compare)."""

    run: RunSpec
    group: str
    role: Role


@dataclass(frozen=True)
class Plan:
    """Runs in the order in which they were planned; `a + b` holds both, a run that both ask for once."""

    runs: tuple[Planned, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        known = {planned.run.id for planned in self.runs}
        return Plan(self.runs + tuple(p for p in other.runs if p.run.id not in known))

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def flops(self) -> int:
        """Training FLOPs that the plan executes, trunks once."""
        return sum(marginal_flops(planned.run) for planned in self.runs)

    def pending(self, done: Container[str]) -> "Plan":
        """The runs that are not done: how a sweep resumes."""
        return Plan(tuple(p for p in self.runs if p.run.id not in done))

    def with_role(self, *roles: Role) -> "Plan":
        """The runs that have one of these roles, in the same order."""
        return Plan(tuple(p for p in self.runs if p.role in roles))

    def branch_steps(self, trunk: str) -> tuple[int, ...]:
        """The steps at which the plan leaves this trunk, each once."""
        return tuple(sorted({p.run.branch.step for p in self.runs if p.run.branch and p.run.branch.trunk == trunk}))

    def overridden(self, changes: Mapping[str, str]) -> "Plan":
        """Every run with these fields replaced (`spec.override`); branches follow their trunks to the new ids."""
        renamed = {p.run.id: override(p.run, changes) for p in self.runs if p.run.branch is None}

        def change(run: RunSpec) -> RunSpec:
            if run.branch is None or run.branch.trunk not in renamed:
                return override(run, changes)
            return replace(
                override(run, changes), branch=Branch(trunk=renamed[run.branch.trunk].id, step=run.branch.step)
            )

        return Plan(tuple(replace(p, run=change(p.run)) for p in self.runs)) if changes else self

    def ill_typed(self) -> list[str]:
        """One line for each thing in the plan that is no run with a group, a role and an id."""
        if not isinstance(self.runs, tuple):
            return [f"plan.runs = {self.runs!r:.60}: must be a tuple of Planned"]
        return list(dict.fromkeys(line for planned in self.runs for line in _ill_planned(planned)))

    def faults(self) -> list[str]:
        """Everything that is wrong with the plan's runs and with how they hang together, each line once."""
        if lines := self.ill_typed():
            return lines
        if not self.runs:
            return ["plan: holds no runs"]
        by_run = {p.run.id: faults(p.run) for p in self.runs}
        lines = [fault for found in by_run.values() for fault in found]
        lines += [
            f"group = {name!r}: must be letters, digits, space, '.', '_' or '-', beginning with a letter or digit"
            for name in {p.group for p in self.runs}
            if not GROUP_NAME.fullmatch(name)
        ]
        times = Counter(p.run.id for p in self.runs)
        lines += [
            f"run {run_id}: is planned {count} times; runs that --set or equal horizons make equal cannot be told apart"
            for run_id, count in times.items()
            if count > 1
        ]
        trunks = {p.run.id: p.run for p in self.runs if p.role == "trunk"}
        for run in (p.run for p in self.runs if p.run.branch):
            # How a branch and a trunk hang together is asked of sound ones: not a number, say, equals nothing.
            if run.branch and not by_run[run.id] and not by_run.get(run.branch.trunk):
                lines += _branch_faults(run, run.branch, trunks)
        return list(dict.fromkeys(lines))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"id": p.run.id, "group": p.group, "role": p.role, "run": to_json(p.run)} for p in self.runs]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> "Plan":
        """Of what `to_json` gave, as in `study.json`."""
        return cls(tuple(Planned(run=from_json(RunSpec, v["run"]), group=v["group"], role=v["role"]) for v in values))


def steady(optim: OptimSpec) -> OptimSpec:
    """The optimizer of a trunk: the same, at a constant rate after warm-up."""
    shape = {"schedule": "constant", "cooldown_steps": 0, "cooldown": "linear", "horizon_steps": 0, "final_lr": 0.0}
    return replace(optim, **shape)


def _ill_planned(planned: Any) -> list[str]:
    if not isinstance(planned, Planned):
        return [f"plan: {planned!r:.60}: must be a Planned, as trunks, straight and isoflop make them"]
    if not isinstance(planned.run, RunSpec):
        return [f"plan: run = {planned.run!r:.60}: must be a RunSpec"]
    lines = [] if isinstance(planned.group, str) else [f"group = {planned.group!r:.60}: must be text"]
    if planned.role not in get_args(Role):
        lines.append(f"role = {planned.role!r:.60}: must be one of {', '.join(get_args(Role))}")
    try:
        planned.run.id  # noqa: B018
    except (TypeError, ValueError, AttributeError):  # of a value that JSON has not
        lines += ill_typed(planned.run)
    return lines


def _branch_faults(run: RunSpec, branch: Branch, trunks: Mapping[str, RunSpec]) -> Iterable[str]:
    if branch.trunk not in trunks:
        yield f"branch.trunk = {branch.trunk}: no trunk of the plan has this id"
        return
    trunk = trunks[branch.trunk]
    if branch.step > trunk.steps:
        yield f"branch.step = {branch.step}: its trunk {trunk.id} ends at step {trunk.steps}"
    same = replace(run, optim=trunk.optim, eval=trunk.eval, steps=trunk.steps, branch=trunk.branch)
    if same != trunk or steady(run.optim) != trunk.optim:
        yield f"branch.trunk = {trunk.id}: differs from its branch {run.id} in more than the cooldown"
