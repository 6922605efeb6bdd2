import numpy as np
import pytest

from scaling.fitting.approaches import NAMES, approaches
from scaling.fitting.envelope import envelope
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=1.7, A=400.0, B=900.0, alpha=0.36, beta=0.32)


@pytest.fixture
def dense():
    """40 sizes by 60 horizons: an envelope with hardly any steps."""
    n, d = np.meshgrid(np.geomspace(1e6, 1e10, 40), np.geomspace(1e7, 1e12, 60), indexing="ij")
    return n.ravel(), d.ravel()


def test_on_a_dense_grid_it_is_the_law_s_own_frontier(runs, dense):
    n, d = dense
    found = envelope(runs(n, d, TRUTH(n, d)))
    a, b = (float(v) for v in TRUTH.exponents(1.0, (6.0, 1.0)))
    assert found.exponent_n.value == pytest.approx(a, abs=0.01)
    assert found.exponent_d.value == pytest.approx(b, abs=0.01)
    middle = 1e19
    best = TRUTH.optimum(middle, (6.0, 1.0))
    assert np.exp(found.line_n[0] + found.line_n[1] * np.log(middle)) == pytest.approx(float(best.n), rel=0.1)


def test_no_run_on_the_envelope_is_beaten_by_one_of_as_little_compute(runs, dense):
    n, d = dense
    o = runs(n, d, TRUTH(n, d) * np.exp(0.01 * np.random.default_rng(0).normal(size=len(n))))
    found = envelope(o)
    for name in found.run_id:
        i = o.run_id.index(name)
        assert not ((o.flops <= o.flops[i]) & (o.loss < o.loss[i])).any()


def test_noise_makes_an_envelope_too_low(runs, dense):
    """The bias that the warning names: the luckiest of the runs is taken."""
    n, d = dense
    found = envelope(runs(n, d, TRUTH(n, d) * np.exp(0.01 * np.random.default_rng(0).normal(size=len(n)))))
    assert (found.loss < TRUTH.optimum(found.flops, (6.0, 1.0)).loss).mean() > 0.9


def test_end_sizes_are_left_out_and_too_few_are_refused(runs):
    n, d = (v.ravel() for v in np.meshgrid([1e6, 1e7, 1e8, 1e9], np.geomspace(1e8, 1e12, 9), indexing="ij"))
    with pytest.raises(Refusal, match="2 sizes between the smallest and the largest"):
        envelope(runs(n, d, TRUTH(n, d)))


def test_approaches_agree_where_there_is_no_noise_and_say_why_they_cannot_answer(runs, dense):
    n, d = dense
    near = (d / n > 2) & (d / n < 400)
    found = {one.name: one for one in approaches(runs(n[near], d[near], TRUTH(n[near], d[near])))}
    assert list(found) == list(NAMES)
    a = float(TRUTH.exponents(1.0, (6.0, 1.0))[0])
    for one in found.values():
        assert one.exponent_n is not None and one.exponent_n.value == pytest.approx(a, abs=0.02), one.name
    ray = approaches(runs(n[:30], 20 * n[:30] * np.linspace(1, 1.1, 30), TRUTH(n[:30], 20 * n[:30])))
    assert all(one.why for one in ray)
