"""Porian et al. 2024 (arXiv:2406.19146): isoFLOP minima by Akima interpolation, and lines through them.

At each budget ln L is interpolated in ln N (Akima, J. ACM 17 (1970) 589) on 25 points per gap between sizes; its least
point must lie inside. This is repeated with seed noise added to the losses; the observation is the median, its
standard deviation at least a third of the mean gap, and exponents are weighted least squares of ln N*, and apart from
that of ln D*, in ln C.
"""

from typing import TYPE_CHECKING

import numpy as np

from scaling.fitting.isoflop import slices
from scaling.fitting.laws import Array
from scaling.fitting.observe import Observations, observe
from scaling.fitting.published.replication import Procedure, Quantity, Replication
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

DRAWS = 1000
PER_GAP = 25
NOISE = ((3.0, 7.0), (0.002, 0.05))  # nats: seed noise at a loss, linear in its logarithm between, level outside
LEAST_SPREAD = 1 / 3  # of the mean gap in ln N; read off the released standard deviations, the paper gives none
MOST_EDGES = 0.5  # of the draws with the least loss at the smallest or largest size; such a budget is left out

# RefinedWeb; exponent of N*(C), 95 % intervals: figure 1 and table 1.
PUBLISHED = {
    "rw/base/long/kaplan/kaplan/train": ("Kaplan's setup", 0.8353, (0.824, 0.846)),
    "rw/base/long/kaplan/standard/val": ("with the head's FLOPs", 0.7065, (0.691, 0.717)),
    "rw/base/short/kaplan/standard/val": ("with a short warm-up", 0.6020, (0.591, 0.617)),
    "rw/base/short/chinchilla/standard/val": ("with matched cosine schedules", 0.5715, (0.560, 0.589)),
    "rw/tuned/short/const/standard/val": ("tuned, at a constant learning rate", 0.4969, (0.491, 0.505)),
}


def porian(table: "pandas.DataFrame", seed: int) -> Replication:
    names = sorted(set(table["group"])) if "group" in table.columns else [""]
    chosen = [name for name in PUBLISHED if name in names] or names
    quantities, default, warnings, runs = [], {}, [], 0
    for name in chosen:
        o = observe(table, params="n_params", group=name or None)
        runs += len(o)
        words, published, interval = PUBLISHED.get(name, (name or "these runs", None, None))
        try:
            exponents, left = minima(o, seed)
        except Refusal as refusal:
            warnings += [f"{words}: {fault}" for fault in refusal.faults]
            continue
        quantities.append(
            Quantity(name=f"exponent of N*, {words}", ours=exponents["n"], published=published, interval=interval)
        )
        quantities.append(Quantity(name=f"exponent of D*, {words}", ours=exponents["d"]))
        if left:
            budgets = ", ".join(f"{c:.3g}" for c in left)
            warnings.append(f"{words}: no minimum inside the sizes at C = {budgets}, left out")
    if not quantities:
        raise Refusal(warnings)
    return Replication(
        name="porian2024", paper=PROCEDURES["porian2024"].paper, words=PROCEDURES["porian2024"].words, runs=runs,
        dropped={}, own=all(name in PUBLISHED for name in chosen) and len(chosen) == len(PUBLISHED) and runs == 579,
        quantities=tuple(quantities), default=default, warnings=tuple(warnings),
    )  # fmt: skip


def minima(o: Observations, seed: int = 0) -> tuple[dict[str, float], list[float]]:
    """Exponents of N*(C) and D*(C), keys n and d, and the budgets left out. Raises `Refusal` with fewer than two."""
    from scipy.interpolate import Akima1DInterpolator

    rng = np.random.default_rng(seed)
    log_c, log_n, log_d, spread, left = [], [], [], [], []
    for piece in slices(o):
        at = np.log(piece.n)
        if len(at) < 4:
            left.append(piece.flops)
            continue
        fine = np.linspace(at[0], at[-1], (len(at) - 1) * PER_GAP)
        noisy = np.log(piece.loss + noise(piece.loss) * rng.normal(size=(DRAWS, len(at))))
        best = Akima1DInterpolator(at, noisy, axis=1)(fine).argmin(axis=1)
        inside = (best > 0) & (best < len(fine) - 1)
        if (~inside).mean() > MOST_EDGES:
            left.append(piece.flops)
            continue
        found = fine[best[inside]]
        log_c.append(np.log(piece.flops))
        log_n.append(float(np.median(found)))
        log_d.append(float(np.median(np.interp(found, at, np.log(piece.d)))))
        spread.append(max(float(found.std()), LEAST_SPREAD * float(np.diff(at).mean())))
    if len(log_c) < 2:
        raise Refusal(f"porian2024: {len(log_c)} budgets have a minimum inside their sizes: 2 or more make an exponent")
    weight = 1 / np.array(spread)
    return {key: float(np.polyfit(log_c, values, 1, w=weight)[0]) for key, values in (("n", log_n), ("d", log_d))}, left


def noise(loss: Array) -> Array:
    """Standard deviation between seeds at a loss, nats; the paper's for RefinedWeb."""
    ends, deviations = NOISE
    return np.exp(np.interp(loss, ends, np.log(deviations)))


PROCEDURES = {
    "porian2024": Procedure(
        paper="Porian et al. 2024, arXiv:2406.19146",
        law="isoFLOP minima",
        words="Akima interpolation of ln L in ln N at each budget, medians of minima over 1,000 draws of seed noise, "
        "weighted lines in ln C",
        columns="group, flops, n_params, tokens, loss",
        run=porian,
    )
}
