"""The shared-exponent form: what is planted is found, and nothing is found where nothing was planted."""

import json

import numpy as np
import pytest

from scaling.fitting.laws import Chinchilla
from scaling.fitting.rescale import Rescaled, rescale
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)
SIZES = (3.6e3, 1e4, 3.3e4, 6.8e4)
HORIZONS = (5e5, 1e6, 2e6, 4e6, 8e6)


@pytest.fixture
def study(runs):
    """Two algorithms on sizes x horizons; `other` acts as if it had `more` N and saw `keep` D."""

    def build(keep=1.0, more=1.0, sd=0.006, seed=0, sizes=SIZES, cost=lambda n, group: 6 * n):
        rng, rows = np.random.default_rng(seed), []
        for group, own in (("base", SIZES), ("other", sizes)):
            for n in own:
                for d in HORIZONS:
                    kept = keep(n * d) if callable(keep) else keep
                    loss = TRUTH(n, d) if group == "base" else TRUTH(more * n, kept * d)
                    rows.append((n, d, loss * np.exp(sd * rng.normal()), group, cost(n, group) * d))
        n, d, loss, group, flops = zip(*rows, strict=True)
        return runs(n, d, loss, group=list(group), flops=list(flops))

    return build


def test_dropping_three_tokens_in_ten_is_found_as_that(study):
    found = rescale(study(keep=0.7), "base")[0]
    assert found.rho_d.low < 0.7 < found.rho_d.high and found.rho_d.value == pytest.approx(0.7, abs=0.04)
    assert found.rho_n.low < 1 < found.rho_n.high
    assert found.multiplier.high < 1 and "loses to base" in found.verdict or "tenfold" in found.verdict
    exact = rescale(study(keep=0.7, sd=1e-9), "base")[0]
    assert exact.rho_d.value == pytest.approx(0.7, abs=1e-6) and exact.rho_n.value == pytest.approx(1, abs=1e-6)
    json.dumps(exact.to_json(), allow_nan=False)


@pytest.mark.long  # more of it: benchmarks/compare_coverage.py
def test_an_algorithm_against_itself_is_one_with_nominal_coverage(study):
    """100 studies at 90 %: 3 standard errors of the count are 0.09. benchmarks/compare_coverage.py runs more."""
    hits, values = [], []
    for seed in range(100):
        found = rescale(study(seed=seed), "base")[0]
        hits.append(found.multiplier.low <= 1 <= found.multiplier.high)
        values.append(np.log(found.multiplier.value))
    assert 0.81 <= np.mean(hits) <= 0.99
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(100)


def test_a_gain_that_shrinks_with_scale_is_seen(study):
    found = rescale(study(keep=lambda c: 3.0 * (c / 1e10) ** -0.25, sd=0.002), "base")[0]
    assert found.slope.high < 0 and "per tenfold compute" in found.verdict


@pytest.mark.parametrize("p", [1.0, 0.8])
def test_the_multiplier_is_the_ratio_of_compute_at_equal_least_loss(study, p):
    """Found by searching both frontiers, without rho: C_base(L) / C_other(L) under FLOPs = k N^p D."""
    cost = {"base": (40.0, p), "other": (50.0, p)}
    o = study(keep=0.7, more=1.5, sd=1e-9, cost=lambda n, group: cost[group][0] * n**p)
    found = rescale(o, "base")[0]
    n = np.exp(np.linspace(np.log(1e2), np.log(1e9), 400_001))
    least = {}
    for group, law in (("base", TRUTH), ("other", lambda n, d: TRUTH(1.5 * n, 0.7 * d))):
        k, q = cost[group]
        flops = np.geomspace(1e10, 1e13, 9)
        least[group] = np.log(flops), np.log([law(n, c / (k * n**q)).min() - TRUTH.E for c in flops])
    log_c, log_l = least["base"]
    slope, level = np.polyfit(log_c, log_l, 1)
    c_base = (least["other"][1] - level) / slope
    assert found.multiplier.value == pytest.approx(np.exp(c_base - least["other"][0]).mean(), rel=1e-4)


def test_noise_hides_what_it_should(study):
    assert "not resolvable at this noise" in rescale(study(keep=1.02, sd=0.02), "base")[0].verdict


def test_a_single_size_tells_no_multiplier(study):
    found = rescale(study(keep=0.7, sizes=(1e4,)), "base")[0]
    assert found.multiplier is None and found.rho_d is None
    assert "single size" in found.verdict


@pytest.mark.parametrize("drifting", [False, True])
def test_the_gradient_is_that_of_finite_differences(drifting):
    n, d, group = np.array([1e4, 1e5, 1e6]), np.array([1e7, 1e6, 1e8]), np.array([0.0, 1.0, 1.0])
    theta = np.array([1.2, 20.0, 80.0, 0.3, 0.4, 1.4, 0.6, 0.1])
    form = Rescaled.form(n, d, drifting=drifting)

    def law(values):
        import dataclasses

        return dataclasses.replace(form, **dict(zip(form.names, values, strict=False)))

    for i in range(len(form.names)):
        step = np.eye(8)[i] * theta[i] * 1e-6
        by = (law(theta + step)(n, d, group) - law(theta - step)(n, d, group)) / (2 * step[i])
        assert law(theta).gradient(n, d, group)[..., i] == pytest.approx(by, rel=1e-6, abs=1e-12)


def test_an_unknown_baseline_is_refused(study):
    with pytest.raises(Refusal, match="there are base, other"):
        rescale(study(), "sgd")
