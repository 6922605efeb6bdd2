"""Kaplan et al. 2020 (arXiv:2001.08361), eq. 1.5: L(N, D) without a floor, by least squares of ln L.

The paper's runs are not open. N counts neither embeddings nor the head, and the runs were stopped early on data that
ran out, with warm-up and schedules that were not matched to the horizon (arXiv:2406.19146 shows what that does to the
exponents). The printed values are shown for reference; tokens and vocabulary other than the paper's move Nc and Dc.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaling.fitting.fit import fit
from scaling.fitting.laws import LAWS
from scaling.fitting.observe import observe
from scaling.fitting.published.replication import Procedure, Quantity, Replication, by_default
from scaling.fitting.robust import Objective, at, polish
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

SQUARES = Objective(kind="squares")


def kaplan(table: "pandas.DataFrame", seed: int) -> Replication:
    column = "n_params_kaplan" if "n_params_kaplan" in table.columns else "n_params"
    o = observe(table, params=column)
    if len(set(o.n)) < 2 or len(set(o.d)) < 2 or len(o) < 5:
        raise Refusal(
            f"kaplan2020: {len(o)} runs of {len(set(o.n))} sizes and {len(set(o.d))} horizons: 5 runs, 2 sizes and "
            "2 horizons are the least"
        )
    x, form = (o.n, o.d), replace(LAWS["kaplan"].form(o.n, o.d), E=0.0)
    axes = np.meshgrid(*form.grid.values(), indexing="ij")
    shape = np.stack([axis.ravel() for axis in axes], axis=1)
    bracket = form.basis(shape, *x)[..., 1]
    scale = np.exp((np.log(o.loss) - np.log(bracket)).mean(axis=1))
    off = (np.log(bracket * scale[:, None] / o.loss) ** 2).sum(axis=1)
    near = np.argsort(off, kind="stable")[:12]
    starts = form.from_basis(shape[near], np.stack([np.zeros(len(near)), scale[near]], axis=1), *x)
    free = np.array([name != "E" for name in form.names])
    ends = polish(form, starts, x, o.loss, objective=SQUARES, free=free, iterations=1000)
    rss = [float((np.log(at(form, theta)(*x) / o.loss) ** 2).sum()) for theta in ends]
    best = ends[int(np.argmin(rss))]
    other = "other runs than the paper's"
    quantities = [
        Quantity(name=name, ours=float(best[form.names.index(name)]), published=published, why=other)
        for name, published in (("alpha_n", 0.076), ("alpha_d", 0.103), ("Nc", 6.4e13), ("Dc", 1.8e13))
    ]
    quantities.append(
        Quantity(name="root mean square of ln L_law - ln L", ours=float(np.sqrt(min(rss) / max(len(o) - 4, 1))))
    )
    return Replication(
        name="kaplan2020", paper=PROCEDURES["kaplan2020"].paper, words=PROCEDURES["kaplan2020"].words, runs=len(o),
        dropped=o.dropped, own=False, quantities=tuple(quantities), default=by_default(fit(o, "kaplan", seed=seed)),
        warnings=("the paper's runs are not open: its values stand here for reference",),
    )  # fmt: skip


PROCEDURES = {
    "kaplan2020": Procedure(
        paper="Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5 and table 2",
        law="kaplan, without a floor",
        words="least squares of ln L_law - ln L over all runs, no floor; N without embeddings and head where the table "
        "has that count. The paper does not say how its fit was weighted; rows count alike here",
        columns="n_params_kaplan (or n_params), tokens, loss",
        run=kaplan,
    )
}
