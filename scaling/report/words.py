"""Numbers in words: how many digits an interval is worth, and how a law is written."""

import math
import re

from scaling.fitting.compare import Noise
from scaling.fitting.fitted import Fit
from scaling.fitting.laws import LAWS
from scaling.fitting.uncertainty import Interval

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def short(value: float) -> str:
    """1234567 -> 1.23M, for counts of parameters and tokens."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def power(value: float) -> str:
    """3.1e9 -> 3.1×10⁹, for FLOPs."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = f"10{str(int(exponent)).translate(RAISED)}"
    return raised if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}×{raised}"


def interval(item: Interval, unit: str = "") -> str:
    """Value and bounds, to two digits of the interval's width; "no interval" where there is none."""
    unit = f" {unit}" if unit else ""
    if not (math.isfinite(item.low) and math.isfinite(item.high)):
        return f"{item.value:.3g}{unit} (no interval)"
    largest, width = max(abs(item.low), abs(item.high)), item.high - item.low
    if largest >= 1e4:
        return f"{short(item.value)}{unit} [{short(item.low)}, {short(item.high)}]"
    if not width > 0 or (item.low > 0 and item.high / item.low > 20):
        return f"{item.value:.3g}{unit} [{item.low:.3g}, {item.high:.3g}]"
    digits = max(0, 1 - math.floor(math.log10(width / 2)))
    return f"{item.value:.{digits}f}{unit} [{item.low:.{digits}f}, {item.high:.{digits}f}]"


def of_loss(value: float, low: float, high: float) -> str:
    """A loss and its interval, nats per token."""
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def multiple(item: Interval) -> str:
    """A compute multiplier: x0.39 [0.37, 0.40]."""
    return f"×{interval(item)}"


def error(value: float) -> str:
    """A relative error of a forecast, 0.043 -> 4.3 % too high."""
    return f"{abs(value):.1%} too {'high' if value > 0 else 'low'}".replace("%", " %")


def beyond(extrapolation: float) -> str:
    """How far compute is from the largest that was fitted."""
    return f"{extrapolation:.2g} times the largest fitted compute"


def percent(value: float) -> str:
    """0.9 -> 90 %."""
    return f"{100 * value:.3g} %"


def several(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def replicates(noise: Noise) -> str:
    """4 replicates at 2 cells, about 3 degrees of freedom."""
    return (
        f"{several(noise.replicates, 'replicate')} beyond the first at {several(noise.cells, 'cell')}, "
        f"about {several(round(noise.dof), 'degree')} of freedom"
    )


def plain(text: str) -> str:
    """Text that a file brought, as one line that a terminal shows and does not obey: control characters and those that
    change the direction of writing are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def symbol(name: str) -> str:
    """The usual sign of a parameter: alpha_n -> α_n."""
    head, _, tail = name.partition("_")
    return GREEK.get(head, head) + (f"_{tail}" if tail else "")


def formula(law: str) -> str:
    """The formula of a law and its source, as its class states them."""
    stated = (LAWS[law].__doc__ or law).strip().splitlines()[0].rstrip(".")
    return re.sub("|".join(GREEK), lambda match: GREEK[match[0]], stated)


def parameters(fit: Fit) -> str:
    """Every parameter that the runs tell, with its interval, in one line."""
    return ", ".join(f"{symbol(name)} = {parameter(fit, name, item)}" for name, item in fit.estimates().items())


def parameter(fit: Fit, name: str, item: Interval) -> str:
    """One estimate of a fit; a parameter that rests on the edge of its range has no interval."""
    return f"{item.value:.3g} (edge of its range, no interval)" if name in fit.at_bound else interval(item)


def unknown(fit: Fit) -> str:
    """Why a law has no numbers: which parameters these runs cannot tell, and the reason."""
    names = ", ".join(symbol(name) for name in fit.unidentified)
    return f"{fit.name} law: these runs cannot tell {names}: {fit.warnings[0]}"
