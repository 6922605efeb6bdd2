"""What a budget would buy: answers of the fits on a grid of compute, which the page's script reads between.

They are those of `scaling forecast --compute`: every law of the tournament and all of them together, for each way of
counting N. Between the points of the grid the script interpolates logarithms, good to better than 1e-3.
"""

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.chips import CHIPS
from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.forecast import FAR, TOO_FAR, Number, Target, project
from scaling.fitting.laws import SURFACES
from scaling.fitting.observe import Observations, observe
from scaling.fitting.tournament import tournament
from scaling.fitting.uncertainty import t_quantile
from scaling.record import Ledger
from scaling.report import markup
from scaling.report.findings import PARAMS_COLUMN, Findings, Repetition
from scaling.spec import Refusal

if TYPE_CHECKING:
    from scaling.fitting.laws import Array

PER_DECADE = 10  # points of the grid
BELOW = 10.0  # the grid starts at the least fitted compute over this
NUMBERS = ("n", "d", "loss", "run")  # each with an interval
REGRETS = ("regret_half", "regret_double")
COUNTED = {
    "n_params": "non-embedding + head",
    "n_params_kaplan": "non-embedding",
    "n_params_total": "all",
}
ALL = "all"  # what --law calls the laws together


def document(found: Findings, ledger: Ledger) -> dict[str, Any] | None:
    """What the script knows; None where no law of N and D is identified."""
    if found.headline is None:
        return None
    own = PARAMS_COLUMN[found.study["analysis"]["params"]]
    conventions = [
        said
        for column in (own, *(name for name in COUNTED if name != own))
        if column in found.table.columns and (said := _convention(found, column)) is not None
    ]
    if not conventions:
        return None
    return {
        "level": found.level, "far": FAR, "tooFar": TOO_FAR, "conventions": conventions,
        "repeated": _repeated(found), "chips": _chips(ledger),
        "command": "scaling forecast .",
    }  # fmt: skip


def _convention(found: Findings, params: str) -> dict[str, Any] | None:
    """Every law's answers with N counted one way."""
    try:
        o = observe(found.table, params=params)
        fits, weights = _fits(found, o)
    except Refusal:
        return None
    known = [each for each in fits if each.law is not None]
    if not known:
        return None
    least, most = float(o.flops.min()), float(o.flops.max())
    grid = _grid(least / BELOW, TOO_FAR * most)
    answers = [_answers(fits, c, weights, found.level) for c in grid]
    names = [*([ALL] if weights and len(known) > 1 else []), *(each.name for each in known)]
    return {
        "params": params, "counted": COUNTED[params], "least": least, "most": most, "runs": len(o),
        "start": math.log(grid[0]), "step": math.log(grid[1] / grid[0]),
        "laws": [
            {
                "law": name, "weight": None if name == ALL or not weights else weights.get(name, 0.0),
                "numbers": [answer.get(name) for answer in answers],
            }
            for name in names
        ],
    }  # fmt: skip


def _fits(found: Findings, o: Observations) -> tuple[list[Fit], dict[str, float] | None]:
    """The fits that `scaling forecast` makes of these runs, with the weights of their laws where they can be tested."""
    try:
        weights = tournament(o, level=found.level).weights
    except Refusal:  # too few runs to leave any out
        weights = None
    laws = [*weights] if weights else [name for name in found.study["analysis"]["laws"] if name in SURFACES]
    made = found.observations is not None and o.params == found.observations.params and not any(
        each.draws is not None for each in found.fits.values()
    )  # fmt: skip
    return [
        found.fits[name] if made and name in found.fits else fit(o, name, level=found.level) for name in laws
    ], weights


def _answers(fits: Sequence[Fit], c: float, weights: dict[str, float] | None, level: float) -> dict[str, list[float]]:
    """By law, and for all together where every identified law has an answer: [value, low, high, ...] of `NUMBERS` and
    the values of `REGRETS`."""
    try:
        said = project(fits, Target(c=c), weights=weights, level=level, far=True)
    except Refusal:
        return {}
    found = {one.law: _flat(one.numbers) for one in said.opinions}
    if len(found) == sum(each.law is not None for each in fits):
        found[ALL] = _flat(said.numbers)
    return found


def _flat(numbers: dict[str, Number]) -> list[float]:
    flat = [v for name in NUMBERS for v in (numbers[name].value, numbers[name].low, numbers[name].high)]
    return [_rounded(v) for v in (*flat, *(numbers[name].value for name in REGRETS))]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _grid(low: float, high: float) -> "Array":
    return np.geomspace(low, high, math.ceil(math.log10(high / low) * PER_DECADE) + 1)


def _repeated(found: Findings) -> list[dict[str, Any]]:
    """Each law of repeated data that is told, as the script recomputes it."""
    return [_priced(one) for one in found.repeated if one.fit.law is not None and one.fit.uncertain is not None]


def _priced(one: Repetition) -> dict[str, Any]:
    law, spread = one.fit, one.fit.uncertain
    assert law.law is not None and spread is not None
    dofs = np.geomspace(1, max(spread.spare, 8), 48)
    draws = None if law.draws is None else [[_rounded(v) for v in row] for row in law.draws.tolist()]
    return {
        "law": law.name, "group": one.group, "words": one.words, "params": law.params,
        "passes": float((one.observations.d / one.observations.unique).max()),
        "theta": law.theta.tolist(), "logs": [name in law.law.positive for name in law.law.names], "cost": law.cost,
        "covariance": spread.covariance.tolist(), "parts": spread.parts.tolist(),
        "variances": spread.variances.tolist(), "spare": max(spread.spare, 1), "dof": spread.dof, "draws": draws,
        "quantiles": [t_quantile(law.level, v) for v in dofs], "step": math.log(dofs[1]),
    }  # fmt: skip


def _chips(ledger: Ledger) -> list[dict[str, Any]]:
    """What an hour may be bought on: a worker of this study as it was measured, and the documented peaks."""
    clocks = [(record.run.tokens, record.clock.flops_per_second, record.machine) for record in ledger if record.clock]
    measured = [
        (speed, machine) for _, speed, machine in sorted(clocks, key=lambda c: c[0])[len(clocks) // 2 :] if speed
    ]
    found = []
    if measured:
        device = ", ".join(sorted({machine.get("device", "") for _, machine in measured} - {""}))
        speed = statistics.median(speed for speed, _ in measured)
        found.append({"name": f"a worker of this study ({device})", "flops": speed, "measured": True,
                      "source": "median of what its longer runs reached, utilisation included"})  # fmt: skip
    for kind, chip in CHIPS.items():
        dtype = "bfloat16" if "bfloat16" in chip.peaks else "float32"
        found.append({"name": kind, "flops": chip.peaks[dtype] * chip.devices, "measured": False,
                      "source": f"dense {dtype}: {chip.source}"})  # fmt: skip
    return found


def section(found: Findings, ledger: Ledger) -> str:
    """The panel, with what it knows; empty where no law can answer."""
    said = document(found, ledger)
    if said is None:
        return ""
    budget = f"{3 * said['conventions'][0]['most']:.2g}".replace("e+", "e")
    conventions: list[dict[str, Any]] = said["conventions"]
    laws: dict[str, str] = {law["law"]: law["law"] for each in conventions for law in each["laws"]}
    if ALL in laws:
        laws[ALL] = "all laws, weighted"
    repeated = {
        str(i): f"{each['group']}: {each['words']}" if each["words"] else each["group"]
        for i, each in enumerate(said["repeated"])
    }
    return (
        f"{markup.heading('What if')}\n"
        '<p class="soft">What a budget would buy by these fits: the numbers and intervals of '
        "<code>scaling forecast</code>, and nothing beyond where it would speak.</p>\n"
        "<noscript><p>Asking needs this page's script; in a terminal, in this folder: "
        f"<code>{escape(said['command'])} --params {escape(said['conventions'][0]['params'])} --compute FLOPS</code>"
        '</p></noscript>\n<div id="ask" hidden>\n'
        + _field("budget in", _select("unit", {"flops": "training FLOPs", "hours": "chip-hours"}))
        + _field("FLOPs", f'<input id="flops" value="{budget}" inputmode="text" autocomplete="off" spellcheck="false">')
        + _field("chip-hours", '<input id="hours" value="100" autocomplete="off">')
        + _field("chip", _select("chip", {str(i): chip["name"] for i, chip in enumerate(said["chips"])}))
        + _field("% of its peak used", '<input id="used" value="40" inputmode="decimal" autocomplete="off">')
        + _field("unique tokens", '<input id="unique" placeholder="no limit" autocomplete="off" spellcheck="false">')
        + _field("tokens are repeated as in", _select("repeating", repeated))
        + _field("law", _select("law", laws))
        + _field("parameters that N counts", _select("params", {e["params"]: e["counted"] for e in conventions}))
        + '</div>\n<div id="said" role="status"></div>\n'
        + markup.data(said, "what-if-data")
    )


def _field(label: str, control: str) -> str:
    return f"<label><span>{escape(label)}</span>{control}</label>\n"


def _select(name: str, options: dict[str, str]) -> str:
    inside = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options.items())
    return f'<select id="{name}">{inside}</select>'
