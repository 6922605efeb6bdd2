"""Gadre et al. 2024 (arXiv:2403.08540): loss of over-trained models and their error on tasks, from six small runs.

The law in tokens per parameter M and compute C is fitted by least squares of the loss itself to five runs: M = 20 at
four sizes and M = 320 at the smallest. Error on tasks, eps - k exp(-gamma L), is fitted to these and the 1.4B run of
M = 20, and predicted from the predicted loss.
"""

from typing import TYPE_CHECKING

import numpy as np

from scaling.fitting.fit import fit
from scaling.fitting.laws import LAWS
from scaling.fitting.observe import observe
from scaling.fitting.published.replication import Procedure, Quantity, Replication, by_default, reached, same_rows
from scaling.fitting.robust import Objective, at, estimate
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

SQUARES = Objective(kind="squares", space="raw")
ONCE = 20.0  # tokens per parameter, the paper's unit of over-training
SMALL = 5e8  # parameters: the law's runs are below, those that it predicts above
NEAR = 0.05  # relative, of a ratio
ERROR = "err_avg_subset"  # the 17 tasks


def gadre(table: "pandas.DataFrame", seed: int) -> Replication:
    has_error = ERROR in table.columns
    o = observe(table, params="n_params", extra=[ERROR] if has_error else [])
    ratio, small = o.d / o.n / ONCE, o.n < SMALL
    at_once = np.abs(ratio - 1) < NEAR
    chosen = (at_once & small) | ((o.n < 1.02 * o.n.min()) & (np.abs(ratio / 16 - 1) < NEAR))
    if chosen.sum() < 5:
        raise Refusal(
            f"gadre2024: {chosen.sum()} runs at 20 tokens per parameter below 500M, or at 320 of the smallest size: "
            "the law has 4 parameters and the procedure takes 5 runs"
        )
    form = LAWS["overtraining"].form(o.n[chosen], o.d[chosen])
    found = estimate(form, (o.n[chosen], o.d[chosen]), o.loss[chosen], objective=SQUARES, seed=seed)
    predicted = at(form, found.theta)(o.n, o.d)
    quantities = [Quantity(name=name, ours=float(v)) for name, v in zip(form.names, found.theta, strict=True)]
    targets = [
        (words, np.flatnonzero(mask))
        for words, mask in (
            ("1.4B at 640 tokens per parameter", (o.n > 1e9) & (o.n < 2e9) & (np.abs(ratio / 32 - 1) < NEAR)),
            ("6.9B at 20 tokens per parameter", (o.n > 5e9) & at_once),
        )
    ]
    printed = {"loss": (0.7103, 0.7320), "error on 17 tasks": (3.6365, 0.0464)}
    digits = "printed to four digits"
    for (words, rows), published in zip(targets, printed["loss"], strict=True):
        for row in rows[:1]:
            off = 100 * abs(float(predicted[row] / o.loss[row]) - 1)
            quantities.append(
                Quantity(name=f"loss, {words}, % off", ours=off, published=published, tolerance=1e-3, within=digits)
            )
    if has_error:
        tasks = chosen | (at_once & (o.n < 2e9))
        line = LAWS["downstream"].form(o.loss[tasks])
        error = o.columns[ERROR]
        theta = estimate(line, (o.loss[tasks],), error[tasks], objective=SQUARES, seed=seed).theta
        for (words, rows), published in zip(targets, printed["error on 17 tasks"], strict=True):
            for row in rows[:1]:
                off = 100 * abs(float(at(line, theta)(predicted[[row]])[0] / error[row]) - 1)
                quantities.append(
                    Quantity(
                        name=f"error on 17 tasks, {words}, % off", ours=off, published=published, tolerance=2e-3,
                        within=digits,
                    )
                )  # fmt: skip
    return Replication(
        name="gadre2024", paper=PROCEDURES["gadre2024"].paper, words=PROCEDURES["gadre2024"].words,
        runs=int(chosen.sum()), dropped=reached(o, chosen, "not among the five runs of the law"),
        own=same_rows(o, 35, 3.7624624778), quantities=tuple(quantities),
        default=by_default(fit(o.pick(small), "overtraining")),
    )  # fmt: skip


PROCEDURES = {
    "gadre2024": Procedure(
        paper="Gadre et al. 2024, arXiv:2403.08540",
        law="overtraining",
        words="least squares of the loss on five small runs, four at 20 tokens per parameter and one at 320; error on "
        "tasks from the predicted loss, with the 1.4B run of 20 tokens per parameter as a sixth",
        columns=f"n_params, tokens, loss, and {ERROR} for tasks",
        run=gadre,
    )
}
