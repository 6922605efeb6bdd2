"""What many answers of one kind say together, in a sentence: for a page that has no room for each."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.fitting.compare import Comparison
from scaling.report.answers import Kind
from scaling.report.findings import Findings
from scaling.report.words import interval, multiple


def summary(found: Findings, kind: Kind) -> str:
    """Of the comparisons of algorithms or of data, or of the variations; empty for a kind that has no summary."""
    if kind == "algorithms":
        return _algorithms([c for c in found.comparisons if c.multiplier is not None or c.bound is not None])
    if kind == "data":
        return _data([c for c in found.data if c.multiplier is not None])
    return _varied(found) if kind == "varied" else ""


def sides(shown: Sequence[Comparison]) -> tuple[int, int]:
    """How many multipliers are known to lie above 1, and how many below."""
    told = [c.multiplier for c in shown if c.multiplier is not None]
    bounds = [c.bound[0] for c in shown if c.bound is not None]
    return sum(m.low > 1 for m in told) + bounds.count(">"), sum(m.high < 1 for m in told) + bounds.count("<")


def _algorithms(shown: Sequence[Comparison]) -> str:
    if not shown:
        return ""
    above, below = sides(shown)
    text = (
        f"{len(shown)} are compared at equal loss: {above} gain, {below} lose, and of {len(shown) - above - below} "
        "no difference is resolved"
    )
    gains = [c for c in shown if c.multiplier is not None and c.multiplier.low > 1]
    if gains:
        best = max(gains, key=lambda c: c.multiplier.value if c.multiplier else 0)
        assert best.multiplier is not None
        text += (
            f"; the largest gain is {best.algorithm}'s, worth {multiple(best.multiplier)} the compute of "
            f"{best.baseline} ({best.verdict.rsplit('; ', 1)[-1]})"
        )
    return text


def _data(shown: Sequence[Comparison]) -> str:
    if not shown:
        return ""
    by_worth = sorted(shown, key=lambda c: c.multiplier.value if c.multiplier else 0)
    ends = [
        f"{interval(c.multiplier)} ({c.algorithm} against {c.baseline})"
        for c in (by_worth[0], by_worth[-1])
        if c.multiplier is not None
    ]
    return f"of {len(shown)} kinds of other data a token is worth from {ends[0]} to {ends[1]}"


def _varied(found: Findings) -> str:
    law = found.headline
    told = {one.name: one.exponent for one in found.varied if one.exponent is not None}
    if law is None or not told:
        return ""
    least, most = (end(told, key=lambda name: told[name].value) for end in (min, max))
    own = law.optimum_intervals(law.flops_max)["exponent_n"]
    return (
        f"N* ~ C^{interval(own)} by the {law.name} law; {len(told)} other ways to count or to train give from "
        f"{interval(told[least])} ({least}) to {interval(told[most])} ({most})"
    )
