"""A study: one question, the runs that answer it, and how the answer is read off."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaling import data
from scaling.cost import ParamConvention
from scaling.plan.plan import Plan

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is made of the records."""

    params: ParamConvention = "matmul"  # which N the laws are in
    laws: tuple[str, ...] = ("chinchilla", "interaction", "kaplan")  # the first is shown, all of them forecast
    algorithms: Mapping[str, str] = dataclasses.field(default_factory=dict)  # group -> what it changes, in words
    known_entropy: str = ""  # group trained on a source of known entropy, whose fitted floor is compared with it
    level: float = 0.9  # of every interval
    bootstrap: int = 0  # resamples of whole trunks for the intervals; 0: the delta method, which few trunks need


@dataclass(frozen=True, kw_only=True)
class Study:
    """The value, `STUDY`, that a file in experiments/ defines."""

    name: str  # names the results folder
    question: str
    plan: Plan
    held_out: Plan = Plan()  # forecast when the plan's fitted runs are done, and only then trained
    analysis: Analysis = Analysis()

    @property
    def runs(self) -> Plan:
        return self.plan + self.held_out

    def overridden(self, changes: Mapping[str, str]) -> "Study":
        return replace(self, plan=self.plan.overridden(changes), held_out=self.held_out.overridden(changes))

    def faults(self) -> list[str]:
        """Everything that is wrong, one line each; no run is started while there is any."""
        lines = self.runs.faults()
        if not NAME.fullmatch(self.name):
            lines.append(f"name = {self.name!r}: must be letters, digits, '.', '_' or '-': it names the results folder")
        if not 0 < self.analysis.level < 1:
            lines.append(f"analysis.level = {self.analysis.level}: must lie between 0 and 1")
        if self.analysis.bootstrap < 0:
            lines.append(f"analysis.bootstrap = {self.analysis.bootstrap}: must be at least 0")
        groups = {planned.group for planned in self.plan.runs}
        named = {
            "analysis.algorithms": [*self.analysis.algorithms],
            "analysis.known_entropy": [self.analysis.known_entropy],
        }
        for field, names in named.items():
            lines += [
                f"{field} = {name!r}: no group of the plan has this name; there are {', '.join(sorted(groups))}"
                for name in names
                if name and name not in groups
            ]
        lines += [
            f"held_out: run {p.run.id} has the role {p.role}"
            for p in self.held_out.runs
            if p.role not in ("held_out", "trunk")
        ]
        if not lines:  # the text is opened only for runs that make sense
            lines += dict.fromkeys(fault for planned in self.runs.runs for fault in data.faults(planned.run))
        return lines

    def to_json(self) -> dict[str, Any]:
        """What `study.json` in the results folder says."""
        analysis = dataclasses.asdict(self.analysis)
        return {"name": self.name, "question": self.question, "analysis": analysis, "plan": self.runs.to_json()}
