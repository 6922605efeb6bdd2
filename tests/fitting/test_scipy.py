"""On every open table: no start of SciPy's finds a lower value of the objective than ours does from its own starts."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.optimize

from scaling.fitting import robust
from scaling.fitting.laws import LAWS
from scaling.fitting.robust import M_CUT, Objective, estimate, positive

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
STARTS = 20


def read(name):
    if not (PUBLISHED / name).is_file():
        pytest.skip(f"no published table {name} in ../shared/data")
    return pandas.read_csv(PUBLISHED / name)


def epoch():
    t = read("epoch_chinchilla.csv")
    t = t[~t.dropped_by_besiroglu.astype(bool)]
    return (t.n_params, t.tokens), t.loss


def gadre():
    t = read("gadre_overtrain_rpj.csv")
    t = t[t.loss_c4_val.notna()]
    return (t.n_params, t.tokens), t.loss_c4_val


def muennighoff():
    t = read("muennighoff_repeat.csv")
    t = t[(t.epochs <= 1) & t.loss.notna()]
    return (t.n_params, t.tokens), t.loss


def steplaw():
    """The best run of each size and horizon."""
    t = read("steplaw_dense.csv")
    t = t.loc[t.groupby(["n_params_nonemb", "tokens"]).loss.idxmin()]
    return (t.n_params_nonemb, t.tokens), t.loss


def routing():
    """Dense models: loss against size."""
    t = read("routing_sbase.csv")
    t = t[t.n_experts == 1]
    return (t.n_params,), t.loss


def digits():
    t = read("bnsl_4digit_addition.csv")
    t = t[t.dataset_size > 300]
    return (t.dataset_size,), t.loss


def porian():
    t = read("porian_isoflop.csv")
    t = t[t.group == sorted(set(t.group))[0]]
    return (t.n_params, t.tokens), t.loss


CASES = {
    "epoch chinchilla": (epoch, "chinchilla"),
    "epoch tied": (epoch, "chinchilla_tied"),
    "gadre": (gadre, "chinchilla_tied"),
    "muennighoff": (muennighoff, "chinchilla"),
    "steplaw": (steplaw, "chinchilla"),
    "routing": (routing, "power"),
    "digits": (digits, "power_no_floor"),
    "porian": (porian, "chinchilla"),
}


@pytest.mark.parametrize("kind", ["huber", "mm"])
@pytest.mark.parametrize("case", CASES)
def test_no_start_of_scipy_s_is_lower_on_a_published_table(case, kind):
    source, name = CASES[case]
    columns, response = source()
    x, y = tuple(np.asarray(column, float) for column in columns), np.asarray(response, float)
    form = LAWS[name].form(*x)
    found = estimate(form, x, y, objective=Objective(kind=kind))
    logs, log_y = positive(form), np.log(y)

    def objective(z):
        """Value and gradient of the sum, written apart from `robust`, at ln theta of the positive parameters."""
        with np.errstate(all="ignore"):
            theta = np.where(logs, np.exp(np.where(logs, z, 0.0)), z)
            law = robust.at(form, theta)
            f = law(*x)
            r = np.log(f) - log_y
            if kind == "huber":
                small = np.abs(r) <= 1e-3
                rho, psi = np.where(small, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)), np.clip(r, -1e-3, 1e-3)
            else:
                u = r / found.scale / M_CUT
                left = np.where(np.abs(u) < 1, 1 - u**2, 0.0)
                rho, psi = M_CUT**2 / 6 * (1 - left**3), r / found.scale**2 * left**2
            slope = (psi / f) @ law.gradient(*x) * np.where(logs, theta, 1.0)
        if not np.isfinite(rho.sum()) or not np.isfinite(slope).all():
            return 1e6, np.zeros(len(z))
        return rho.sum(), slope

    low, high = robust._z_bounds(form)
    here = np.where(logs, np.log(np.maximum(found.theta, 1e-300)), found.theta)
    assert objective(here)[0] == pytest.approx(found.objective, rel=1e-9)
    rng = np.random.default_rng(1)
    lowest = np.inf
    for i in range(STARTS + 1):
        spread = i / STARTS  # the first start is our own optimum
        start = np.clip(here + spread * rng.normal(size=len(here)) * np.where(logs, 1.0, np.abs(here)), low, high)
        limits = [(None if a < -600 else a, None if b > 600 else b) for a, b in zip(low, high, strict=True)]
        scale = 1 / max(found.objective, 1e-12)
        got = scipy.optimize.minimize(
            lambda z, s=scale: tuple(s * part for part in objective(z)), start, jac=True, bounds=limits,
            method="L-BFGS-B", options={"maxiter": 400, "ftol": 1e-14, "gtol": 1e-10},
        )  # fmt: skip
        lowest = min(lowest, got.fun / scale)
    assert found.objective <= lowest * (1 + 1e-9)
