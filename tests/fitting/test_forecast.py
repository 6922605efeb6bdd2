import json

import numpy as np
import pytest

from scaling.fitting.fit import fit
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.forecast import forecast, forecast_from_json, score
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)
LAWS = ("chinchilla", "kaplan", "interaction")


@pytest.fixture
def fits(runs, grid):
    loss = TRUTH(*grid) * np.exp(0.004 * np.random.default_rng(0).normal(size=25))
    return [fit(runs(*grid, loss), law) for law in LAWS]


def test_the_headline_is_the_law_that_extrapolated_best(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    errors = {fit.name: fit.holdout["error"] for fit in fits}
    assert found.headline == min(errors, key=lambda name: errors[name])
    assert found.loss == next(p.loss for p in found.predictions if p.law == found.headline)


def test_the_interval_is_the_union_of_the_laws_and_holds_the_truth(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    assert found.low == min(p.low for p in found.predictions) and found.high == max(p.high for p in found.predictions)
    assert found.low < TRUTH(4e6, 2e8) < found.high


def test_a_forecast_reads_back_and_is_the_same_from_files(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert forecast_from_json(json.loads(text)) == found
    again = [fit_from_json(json.loads(json.dumps(fit.to_json()))) for fit in fits]
    assert forecast(again, 4e6, 2e8, 4.8e15) == found


def test_a_score_says_how_far_off_and_whether_inside(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    assert score(found, found.loss / 1.01).error == pytest.approx(0.01)
    assert score(found, found.loss).inside and not score(found, found.high * 1.001).inside
    with pytest.raises(Refusal, match="measured"):
        score(found, float("nan"))


def test_far_beyond_the_runs_is_called_an_extrapolation(fits):
    assert any("extrapolation" in warning for warning in forecast(fits, 1e8, 1e10, 6e18).warnings)


def test_nothing_identified_is_refused(runs):
    n = np.geomspace(1e5, 1e8, 12)
    with pytest.raises(Refusal, match="no law is identified"):
        forecast([fit(runs(n, 20 * n, TRUTH(n, 20 * n)))], 1e9, 2e10, 1e20)


def test_a_power_law_in_one_variable_has_intervals_that_hold_it(runs):
    x, hits = np.geomspace(1e5, 1e9, 12), []
    for seed in range(60):
        loss = (1.2 + 20 * x**-0.3) * np.exp(0.004 * np.random.default_rng(seed).normal(size=12))
        item = fit(runs(np.full(12, 1e6), x, loss), "power", x="d").estimates()["alpha"]
        hits.append(item.low <= 0.3 <= item.high)
    assert np.mean(hits) >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / 60)


def test_two_points_are_no_curve_with_a_floor(runs):
    d = np.array([1e5, 1e6, 1e7])
    found = fit(runs(np.full(3, 1e6), d, [4.0, 2.0, 1.0]), "power", x="d")
    assert found.status == "unidentified" and "3 runs for 3 parameters" in found.warnings[0]
    straight = fit(runs(np.full(3, 1e6), d, [4.0, 2.0, 1.0]), "power_no_floor", x="d")
    assert straight.estimates()["alpha"].value == pytest.approx(np.log10(2))
