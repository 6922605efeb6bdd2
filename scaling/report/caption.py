"""What each figure shows and how sure it is, in words made of the numbers that were fitted."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from scaling.fitting.compare import Comparison
from scaling.fitting.fitted import Fit
from scaling.fitting.uncertainty import Interval
from scaling.report import answers, words
from scaling.report.answers import Concept
from scaling.report.findings import Findings
from scaling.report.summary import sides
from scaling.report.table import floor, forecast


def loss_against_n(found: Findings) -> str:
    said = [_runs(found, "N", "D"), _law(found), _held_out(found), _answer(found, "model scale")]
    return " ".join(filter(None, said))


def loss_against_d(found: Findings) -> str:
    curves = "Curves, bands and the held-out run are those of the figure against N." if found.headline else _law(found)
    said = [_runs(found, "D", "N"), curves, _bars(found), _answer(found, "data scale")]
    return " ".join(filter(None, said))


def _runs(found: Findings, along: str, each: str) -> str:
    from scaling.report.curves import levels

    o = found.observations
    assert o is not None
    span = " and ".join(
        f"{name} from {words.short(values.min())} to {words.short(values.max())}"
        for name, values in (("N", o.n), ("D", o.d))
    )
    values = o.d if each == "D" else o.n
    distinct, nearest = levels(values)
    off = np.abs(np.log(values / np.array(distinct)[nearest])).max() > 0.1
    colours = f"in the colour of the nearest {each} that has a curve" if off else f"a colour for each {each}"
    return f"Measured loss of {words.several(len(o), 'run')} against {along}, {colours}; {span}."


def _bars(found: Findings) -> str:
    o = found.observations
    if o is None or not np.isfinite(o.loss_se).any():
        return ""
    median = float(np.nanmedian(o.loss_se))
    return (
        f"Error bars are one standard error of the evaluation (median {median:.2g} nats); runs that are measured on "
        "the same held-out text share most of it, so differences between them are better known than the bars say."
    )


def _law(found: Findings) -> str:
    """Which law the curves are, and how far runs lie from it, inside the fit and left out of it."""
    fit = found.headline
    if fit is None:
        why = " ".join(f"{words.unknown(each)}." for each in found.fits.values())
        return f"No curve is drawn, as no law is identified. {why}".strip()
    said = (
        f"Curves are the {fit.name} law and bands its {words.percent(fit.level)} interval, of the mean and not of a "
        f"single run, dashed where no run was fitted; a run scatters about it by {fit.scale:.2%}"
    )
    if found.noise is not None:
        said += f" where seeds alone scatter by {found.noise.sd:.2%}"
    held = fit.holdout
    if held is None:
        return f"{said}. Too few runs to test how it extrapolates."
    said += (
        f", and the {words.several(int(held['runs']), 'run')} of most compute, left out of the fit, are predicted "
        f"{held['error']:.2%} off on average"
    )
    return f"{said}{_disagreement(found, fit)}."


def _disagreement(found: Findings, fit: Fit) -> str:
    """How far the other laws lie from the one that is drawn, at the largest runs."""
    others = [other for other in found.fits.values() if other.law is not None and other is not fit]
    top = fit.optimum(fit.flops_max)
    if not others or not math.isfinite(float(top.loss)):
        return ""
    gaps = {other.name: float(other.predict(top.n, top.d) / top.loss - 1) for other in others}
    name = max(gaps, key=lambda each: abs(gaps[each]))
    return f". The {name} law differs most: by {gaps[name]:+.2%} at the best split of the largest compute"


def _held_out(found: Findings) -> str:
    if not found.registered:
        return ""
    inside = [one.score.inside for one in found.registered if one.score is not None]
    bar = "The orange bar is the interval of a forecast that was written down before its run was trained"
    if not inside:
        return f"{bar}; the run is not finished."
    if len(inside) == 1:
        return f"{bar}, the diamond what was then measured: {'inside' if inside[0] else 'outside'} it."
    return f"{bar}, the diamonds what was then measured: {sum(inside)} of {len(inside)} inside."


def _answer(found: Findings, concept: Concept) -> str:
    said = [answer.text for answer in found.answers if answer.concept == concept]
    return f"{said[0][:1].upper()}{said[0][1:]}." if said else ""


def isoflop(found: Findings) -> str:
    assert found.isoflop is not None
    valleys = found.isoflop.valleys
    inside = sum(not valley.edge for valley in valleys)
    said = f"Loss against N at {words.several(len(valleys), 'budget')} of compute, in FLOPs at the end of each curve. "
    if any(valley.slice.interpolated for valley in valleys):
        said += "Open circles are interpolated between measured horizons of one size. "
    said += (
        f"A cross is the vertex of a parabola, the best size for its budget; {inside} of {len(valleys)} budgets have "
        "one inside the sizes tried"
    )
    said += ", and dashed parabolas take no further part. " if inside < len(valleys) else ". "
    return said + "A parabola is not the true shape of a valley: 5 to 20 % in N* is its usual error (arXiv:2603.22339)."


def frontier(found: Findings) -> str:
    said = "Every fitted run against its training compute, coloured by size. "
    if found.headline is not None:
        fit = found.headline
        said += (
            f"The line is the least loss that the {fit.name} law gives for C, with its {words.percent(fit.level)} "
            f"interval, dashed beyond the largest fitted compute of {words.power(fit.flops_max)} FLOPs. "
        )
    else:
        said += _law(found) + " "
    return said + " ".join(f"Forecast: {forecast(one)}." for one in found.registered)


def allocation(found: Findings) -> str:
    said, fit, valleys = [], found.headline, found.isoflop
    if fit is not None:
        own = fit.optimum_intervals(fit.flops_max)
        said.append(
            f"The {fit.name} law splits compute: N* grows as C to the {words.interval(own['exponent_n'])} and D* as "
            f"C to the {words.interval(own['exponent_d'])} at {words.power(fit.flops_max)} FLOPs "
            f"({words.percent(fit.level)} intervals)."
        )
        if valleys is not None and valleys.exponent_n is not None:
            said.append(
                f"Approach 2, the crosses, gives N* as C to the {words.interval(valleys.exponent_n)}"
                f"{_agreement(own['exponent_n'], valleys.exponent_n)}."
            )
    elif valleys is not None and valleys.exponent_n is not None:
        said.append(f"Approach 2 alone gives N* as C to the {words.interval(valleys.exponent_n)}. {_law(found)}")
    return " ".join(said) or "The vertices of the isoFLOP parabolas. " + _law(found)


def _agreement(a: Interval, b: Interval) -> str:
    if not all(map(math.isfinite, (a.low, a.high, b.low, b.high))):
        return ""
    return "; the intervals overlap" if a.low <= b.high and b.low <= a.high else "; the intervals do NOT overlap"


def exponents(found: Findings) -> str:
    level = words.percent(found.level)
    own = {split.approach: split.exponent_n for split in found.splits}
    law = found.headline
    assert law is not None
    said = (
        "The exponent a of the best size, N* ~ C^a: of the study's own runs, then of what is counted or done "
        f"otherwise, each by the {law.name} law and by the vertices of parabolas at equal compute. Bars are {level} "
        "intervals, those of published exponents 95 % ones where a paper gives any; the line is the study's own"
    )
    if (exponent := own.get(law.name)) is not None:
        said += f", {words.interval(exponent)}"
    return f"{said}. The two ways to count read the same runs again, so their bars move together with the study's."


def repeated(found: Findings) -> str:
    told = [one.fit.law is not None for one in found.repeated]
    said = ["Loss against passes over U unique tokens, a colour for each U."]
    if any(told):
        said.append("Curves are the law of repeated data, fitted to these and to the fresh runs, with its interval.")
    if any(told) or found.headline is not None:
        law = (
            "that law"
            if all(told)
            else "that law, else that of the fresh runs,"
            if any(told)
            else "the law of fresh runs"
        )
        said.append(f"Dotted is what {law} says of as many fresh tokens: the gap is what repeating costs.")
    said += [f"{answers.repeating(one)}." for one in found.repeated]
    return " ".join(said)


def algorithms(found: Findings) -> str:
    shown = [c for c in found.comparisons if c.multiplier is not None or c.bound is not None]
    said = "How much of the baseline's compute an algorithm is worth at equal loss: below 1 it needs more. "
    words_of = found.study["analysis"]["algorithms"]
    each = [f"{_sentence(c)}. {c.algorithm} is {words_of[c.algorithm]}." for c in shown]
    return said + _compared(found, shown, each)


def other_data(found: Findings) -> str:
    shown = [c for c in found.data if c.multiplier is not None or c.bound is not None]
    said = (
        "How many tokens of the baseline one token of other data is worth, at equal loss and size: below 1 it is less. "
    )
    return said + _compared(found, shown, [f"{answers.worth(found, c)}." for c in shown])


def _compared(found: Findings, shown: Sequence[Comparison], each: Sequence[str]) -> str:
    """What each of them said, or where there are too many for curves how their rows are read; and how sure it is."""
    from scaling.report.plots import in_rows

    rows = in_rows(shown)
    said = _rows(shown) if rows else " ".join(each)
    if any(c.bound for c in shown):
        said += " A line with arrows is a bound: no loss was reached by both."
    if found.noise is not None and any(c.multiplier for c in shown):
        said += (
            f" {'Bars' if rows else 'Bands'} are {words.percent(found.level)} intervals under a seed noise of "
            f"{found.noise.sd:.2%}, measured with {words.replicates(found.noise)}."
        )
    elif any(c.multiplier for c in shown):
        said += " The noise between seeds is unknown, so there are no intervals."
    return said


def _rows(shown: Sequence[Comparison]) -> str:
    above, below = sides(shown)
    counts = {"lie above 1": above, "lie below 1": below, "in grey, are not told from 1": len(shown) - above - below}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return (
        f"Of {len(shown)}, {said}. A ring is the multiplier at the least compute at which both share a loss, a dot at "
        "the most, on the line through all of it: what holds over all of that scale has both on one side of 1. The "
        "numbers are over all of it."
    )


def _sentence(c: Comparison) -> str:
    sizes = f" (d_model {', '.join(c.sizes)})" if c.sizes else ""
    return c.verdict.removesuffix(".") + sizes


def known_entropy(found: Findings) -> str:
    assert found.floor is not None
    line, runs = floor(found), found.floor.fit.runs
    return (
        f"{words.several(runs, 'run')} on a synthetic source whose entropy is computed exactly, fitted as the text is: "
        f"a test of the whole way with a known answer. {line.text[:1].upper()}{line.text[1:]}."
    )


def ladder_of_sizes(found: Findings) -> str:
    return _ladder(found, "n")


def ladder_of_horizons(found: Findings) -> str:
    return _ladder(found, "d")


def _ladder(found: Findings, along: str) -> str:
    shown = [ladder for ladder in found.ladders if ladder.x == along]
    one = shown[0]
    said = [
        f"Measured loss against {along.upper()} where nothing else grows, a colour for each group "
        f"({', '.join(ladder.group for ladder in shown)}), {'D' if along == 'n' else 'N'} = {words.short(one.at)}."
    ]
    if any(ladder.law for ladder in shown):
        level = words.percent(found.level)
        said.append(
            f"Curves are E + A {along.upper()}^-alpha and bands their {level} intervals, of the mean and not of a "
            "single run, dashed beyond the runs that were fitted."
        )
    said += [f"{words.unknown(ladder.fits['power'])}." for ladder in shown if not ladder.law]
    return " ".join([*said, _held_out(found)]).strip()


CAPTIONS: dict[str, Callable[[Findings], str]] = {
    "loss_against_n": loss_against_n,
    "loss_against_d": loss_against_d,
    "ladder_of_sizes": ladder_of_sizes,
    "ladder_of_horizons": ladder_of_horizons,
    "other_data": other_data,
    "repeated": repeated,
    "isoflop": isoflop,
    "frontier": frontier,
    "allocation": allocation,
    "exponents": exponents,
    "algorithms": algorithms,
    "known_entropy": known_entropy,
}
