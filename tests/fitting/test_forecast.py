import json

import numpy as np
import pytest

from scaling.fitting.fit import fit
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.forecast import (
    MEAN,
    Target,
    _Belief,
    _mixture,
    fingerprint,
    forecast,
    forecast_from_json,
    project,
    projection_from_json,
    score,
    score_run,
)
from scaling.fitting.laws import Chinchilla
from scaling.fitting.tournament import COMPETITORS
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)
LAWS = ("chinchilla", "kaplan", "interaction")


@pytest.fixture
def fits(runs, grid):
    loss = TRUTH(*grid) * np.exp(0.004 * np.random.default_rng(0).normal(size=25))
    return [fit(runs(*grid, loss), law) for law in LAWS]


def test_a_forecast_is_the_geometric_mean_of_the_laws_in_any_order(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    assert found.headline == MEAN
    assert np.log(found.loss) == pytest.approx(np.mean([np.log(p.loss) for p in found.predictions]), rel=1e-12)
    assert forecast(fits[::-1], 4e6, 2e8, 4.8e15).loss == pytest.approx(found.loss, rel=1e-12)


def test_one_law_alone_is_its_own_mean_and_says_that_no_other_was_asked(fits):
    found = forecast(fits[:1], 4e6, 2e8, 4.8e15)
    assert found.headline == "chinchilla" and found.loss == found.predictions[0].loss
    assert "one law alone" in " ".join(found.warnings)


def test_a_forecast_registered_by_an_older_rule_reads_back_with_its_own_number(fits):
    found = forecast(fits, 4e6, 2e8, 4.8e15)
    chosen = found.predictions[1]
    document = {**found.to_json(), "headline": chosen.law, "loss": chosen.loss}
    assert forecast_from_json(json.loads(json.dumps(document))).loss == chosen.loss
    with pytest.raises(ValueError):
        forecast_from_json({**document, "headline": "nobody"})


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


BUDGET = 2e15  # FLOPs, 6.7 times the largest of the grid


def test_a_budget_is_split_as_the_fit_splits_it(fits):
    """One law alone: the numbers and intervals are those of its own optimum."""
    for one in fits[:2]:
        said, own = project([one], Target(c=BUDGET)), one.optimum_intervals(BUDGET, 0.9)
        for name in ("n", "d", "loss"):
            number = said.numbers[name]
            expected = (own[name].value, own[name].low, own[name].high)
            assert (number.value, number.low, number.high) == pytest.approx(expected, rel=1e-4)
        assert said.headline == one.name and said.numbers["c"].value == BUDGET
        low, high = one.interval(said.numbers["n"].value, said.numbers["d"].value)
        assert said.numbers["run"].low < said.numbers["loss"].low < said.numbers["loss"].high < said.numbers["run"].high
        assert (said.numbers["run"].low, said.numbers["run"].high) == pytest.approx((low, high), rel=2e-3)


def test_a_new_run_at_n_and_d_has_the_interval_of_the_fit(fits):
    said = project(fits[:1], Target(n=4e6, d=2e8))
    assert (said.numbers["run"].low, said.numbers["run"].high) == pytest.approx(fits[0].interval(4e6, 2e8), rel=1e-6)
    band = fits[0].band(4e6, 2e8).at(0)
    assert (said.numbers["loss"].low, said.numbers["loss"].high) == pytest.approx((band.low, band.high), rel=1e-5)
    assert said.numbers["c"].value == pytest.approx(6 * 4e6 * 2e8)


def test_the_regret_is_that_of_a_search_over_splits(fits, runs, grid):
    """Under C = 6 N D, and under a token that costs 90 N^0.85."""
    n, d = grid
    uneven = fit(runs(n, d, TRUTH(n, d) * np.exp(0.001 * np.sin(np.arange(25))), flops=90 * n**0.85 * d))
    for one, (k, p) in [*((one, (6, 1)) for one in fits), (uneven, (90, 0.85))]:
        said = project([one], Target(c=BUDGET)).numbers
        n = said["n"].value * np.exp(np.linspace(-3, 3, 60_001))
        least = one.predict(n, BUDGET / (k * n**p)).min()
        for name, factor in (("regret_half", 0.5), ("regret_double", 2.0)):
            size = factor * said["n"].value
            assert said[name].value == pytest.approx(one.predict(size, BUDGET / (k * size**p)) - least, abs=1e-7)
            assert 0 <= said[name].low <= said[name].value <= said[name].high
    for one in fits:
        off = project([one], Target(n=4e6, d=2e7), far=True).numbers["regret"]
        n = 4e6 * np.exp(np.linspace(-5, 5, 100_001))
        assert off.value == pytest.approx(one.predict(4e6, 2e7) - one.predict(n, 4e6 * 2e7 / n).min(), abs=1e-7)


@pytest.mark.parametrize("law", COMPETITORS)
@pytest.mark.parametrize("p", [1.0, 0.85])
def test_of_n_or_d_alone_the_split_is_best(runs, grid, law, p):
    n, d = grid
    one = fit(runs(n, d, TRUTH(n, d) * np.exp(0.001 * np.sin(np.arange(25))), flops=90 * n**p * d), law)
    for target in (Target(n=5e5), Target(d=4e7)):
        said = project([one], target, far=True).numbers
        best = one.optimum(said["c"].value)
        assert (said["n"].value, said["d"].value) == pytest.approx((float(best.n), float(best.d)), rel=1e-4)
        assert said["loss"].value == pytest.approx(float(best.loss), rel=1e-6)
        name, value = next(iter(target.given.items()))
        assert (said[name].value, said[name].low, said[name].high) == (value, value, value)


def test_the_laws_together_are_the_mixture_of_their_distributions():
    """Against a sample of it."""
    beliefs, dof, weights = [(0.0, 0.1), (0.4, 0.05), (0.1, 0.3)], [5, 20, 9], np.array([0.6, 0.3, 0.1])
    found = _mixture(
        [_Belief(middle=m, se=s, dof=v, log=True) for (m, s), v in zip(beliefs, dof, strict=True)], weights, 0.9
    )
    rng = np.random.default_rng(0)
    law = rng.choice(3, p=weights, size=1_000_000)
    drawn = np.array(beliefs)[law].T
    sample = drawn[0] + drawn[1] * rng.standard_t(np.array(dof)[law])
    low, high = np.quantile(sample, [0.05, 0.95])
    assert np.log(found.value) == pytest.approx(weights @ [0.0, 0.4, 0.1])
    assert (np.log(found.low), np.log(found.high)) == pytest.approx((low, high), abs=0.003)
    # The total variance is that within the laws and that between them: wider than any law of such weight alone.
    assert high - low > 2 * 0.1 * 2


@pytest.mark.long  # more of it: benchmarks/forecast_coverage.py
def test_forecasts_hold_the_truth_of_planted_laws(runs, grid):
    """60 studies at 90 %, at 6.7 times the largest compute: 3 standard errors of the count are 0.12."""
    held = {"loss": 0, "n": 0, "d": 0, "run": 0}
    best = TRUTH.optimum(BUDGET, (6, 1))
    n, d = (np.repeat(v, 2) for v in grid)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        one = fit(runs(n, d, TRUTH(n, d) * np.exp(0.004 * rng.normal(size=50))))
        said = project([one], Target(c=BUDGET)).numbers
        truth = {"loss": best.loss, "n": best.n, "d": best.d, "run": best.loss * np.exp(0.004 * rng.normal())}
        for name, value in truth.items():
            held[name] += said[name].low <= value <= said[name].high
    assert all(0.78 <= count / 60 <= 1.0 for count in held.values()), held


def test_weights_decide_and_laws_that_cannot_answer_are_named(fits, runs):
    target = Target(c=BUDGET)
    alone = [project([one], target).numbers["loss"].value for one in fits]
    said = project(fits, target, weights={"chinchilla": 0.5, "kaplan": 0.5, "interaction": 0.0})
    assert said.numbers["loss"].value == pytest.approx(np.sqrt(alone[0] * alone[1]))
    assert said.spread("loss") == pytest.approx((min(alone), max(alone)))
    assert [one.weight for one in said.opinions] == [0.5, 0.5, 0.0]
    n = np.geomspace(1e5, 1e8, 12)
    ray = fit(runs(n, 20 * n, TRUTH(n, 20 * n)))
    assert project([*fits, ray], target).warnings[0] == "chinchilla: left out, it is not identified by these runs"
    with pytest.raises(Refusal, match="is not identified by these runs: D follows N"):
        project([ray], target)


def test_far_is_marked_and_too_far_is_refused(fits):
    top = fits[0].flops_max
    assert not project(fits, Target(c=9 * top)).far
    said = project(fits, Target(c=50 * top))
    assert said.far and "an extrapolation far beyond the runs" in said.warnings[-1]
    with pytest.raises(Refusal, match="--far"):
        project(fits, Target(c=101 * top))
    assert project(fits, Target(c=101 * top), far=True).far


@pytest.mark.parametrize("target", [Target(), Target(c=1e15, n=1e6), Target(n=-1.0, d=1e7), Target(c=float("inf"))])
def test_what_is_no_target_is_refused(fits, target):
    with pytest.raises(Refusal):
        project(fits, target)


def test_a_projection_reads_back_and_is_scored(fits):
    said = project(fits, Target(n=4e6, d=2e8))
    assert projection_from_json(json.loads(json.dumps(said.to_json(), allow_nan=False))) == said
    run = said.numbers["run"]
    assert score_run(said, run.value / 1.02).error == pytest.approx(0.02)
    assert score_run(said, run.value).inside and not score_run(said, run.high * 1.0001).inside
    with pytest.raises(Refusal, match="measured"):
        score_run(said, -1.0)


def test_a_fingerprint_is_of_the_runs_not_of_their_order(runs, grid):
    o = runs(*grid, TRUTH(*grid))
    assert fingerprint(o) == fingerprint(o.pick(np.random.default_rng(0).permutation(25)))
    other = TRUTH(*grid)
    other[7] *= 1 + 1e-9
    assert fingerprint(runs(*grid, other)) != fingerprint(o)
