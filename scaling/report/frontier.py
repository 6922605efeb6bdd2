"""How each approach splits compute: the exponents of N*(C) and D*(C), and the least loss at its largest budget.

The three approaches of arXiv:2203.15556 and the law of the study, on the same runs. Where they differ by more than
their intervals, an exponent rests on the approach and not on the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaling.fitting.envelope import envelope
from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit, interval_json
from scaling.fitting.isoflop import IsoFlop
from scaling.fitting.observe import Observations
from scaling.fitting.uncertainty import Interval
from scaling.report.words import unknown
from scaling.spec import Refusal


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    approach: str  # 1, 2, 3, or the name of the study's law
    words: str
    exponent_n: Interval | None = None  # of N*(C); of a law at the largest fitted compute
    exponent_d: Interval | None = None
    flops: float | None = None  # the largest budget at which the approach has a least loss
    loss: Interval | float | None = None  # there, nats per token; a number alone where it has no interval
    why: str = ""  # it says nothing

    def to_json(self) -> dict[str, Any]:
        exponents = {
            name: None if item is None else interval_json(item)
            for name, item in (("exponent_n", self.exponent_n), ("exponent_d", self.exponent_d))
        }
        loss = interval_json(self.loss) if isinstance(self.loss, Interval) else self.loss
        return {
            "approach": self.approach, "words": self.words, **exponents, "flops": self.flops, "loss": loss,
            "why_not": self.why,
        }  # fmt: skip


def splits(o: Observations, law: Fit | None, valleys: IsoFlop | None, *, level: float) -> tuple[Split, ...]:
    """Approaches 1, 2 and 3 and `law`, where there is one; each that cannot answer says why."""
    found = [_first(o, level), _second(valleys)]
    named = "chinchilla law by Huber's loss"
    try:
        found.append(_of_law(fit(o, "chinchilla", estimator="huber", level=level), "3", named))
    except Refusal as refusal:
        found.append(Split(approach="3", words=named, why="; ".join(refusal.faults)))
    return (*found, *([_of_law(law, law.name, f"{law.name} law, as everywhere here")] if law is not None else ()))


def _first(o: Observations, level: float) -> Split:
    words = "runs of least loss for their compute"
    try:
        found = envelope(o, level=level)
    except Refusal as refusal:
        return Split(approach="1", words=words, why="; ".join(refusal.faults))
    last = o.run_id.index(found.run_id[-1])
    return Split(
        approach="1", words=words, exponent_n=found.exponent_n, exponent_d=found.exponent_d,
        flops=float(o.flops[last]), loss=float(o.loss[last]),
    )  # fmt: skip


def _second(valleys: IsoFlop | None) -> Split:
    words = "parabolas at equal compute"
    inside = [valley for valley in valleys.valleys if not valley.edge] if valleys is not None else []
    if valleys is None or not inside:
        why = "no budget has a best size inside those that were tried"
        return Split(approach="2", words=words, why=why)
    top = max(inside, key=lambda valley: valley.slice.flops)
    return Split(
        approach="2", words=words, exponent_n=valleys.exponent_n, exponent_d=valleys.exponent_d,
        flops=top.slice.flops, loss=top.loss, why="" if valleys.exponent_n else "one budget makes no line",
    )  # fmt: skip


def _of_law(law: Fit, approach: str, words: str) -> Split:
    if law.law is None:
        return Split(approach=approach, words=words, why=unknown(law))
    best = law.optimum_intervals(law.flops_max)
    return Split(
        approach=approach, words=words, exponent_n=best["exponent_n"], exponent_d=best["exponent_d"],
        flops=law.flops_max, loss=best["loss"],
    )  # fmt: skip
