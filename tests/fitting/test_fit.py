import json

import numpy as np
import pytest

from scaling.fitting import fit as fitting
from scaling.fitting.fit import fit
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


def noisy(n, d, sd=0.005, seed=0, law=TRUTH):
    return law(n, d) * np.exp(sd * np.random.default_rng(seed).normal(size=len(n)))


def test_intervals_hold_the_truth_as_often_as_they_say(runs, grid, monkeypatch):
    """120 studies of 25 runs, nominal 90 %; the tolerance is 2.5 binomial standard errors."""
    monkeypatch.setattr(fitting, "hold_out", lambda *_, **__: None)
    n, d = grid
    best = TRUTH.optimum(3e15, (6.0, 1.0))
    hits: dict[str, list[bool]] = {name: [] for name in ("alpha", "beta", "E", "n", "loss", "run")}
    for seed in range(120):
        found = fit(runs(n, d, noisy(n, d, seed=seed)))
        for name in ("alpha", "beta", "E"):
            item = found.estimates()[name]
            hits[name].append(item.low <= getattr(TRUTH, name) <= item.high)
        for name, item in found.optimum_intervals(3e15).items():
            if name in hits:
                hits[name].append(item.low <= getattr(best, name) <= item.high)
        low, high = found.interval(4e6, 2e8)
        new = noisy(np.array([4e6]), np.array([2e8]), seed=10_000 + seed)[0]
        hits["run"].append(low <= new <= high)
    cover = {name: np.mean(values) for name, values in hits.items()}
    assert all(0.83 <= value <= 0.97 for value in cover.values()), cover


def test_intervals_allow_for_noise_that_branches_of_a_trunk_share(runs, monkeypatch):
    """Two seeds at each of five sizes, 30 studies. Told that every run stands alone, the fit is far too sure."""
    monkeypatch.setattr(fitting, "hold_out", lambda *_, **__: None)
    sizes, horizons = np.geomspace(4e3, 1e6, 5), np.geomspace(2e5, 5e7, 5)
    held: dict[str, list[bool]] = {"alone": [], "together": []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = [
            (n, d, f"{n:.0f}-{s}", e) for n in sizes for s in (0, 1) for e in [rng.normal() * 0.01] for d in horizons
        ]
        n, d, trunk, shared = (np.array(column) for column in zip(*rows, strict=True))
        loss = TRUTH(n, d) * np.exp(shared + 0.002 * rng.normal(size=len(n)))
        for name, o in (
            ("alone", runs(n, d, loss, d_model=np.arange(len(n)))), ("together", runs(n, d, loss, trunk=trunk))
        ):  # fmt: skip
            found = fit(o)
            item = found.estimates()["alpha"]
            held[name].append(item.low <= TRUTH.alpha <= item.high)
            parts = found.components
            assert (sum(sd**2 for key, sd in parts.items() if key != "run") > parts["run"] ** 2) == (name == "together")
    assert np.mean(held["together"]) > 0.78 and np.mean(held["alone"]) < 0.7


def test_a_bootstrap_of_trunks_is_wider_than_one_of_runs(runs):
    sizes, horizons, rng = np.geomspace(4e3, 1e6, 5), np.geomspace(2e5, 5e7, 5), np.random.default_rng(1)
    rows = [(n, d, f"{n:.0f}-{s}", e) for n in sizes for s in (0, 1) for e in [rng.normal() * 0.01] for d in horizons]
    n, d, trunk, shared = (np.array(column) for column in zip(*rows, strict=True))
    loss = TRUTH(n, d) * np.exp(shared + 0.002 * rng.normal(size=len(n)))
    alone, together = (fit(o, bootstrap=200) for o in (runs(n, d, loss), runs(n, d, loss, trunk=trunk)))
    assert together.estimates()["alpha"].se > 1.3 * alone.estimates()["alpha"].se


def test_the_bootstrap_agrees_with_the_delta_method_on_many_clean_runs(runs):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(4e3, 1e6, 9), np.geomspace(2e5, 5e7, 9)))
    o = runs(n, d, noisy(n, d))
    delta, drawn = fit(o), fit(o, bootstrap=300, seed=1)
    for name in ("E", "alpha", "beta"):
        assert drawn.estimates()[name].se == pytest.approx(delta.estimates()[name].se, rel=0.3)
    assert fit(o, bootstrap=300, seed=1).to_json() == drawn.to_json()
    assert fit(o, bootstrap=300, seed=2).estimates()["E"].low != drawn.estimates()["E"].low


def test_a_ray_of_constant_tokens_per_parameter_gets_no_exponents(runs):
    n = np.geomspace(1e5, 1e9, 20)
    found = fit(runs(n, 20 * n, noisy(n, 20 * n)))
    assert found.status == "unidentified" and found.law is None
    assert set(found.unidentified) == {"E", "A", "B", "alpha", "beta"}
    document = found.to_json()
    assert document["estimates"] == {} and document["optimum"] is None
    assert "D = k N^1" in document["warnings"][0]
    with pytest.raises(Refusal, match="alpha"):
        found.predict(1e6, 1e7)


def test_a_single_size_tells_the_data_term_alone(runs):
    d = np.geomspace(1e6, 1e9, 12)
    n = np.full(12, 1e6)
    found = fit(runs(n, d, noisy(n, d, sd=1e-4)))
    assert found.status == "unidentified" and found.unidentified == ("E", "A", "alpha")
    assert set(found.estimates()) == {"B", "beta"}
    assert found.estimates()["beta"].value == pytest.approx(TRUTH.beta, rel=0.02)
    assert "1 distinct N" in found.warnings[0]


@pytest.mark.parametrize("points", [4, 5])
def test_as_many_runs_as_parameters_tell_nothing(runs, points):
    n, d = np.geomspace(1e5, 1e7, points), np.array([1e6, 1e8, 1e7, 1e9, 3e6])[:points]
    found = fit(runs(n, d, TRUTH(n, d)))
    assert found.status == "unidentified" and found.estimates() == {}
    assert f"{points} runs for 5 parameters" in found.warnings[0]


def test_a_term_that_the_losses_do_not_show_gets_no_number(runs, grid):
    n, d = grid
    found = fit(runs(n, d, noisy(n, d, law=lambda n, d: 1 + 50 * d**-0.3)))
    assert found.status == "unidentified" and found.unidentified == ("A", "alpha")
    assert found.estimates()["beta"].low < 0.3 < found.estimates()["beta"].high
    assert fit(runs(n, d, np.full(25, 2.0))).status == "unidentified"


def test_a_ray_blurred_by_jitter_is_still_a_ray(runs):
    n = np.geomspace(1e4, 1e7, 20)
    d = 20 * n * np.exp(0.05 * np.random.default_rng(0).normal(size=20))
    found = fit(runs(n, d, noisy(n, d)))
    assert found.status == "unidentified" and {"alpha", "beta"} & set(found.unidentified)
    json.dumps(found.to_json(), allow_nan=False)


def test_two_runs_are_refused(runs):
    with pytest.raises(Refusal, match="fewer than 3"):
        fit(runs([1e5, 1e6], [1e6, 1e7], [3.0, 2.5]))


def test_all_wrong_options_are_refused_together(runs, grid):
    with pytest.raises(Refusal) as refused:
        fit(runs(*grid, TRUTH(*grid)), "chinchila", level=1.5, bootstrap=-1)
    assert len(refused.value.faults) == 3


def test_a_floor_on_its_bound_is_said_and_gets_no_interval(runs, grid):
    n, d = grid
    found = fit(runs(n, d, 20 * n**-0.2 + 20 * d**-0.18 - 0.15))
    assert found.status == "at_bound" and found.at_bound == ("E",)
    document = found.to_json()
    assert document["estimates"]["E"] == {"value": 0.0, "se": None, "interval": None}
    assert any("E = 0 rests on the edge" in warning for warning in found.warnings)
    assert document["estimates"]["alpha"]["interval"] is not None


def test_outliers_are_named(runs, grid):
    loss = noisy(*grid)
    loss[[3, 17]] *= 1.5
    found = fit(runs(*grid, loss))
    order = np.argsort(found.weights, kind="stable")[:2]
    assert (found.weights[order] == 0).all()
    assert any(w.startswith("2 of 25 runs") and "r003" in w and "r017" in w for w in found.warnings)


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "interaction"])
def test_json_is_the_same_for_any_order_of_the_rows_and_reads_back(runs, grid, law):
    n, d = grid
    loss = noisy(n, d)
    ids = np.array([f"r{i:03d}" for i in range(25)])
    mixed = np.random.default_rng(0).permutation(25)
    one = fit(runs(n, d, loss, run_id=ids), law, bootstrap=5)
    two = fit(runs(n[mixed], d[mixed], loss[mixed], run_id=ids[mixed]), law, bootstrap=5)
    text = json.dumps(one.to_json(), allow_nan=False)
    assert json.dumps(two.to_json(), allow_nan=False) == text
    back = fit_from_json(json.loads(text))
    assert json.dumps(back.to_json(), allow_nan=False) == text
    assert back.interval(1e6, 1e7) == one.interval(1e6, 1e7)


def test_the_document_of_a_fit_has_what_the_command_promises(runs, grid):
    document = fit(runs(*grid, noisy(*grid))).to_json()
    promised = (
        "law params estimator runs dropped status estimates unidentified objective optimum holdout design warnings"
    )
    assert set(promised.split()) <= set(document)
    assert set(document["estimates"]["alpha"]) == {"value", "se", "interval"}
    assert [at["flops"] for at in document["optimum"]["at"]] == [6 * 1e6 * 5e7, 10 * 6 * 1e6 * 5e7]
    assert set(document["design"]) == {"condition", "span_n", "span_d", "span_ratio"}
    exponents = [document["optimum"][name]["value"] for name in ("exponent_n", "exponent_d")]
    assert sum(exponents) == pytest.approx(1.0)
    assert document["holdout"]["error"] < document["holdout"]["baseline"]


def test_rounding_errors_are_no_outliers(runs, grid):
    n, d = grid
    for space in ("log", "raw"):
        found = fit(runs(n, d, TRUTH(n, d)), space=space)
        assert found.estimates()["alpha"].value == pytest.approx(TRUTH.alpha, rel=1e-9)
        assert not [warning for warning in found.warnings if "far from" in warning or "share noise" in warning]
