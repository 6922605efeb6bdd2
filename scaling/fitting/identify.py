"""Can these runs tell this law? Asked of the design before estimation, and of the Jacobian and the noise after it.

An optimizer reports success on a single model size, on a ray D = k N and on four runs; what it returns there is an
accident of its start. So each way of being unable to tell is looked for, named, and answered with the runs that would.
"""

import math
from typing import Any

import numpy as np

from scaling.fitting.laws import LAWS, Array
from scaling.fitting.observe import Observations
from scaling.fitting.robust import Estimate, jacobian

LEAST_DISTINCT = 3  # values of a variable: fewer do not show the curvature that separates a floor from a power
LEAST_TURN = 1.5  # range of D about its own power of N; below it runs lie on a ray D = k N^q
LEAST_REPEATED = 1.5  # epochs: below this no run says what a repeated token is worth
WORST_CONDITION = 1e6  # of the Jacobian with unit columns; usual designs have 1e2 to 1e4, a ray 1e9
LEAST_EFFECT = 1e-7  # on ln L over all runs, of a parameter that is there at all
VAGUE = 10.0  # an exponent known within this factor or worse is not known
# exponent: the coefficient of its term, which is nothing without it
PARTNERS = {"alpha": "A", "beta": "B", "alpha_n": "Nc", "alpha_d": "Dc", "alpha_c": "Cc"}
WORDS = {"n": ("N", "sizes"), "d": ("D", "horizons"), "c": ("C", "budgets"), "u": ("unique tokens", "data sets")}

Verdict = tuple[tuple[str, ...], tuple[str, ...]]  # parameters that cannot be told; why, in words, a line each


def spans(o: Observations) -> dict[str, float]:
    """Greatest over least N, D and D/N of the runs; NaN where the table has no such column."""
    ratio = o.d / o.n
    return {
        "condition": math.nan,
        "span_n": float(o.n.max() / o.n.min()),
        "span_d": float(o.d.max() / o.d.min()),
        "span_ratio": float(ratio.max() / ratio.min()),
    }


def by_design(o: Observations, law: str, x: tuple[Array, ...]) -> Verdict:
    """Parameters that no estimator could know from runs at x, the law's variables, each [R]."""
    names, variables = LAWS[law].names, LAWS[law].variables
    why, distinct = [], {name: count(values) for name, values in zip(variables, x, strict=True)}
    if len(o) <= len(names):
        why.append(
            f"{len(o)} runs for {len(names)} parameters: {len(names) + 1} are the least, twice as many are sound"
        )
    if variables in (("n", "d"), ("n", "d", "u")) and "E" in names:
        why += _surface(distinct["n"], distinct["d"])
    else:
        needed = max(2, len(names) if len(variables) == 1 else 2)
        why += [
            f"{found} distinct {WORDS.get(name, (name,))[0]}: this law needs at least {needed}"
            for name, found in distinct.items()
            if found < needed
        ]
    if variables == ("n", "d") and distinct["n"] > 1 and distinct["d"] > 1:
        slope, turn = _ray(o)
        if slope > 0 and turn < LEAST_TURN:
            why.append(
                f"D follows N as D = k N^{slope:.2g}: both terms fall together and no fit can tell them apart; "
                "train some sizes on a quarter and on four times the tokens"
            )
    if not why and "u" in variables and float((o.d / o.unique).max()) < LEAST_REPEATED:
        return ("R_D", "R_N"), (f"no run sees its data more than {(o.d / o.unique).max():.2g} times: repeat some",)
    if not why:
        return (), ()
    if len(why) == 1 and law == "chinchilla" and len(o) > 4:
        if distinct["n"] == 1 and distinct["d"] >= LEAST_DISTINCT:
            return ("E", "A", "alpha"), tuple(why)
        if distinct["d"] == 1 and distinct["n"] >= LEAST_DISTINCT:
            return ("E", "B", "beta"), tuple(why)
    return tuple(names), tuple(why)


def _surface(sizes: int, horizons: int) -> list[str]:
    why = []
    if sizes < LEAST_DISTINCT:
        why.append(
            f"{sizes} distinct N: how L falls with N cannot be told from E; "
            f"train at least {LEAST_DISTINCT} sizes, 4x apart or more"
        )
    if horizons < LEAST_DISTINCT:
        why.append(
            f"{horizons} distinct D: how L falls with D cannot be told from E; train at least {LEAST_DISTINCT} horizons"
        )
    return why


def count(values: Array) -> int:
    """How many values differ by more than 1 %."""
    return 1 + int((np.diff(np.sort(np.log(values))) > 0.01).sum())


def _ray(o: Observations) -> tuple[float, float]:
    """The slope of ln D in ln N, and by what factor D varies about that line."""
    log_n, log_d = np.log(o.n) - np.log(o.n).mean(), np.log(o.d) - np.log(o.d).mean()
    slope = float(log_n @ log_d / (log_n @ log_n))
    return slope, float(np.exp(np.ptp(log_d - slope * log_n)))


def by_jacobian(form: Any, found: Estimate, x: tuple[Array, ...], free: Array) -> tuple[float, Verdict]:
    """Condition number of the weighted Jacobian with unit columns, and the parameters it cannot tell."""
    names = np.array(form.names)[free]
    with np.errstate(all="ignore"):
        j = (jacobian(form, found.theta, x) * np.sqrt(found.weight)[:, None])[:, free]
    size = np.linalg.norm(j, axis=0)
    gone = names[~((size > LEAST_EFFECT) & np.isfinite(size))].tolist()
    if gone:
        gone = [name for name in form.names if name in gone or any(PARTNERS.get(name) == one for one in gone)]
        words = f"{', '.join(gone)}: no loss of these runs shows a term of the law that they make"
        return math.nan, (tuple(gone), (words,))
    _, singular, direction = np.linalg.svd(j / size, full_matrices=False)
    lost = singular < singular[0] / WORST_CONDITION
    blurred = names[(np.abs(direction[lost]) > 0.05).any(axis=0)].tolist() if lost.any() else []
    condition = float(singular[0] / max(singular[-1], 1e-300))
    if not blurred:
        return condition, ((), ())
    more = "runs at other ratios D/N would separate them" if "d" in form.variables else "a wider range would"
    return condition, (tuple(blurred), (f"the runs constrain only a combination of {', '.join(blurred)}; {more}",))


def by_noise(form: Any, covariance: Array, reach: Array) -> Verdict:
    """Exponents left open by more than `VAGUE` either way, and their coefficients.

    `covariance` is [P, P] of z (see `robust.jacobian`), `reach` [P] the half widths of the intervals in
    standard errors.
    """
    names = []
    for i, name in enumerate(form.names):
        shape = name in form.positive and name not in form.linear and name not in PARTNERS.values()
        if shape and reach[i] * math.sqrt(max(covariance[i, i], 0.0)) > math.log(VAGUE):
            names += [name, PARTNERS.get(name, name)]
    vague = tuple(name for name in form.names if name in names)
    words = (
        f"the noise leaves {', '.join(vague)} open by more than a factor of {VAGUE:g}; "
        "runs over a wider range, at other ratios D/N or with less noise would tell them"
    )
    return vague, (words,) if vague else ()
