"""Loss against one variable: the law that was planted is found, and what is no ladder is refused."""

import numpy as np
import pandas
import pytest

from scaling.fitting.forecast import forecast
from scaling.fitting.ladder import climb
from scaling.spec import Refusal

WIDTHS = np.array([4, 8, 12, 16, 24, 32, 48, 64, 96, 128])
E, A, ALPHA, B, BETA = 0.9, 12.0, 0.31, 30.0, 0.33


def table(n: np.ndarray, d: np.ndarray, noise: float = 0.0, head: float = 0.0) -> pandas.DataFrame:
    loss = E + A * n**-ALPHA + B * d**-BETA
    loss *= np.exp(noise * np.random.default_rng(0).standard_normal(len(loss)))
    cells = {
        "run_id": [f"r{i}" for i in range(len(n))], "group": "width", "role": "fitted", "status": "finished",
        "n_params": n, "n_params_kaplan": n - head, "n_params_total": n + head, "tokens": d, "flops": 6 * n * d,
        "loss": loss, "d_model": WIDTHS[: len(n)],
    }  # fmt: skip
    return pandas.DataFrame({name: [str(cell) for cell in np.broadcast_to(of, len(n))] for name, of in cells.items()})


def test_a_ladder_of_sizes_has_the_surface_s_exponent_and_the_floor_of_its_tokens():
    n, d = 24.0 * WIDTHS**2, np.full(10, 4e6)
    found = climb(table(n, d), "width", "n", params="n_params")
    assert found.law and found.at == 4e6 and found.decades == pytest.approx(2 * np.log10(32))
    estimates = found.law.estimates()
    assert estimates["alpha"].value == pytest.approx(ALPHA, rel=1e-3)
    assert estimates["E"].value == pytest.approx(E + B * 4e6**-BETA, rel=1e-3)
    ten = A * (found.top**-ALPHA - (10 * found.top) ** -ALPHA)
    assert found.gain(10).value == pytest.approx(ten, rel=1e-3)


def test_a_ladder_of_horizons_has_the_exponent_of_the_data_term():
    d = np.geomspace(1e5, 1e7, 8)
    found = climb(table(np.full(8, 1e5), d), "width", "d", params="n_params")
    assert found.law and found.law.estimates()["alpha"].value == pytest.approx(BETA, rel=1e-3)
    assert [*found.conventions] == ["n_params"], "how N is counted changes nothing"


def test_each_way_to_count_parameters_has_its_own_exponent():
    n, d = 24.0 * WIDTHS**2 + 256.0 * WIDTHS, np.full(10, 4e6)
    found = climb(table(n, d, head=256.0 * WIDTHS), "width", "n", params="n_params")
    alpha = {name: one.estimates()["alpha"].value for name, one in found.conventions.items()}
    assert alpha["n_params"] == pytest.approx(ALPHA, rel=1e-3)
    assert alpha["n_params_kaplan"] < alpha["n_params"] < alpha["n_params_total"], "the smaller, the more it leaves out"


def test_a_forecast_of_a_larger_rung_is_by_the_laws_of_the_ladder():
    n, d = 24.0 * WIDTHS**2, np.full(10, 4e6)
    found = climb(table(n, d, noise=0.002), "width", "n", params="n_params")
    larger = 10 * found.top
    said = forecast([*found.fits.values()], larger, 4e6, 6 * larger * 4e6)
    truth = E + A * larger**-ALPHA + B * 4e6**-BETA
    assert said.low < truth < said.high and said.loss == pytest.approx(truth, rel=0.02)
    assert said.extrapolation == pytest.approx(10)


def test_what_is_no_ladder_is_refused_with_its_rule():
    n = 24.0 * WIDTHS**2
    with pytest.raises(Refusal, match="D is from .* it must be the same on every rung"):
        climb(table(n, np.geomspace(1e6, 4e6, 10)), "width", "n", params="n_params")
    with pytest.raises(Refusal, match="3 values of N: a law of one variable needs 4"):
        climb(table(n[:3], np.full(3, 4e6)), "width", "n", params="n_params")
