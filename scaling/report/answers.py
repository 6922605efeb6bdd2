"""What each of the four concepts bought, in a line with a number and its interval."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scaling.fitting.compare import Comparison
from scaling.fitting.fitted import Fit
from scaling.fitting.ladder import Ladder
from scaling.fitting.uncertainty import Interval
from scaling.report.words import interval, power, short, unknown

if TYPE_CHECKING:
    from scaling.report.findings import Findings, Repetition
    from scaling.report.variations import Variation

COUNTED = {  # what each column counts, in words
    "n_params": "non-embedding and head parameters", "n_params_kaplan": "non-embedding parameters",
    "n_params_total": "all parameters",
}  # fmt: skip
Concept = Literal["model scale", "data scale", "compute", "algorithms"]
# What it is read from: a law of N and D, a ladder, or one of the groups that are told one by one.
Kind = Literal["law", "ladder", "varied", "data", "repeated", "algorithms"]
CLIMBED: dict[str, Concept] = {"n": "model scale", "d": "data scale"}  # the concept of a ladder by what grows in it


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one concept bought, in a line with a number and its interval."""

    concept: Concept
    kind: Kind
    text: str
    runs: tuple[str, ...] = ()  # ids of those behind the number


def answers_of(found: "Findings") -> tuple[Answer, ...]:
    """What doubling each of N, D and C buys at the best split of the largest fitted compute, and all else asked."""
    answers: list[Answer] = []
    law, runs = found.headline, found.observations.run_id if found.observations is not None else ()
    if law is not None:
        best, further = law.optimum(law.flops_max), law.optimum(2 * law.flops_max)
        n, d = float(best.n), float(best.d)
        exponents = law.optimum_intervals(law.flops_max)
        at = f"at N = {short(n)}, D = {short(d)}"
        grow = ", ".join(f"{x}* ~ C^{interval(exponents[f'exponent_{x.lower()}'])}" for x in "ND")
        best_of = f"the best split of {power(law.flops_max)} FLOPs ({law.name} law)"
        steps = {"n": (2 * n, d), "d": (n, 2 * d), "c": (float(further.n), float(further.d))}
        bought = {name: _change([law, *_others(found)], (n, d), to) for name, to in steps.items()}
        answers += [
            Answer(
                concept="model scale",
                kind="law",
                text=f"twice the parameters: {bought['n']} {at}, {best_of}",
                runs=runs,
            ),
            Answer(concept="data scale", kind="law", text=f"twice the tokens: {bought['d']} {at}", runs=runs),
            Answer(
                concept="compute",
                kind="law",
                text=f"twice the compute, split best: {bought['c']}; the best split grows as {grow}",
                runs=runs,
            ),
        ]
    answers += [
        Answer(concept=CLIMBED[ladder.x], kind="ladder", text=_climbed(ladder), runs=ladder.observations.run_id)
        for ladder in found.ladders
        if ladder.law
    ]

    def add(concept: Concept, kind: Kind, text: str, runs: tuple[str, ...]) -> None:
        answers.append(Answer(concept=concept, kind=kind, text=text, runs=runs))

    for one in found.varied:
        add("compute", "varied", _varied(one), one.runs)
    for other in found.data:
        add("data scale", "data", worth(found, other), compared(found, other))
    for again in found.repeated:
        add("data scale", "repeated", repeating(again), again.observations.run_id)
    for algorithm in found.comparisons:
        add("algorithms", "algorithms", priced(found, algorithm), compared(found, algorithm))
    return tuple(answers)


def compared(found: "Findings", comparison: Comparison) -> tuple[str, ...]:
    """The runs behind a comparison: the group's own, and the baseline's of the sizes that took part."""
    table = found.table.loc[(found.table["status"] == "finished") & found.table["role"].isin(["fitted", "compare"])]
    own, base = table["group"] == comparison.algorithm, table["group"] == comparison.baseline
    return tuple(table.loc[own | (base & table["d_model"].isin(comparison.sizes)), "run_id"])


def _varied(one: "Variation") -> str:
    """The exponent of the best split under what was changed on purpose."""
    law = interval(one.exponent) if one.exponent else "not told"
    valleys = f", by the vertices of isoFLOP parabolas {interval(one.by_valleys)}" if one.by_valleys else ""
    return f"{one.name} ({one.words}): N* ~ C^{law} by the law{valleys}"


def priced(found: "Findings", c: Comparison) -> str:
    """What an algorithm is worth, and what it is."""
    what = found.study["analysis"]["algorithms"].get(c.algorithm)
    said = f"{c.algorithm} ({what}){c.verdict.removeprefix(c.algorithm)}" if what else c.verdict
    return "; ".join(filter(None, [said, c.proviso]))


def worth(found: "Findings", other: Comparison) -> str:
    """How many tokens of the fitted runs one token of other data is worth: at one size compute goes as tokens."""
    what = found.study["analysis"]["data"][other.algorithm]
    name = f"{other.algorithm} ({what})" if what else other.algorithm
    if other.multiplier is None:
        known = f"{other.bound[0]} {other.bound[1]:.2g}" if other.bound else "an unknown share"
        return f"{name}: a token is worth {known} of one of {other.baseline}; their losses do not overlap"
    text = f"{name}: a token is worth {interval(other.multiplier)} of one of {other.baseline}"
    slope = other.slope
    if slope is None or not math.isfinite(slope.low):
        return text
    if slope.low <= 0 <= slope.high:
        return f"{text}, and whether that changes with more of them is not resolved"
    return f"{text}, {'more' if slope.value > 0 else 'less'} the more there are"


def repeating(one: "Repetition") -> str:
    """After how many passes a token is worth half, at equal loss; by the law where the runs allow no more."""
    name = f"{one.group} ({one.words})" if one.words else one.group
    half, equal = one.half_life, one.equal
    if half is None and (equal is None or not 0 < equal.rate.high < math.inf):
        why = "R_D rests on the edge of its range" if one.fit.law else unknown(one.fit)
        return f"{name}: what a repetition is worth is not told: {why}"
    if equal is None:
        assert half is not None
        return f"{name}: by the law one more pass is worth half of the first after {interval(half)} repetitions"
    after = interval(half) if half else f"{math.log(2) / equal.rate.high:.2g} or more"
    few, most = min(4.0, float(equal.epochs.max())), float(equal.epochs.max())
    text = (
        f"{name}: at equal loss one more pass is worth half of the first after {after} repetitions; "
        f"{few:.2g} passes are worth {equal.passes(few):.2g} fresh ones, {most:.2g} are worth {equal.passes(most):.2g}"
    )
    sizes = {size: [rate for (of, _), rate in equal.rates.items() if of == size] for size, _ in equal.rates}
    ends = [sum(rates) / len(rates) for rates in (next(iter(sizes.values())), [*sizes.values()][-1])]
    if half is not None and len(sizes) > 1 and min(ends) > 0:
        text += (
            f"; from {math.log(2) / ends[0]:.2g} repetitions at the smallest size to {math.log(2) / ends[1]:.2g} at "
            "the largest"
        )
    return text


def _climbed(ladder: Ladder) -> str:
    """What ten times the largest rung would buy, and the exponent by each way to count N."""
    law, ten = ladder.law, ladder.gain(10)
    assert law is not None and ten is not None
    what, other = ("parameters", "D") if ladder.x == "n" else ("tokens", "N")
    text = (
        f"{ladder.group}: ten times the {what} beyond {short(ladder.top)}: {_drop(ten)} "
        f"at {other} = {short(ladder.at)}; "
        f"exponent {interval(law.estimates()['alpha'])} over {ladder.decades:.1f} decades"
    )
    others = {name: one for name, one in ladder.conventions.items() if one.law and name != law.params}
    if others:
        said = (f"{interval(one.estimates()['alpha'])} in {COUNTED[name]}" for name, one in others.items())
        text += f" ({', '.join(said)})"
    return text


def _others(found: "Findings") -> list[Fit]:
    """The identified laws that are not the headline."""
    return [fit for fit in found.fits.values() if fit.law is not None and fit is not found.headline]


def _change(fits: list[Fit], before: tuple[float, float], after: tuple[float, float]) -> str:
    """How the loss changes by the first law, with its interval, and by the others."""
    own = _drop(fits[0].gain(before, after))
    others = ", ".join(f"{-float(fit.gain(before, after).value):.3f}" for fit in fits[1:])
    return f"{own} (other laws {others})" if others else own


def _drop(gain: Interval) -> str:
    """A gain as the change of the loss that it is."""
    return interval(Interval(value=-gain.value, se=gain.se, low=-gain.high, high=-gain.low), "nats")
