"""A study: one question, the runs that answer it, and how the answer is read off."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from scaling import data
from scaling.cost import ParamConvention
from scaling.plan.plan import Plan
from scaling.spec import ill_typed

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
UNFIT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # for a terminal


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is made of the records."""

    params: ParamConvention = "matmul"  # which N the laws are in
    laws: tuple[str, ...] = (
        "chinchilla",
        "interaction",
        "kaplan",
    )  # all forecast; the one that extrapolates best is shown
    algorithms: Mapping[str, str] = dataclasses.field(default_factory=dict)  # group -> what it changes, in words
    # group -> what its data are, in words: how many tokens of the fitted group one of its own is worth
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # group of `algorithms`, `data` or `repeated` -> the group that it is compared with, where that is not the first
    # fitted one, or all that is fitted
    against: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # group -> what is done otherwise in it, in words: how that moves the exponent of the best split
    varied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # group that repeats its tokens -> how, in words: what a repeated token is worth beside fresh ones
    repeated: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # group -> what alone grows in it, n or d: fitted by laws of one variable, which forecast its held-out runs
    ladders: Mapping[str, Literal["n", "d"]] = dataclasses.field(default_factory=dict)
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

    def ill_typed(self) -> list[str]:
        """One line for each field that holds something of another kind; nothing else can be asked before."""
        kinds = {"name": str, "question": str, "plan": Plan, "held_out": Plan, "analysis": Analysis}
        lines = [
            f"{field} = {getattr(self, field)!r:.60}: must be a {kind.__name__}"
            for field, kind in kinds.items()
            if not isinstance(getattr(self, field), kind)
        ]
        for field, kind in {
            "level": (int, float),
            "bootstrap": int,
            "known_entropy": str,
            "algorithms": Mapping,
            "data": Mapping,
            "repeated": Mapping,
            "against": Mapping,
            "varied": Mapping,
            "ladders": Mapping,
        }.items():
            value = getattr(self.analysis, field, None)
            if not lines and not isinstance(value, kind):
                lines.append(f"analysis.{field} = {value!r}: is of the wrong type ({type(value).__name__})")
        return lines or [*dict.fromkeys(self.plan.ill_typed() + self.held_out.ill_typed())]

    def faults(self, *, texts: bool = True) -> list[str]:
        """Everything that is wrong, one line each; no run is started while there is any. Without `texts` only what does
        not depend on the machine: no text is opened."""
        if lines := self.ill_typed():
            return lines
        lines = self.runs.faults()
        if not NAME.fullmatch(self.name):
            lines.append(f"name = {self.name!r}: must be letters, digits, '.', '_' or '-': it names the results folder")
        said = {"question": self.question} | {
            f"analysis.{field}[{group!r}]": text
            for field in ("algorithms", "data", "repeated", "varied")
            for group, text in getattr(self.analysis, field).items()
        }
        lines += [
            f"{field} = {text!r:.60}: must be text without control characters"
            for field, text in said.items()
            if not isinstance(text, str) or UNFIT.search(text)
        ]
        if not 0 < self.analysis.level < 1:
            lines.append(f"analysis.level = {self.analysis.level}: must lie between 0 and 1")
        if self.analysis.bootstrap < 0 or self.analysis.bootstrap == 1:
            lines.append(f"analysis.bootstrap = {self.analysis.bootstrap}: must be 0 (delta method) or at least 2")
        laws = self.analysis.laws
        if not isinstance(laws, (tuple, list)) or not all(isinstance(law, str) for law in laws):
            lines.append(f"analysis.laws = {self.analysis.laws!r}: must be a tuple of names of laws")
        elif not laws and not self.analysis.ladders:
            lines.append("analysis.laws = (): must name a law of N and D, or analysis.ladders a group")
        lines += [
            f"analysis.ladders[{group!r}] = {x!r:.60}: must be n or d, what alone grows in the group"
            for group, x in self.analysis.ladders.items()
            if x not in ("n", "d")
        ]
        if self.analysis.params not in get_args(ParamConvention):
            lines.append(
                f"analysis.params = {self.analysis.params!r}: must be one of {', '.join(get_args(ParamConvention))}"
            )
        groups = {planned.group for planned in self.plan.runs}
        named = {
            "analysis.algorithms": [*self.analysis.algorithms],
            "analysis.data": [*self.analysis.data],
            "analysis.repeated": [*self.analysis.repeated],
            "analysis.against": [*self.analysis.against, *self.analysis.against.values()],
            "analysis.varied": [*self.analysis.varied],
            "analysis.ladders": [*self.analysis.ladders],
            "analysis.known_entropy": [self.analysis.known_entropy],
        }
        for field, names in named.items():
            lines += [
                f"{field} = {name!r}: no group of the plan has this name; there are {', '.join(sorted(groups))}"
                for name in names
                if name and name not in groups
            ]
        lines += [
            f"plan: run {p.run.id} has the role held_out; put it into Study.held_out, which waits for the forecast"
            for p in self.plan.with_role("held_out").runs
        ]
        fitted = {p.run.id for p in self.plan.runs}
        lines += [
            f"held_out: run {p.run.id} is in the plan as well, so nothing would be held out"
            for p in self.held_out.with_role("held_out").runs
            if p.run.id in fitted
        ]
        lines += [
            f"held_out: run {p.run.id} has the role {p.role}"
            for p in self.held_out.runs
            if p.role not in ("held_out", "trunk")
        ]
        if not texts:
            return lines
        # Texts are opened for runs of sound types; a bad number of one field does not hide a bad text.
        typed = [p.run for p in self.runs.runs if not ill_typed(p.run)]
        lines += dict.fromkeys(fault for run in typed for fault in data.faults(run))
        if self.analysis.known_entropy and not lines:
            lines += self._entropy_faults()
        return lines

    def _entropy_faults(self) -> list[str]:
        name = self.analysis.known_entropy
        run = next(p.run for p in self.plan.runs if p.group == name)
        source = data.open_evaluated(run)
        known = source.entropy is not None
        return [] if known else [f"analysis.known_entropy = {name!r}: the entropy of {source.name} is not known"]

    def to_json(self) -> dict[str, Any]:
        """What `study.json` in the results folder says."""
        analysis = dataclasses.asdict(self.analysis)
        return {"name": self.name, "question": self.question, "analysis": analysis, "plan": self.runs.to_json()}
