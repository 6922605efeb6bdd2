import numpy as np
import pytest

from scaling.fitting.calibrate import calibrate
from scaling.fitting.fit import fit
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


@pytest.fixture
def study(runs, grid):
    n, d = grid
    o = runs(n, d, TRUTH(n, d) * np.exp(0.004 * np.random.default_rng(0).normal(size=len(n))))
    return o, fit(o)


def test_intervals_hold_their_own_simulations_about_as_often_as_they_say(study):
    found = calibrate(*study, studies=60)
    assert found.unidentified < 6
    for name, one in found.quantities.items():
        assert one.coverage == pytest.approx(0.9, abs=4 * max(one.coverage_se, 0.03)), name
        assert one.factor > 0


def test_a_wider_level_is_held_more_often_by_the_same_studies(runs, study):
    o, found = study
    narrow = calibrate(o, fit(o, level=0.5), studies=40)
    wide = calibrate(o, found, studies=40)
    assert all(narrow.quantities[name].coverage <= wide.quantities[name].coverage for name in narrow.quantities)


def test_the_same_seed_gives_the_same_calibration(study):
    assert calibrate(*study, studies=20).to_json() == calibrate(*study, studies=20).to_json()
    assert calibrate(*study, studies=20).to_json() != calibrate(*study, studies=20, seed=1).to_json()


def test_what_cannot_be_calibrated_is_refused(runs, grid, study):
    o, found = study
    with pytest.raises(Refusal, match="at least 20"):
        calibrate(o, found, studies=5)
    with pytest.raises(Refusal, match="read from JSON"):
        calibrate(o, fit_from_json(found.to_json()))
    n = np.geomspace(1e5, 1e9, 20)
    ray = runs(n, 20 * n, TRUTH(n, 20 * n))
    with pytest.raises(Refusal, match="unidentified"):
        calibrate(ray, fit(ray))
