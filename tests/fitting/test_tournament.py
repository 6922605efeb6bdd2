"""Laws are chosen by what they say of runs that they have not seen."""

import json
import time

import numpy as np
import pytest

from scaling.fitting.laws import LAWS, SURFACES, Chinchilla, Kaplan
from scaling.fitting.tournament import COMPETITORS, tournament, weigh
from scaling.spec import Refusal

TRUTHS = {
    "chinchilla": Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37),
    "kaplan": Kaplan(E=0.5, Nc=3e3, Dc=3e5, alpha_n=0.35, alpha_d=0.5),
}
NAMES = ("chinchilla", "kaplan", "interaction")


@pytest.fixture
def study(runs):
    def build(truth, sd=0.002, seed=0):
        n, d = (v.ravel() for v in np.meshgrid(np.geomspace(4e3, 4e6, 15), np.geomspace(2e5, 2e8, 16)))
        return runs(n, d, TRUTHS[truth](n, d) * np.exp(sd * np.random.default_rng(seed).normal(size=len(n))))

    return build


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_law_that_made_the_runs_wins(study, truth):
    found = tournament(study(truth), NAMES)
    other = next(name for name in TRUTHS if name != truth)
    assert found.weights[truth] > 5 * found.weights[other]
    assert [cut.factor for cut in found.cuts] == [2, 3, 10, 30]
    item = next(entrant for entrant in found.entrants if entrant.law == truth)
    assert item.error < 0.003 and abs(item.bias) < 0.002
    assert item.error < min(cut.nearest for cut in found.cuts)
    assert sum(found.weights.values()) == pytest.approx(1)
    json.dumps(found.to_json(), allow_nan=False)


def test_nine_in_ten_of_the_runs_left_out_lie_inside(study):
    """Over 12 studies: the runs left out of one study share its fit, so one study may well have 0.75."""
    inside = [
        tournament(study("chinchilla", seed=s), ("chinchilla",), cuts=(10,)).entrants[0].inside for s in range(12)
    ]
    assert 0.82 < np.mean(inside) < 0.97


def test_weights_follow_their_rule():
    assert weigh([0.01, 0.02, 0.03])[1] / weigh([0.01, 0.02, 0.03])[0] == pytest.approx(np.exp(-1.5))
    assert weigh([np.nan, np.nan]) == [0.5, 0.5] and weigh([0.01, np.nan]) == [1, 0]
    assert weigh([0.0, 0.0]) == [0.5, 0.5]


def test_the_order_of_the_rows_changes_nothing(study):
    o = study("chinchilla")
    shuffled = o.pick(np.random.default_rng(0).permutation(len(o)))
    assert tournament(o, NAMES[:2]).to_json() == tournament(shuffled, NAMES[:2]).to_json()


def test_four_laws_at_four_cuts_take_seconds(study):
    begin = time.process_time()
    tournament(study("chinchilla"), (*NAMES, "chinchilla_tied"))
    assert time.process_time() - begin < 5


def test_where_nothing_can_be_left_out_laws_weigh_alike_and_it_is_said(runs, grid):
    n, d = (v[::3][:9] for v in grid)
    found = tournament(runs(n, d, TRUTHS["chinchilla"](n, d)), ("chinchilla", "kaplan"), cuts=(1e9,))
    assert found.weights == {"chinchilla": 0.5, "kaplan": 0.5} and "untested" in found.warnings[-1]


def test_a_ray_and_a_law_of_one_variable_are_refused(runs, study):
    n = np.geomspace(1e5, 1e8, 12)
    with pytest.raises(Refusal, match="no law can be told"):
        tournament(runs(n, 20 * n, TRUTHS["chinchilla"](n, 20 * n)), NAMES)
    assert "power" in LAWS
    with pytest.raises(Refusal, match="laws of N and D"):
        tournament(study("chinchilla"), ("power",))


def test_one_surface_in_two_sets_of_coordinates_competes_once(study):
    """arXiv:2403.08540's law is chinchilla_tied: its predictions are the same, so it would only add to one vote."""
    o = study("chinchilla")
    tied, other = (tournament(o, (law,)).entrants[0] for law in ("chinchilla_tied", "overtraining"))
    assert other.error == pytest.approx(tied.error, rel=1e-4)
    assert "overtraining" not in COMPETITORS and set(COMPETITORS) | {"overtraining"} == set(SURFACES)
    with pytest.raises(Refusal, match="overtraining: is chinchilla_tied in other coordinates"):
        tournament(o, SURFACES)
