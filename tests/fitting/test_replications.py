"""Published procedures on their own tables, and on tables that are not theirs. Without ../shared the former skip."""

import json

import numpy as np
import pandas
import pytest

from scaling.cli.main import main
from scaling.fitting.laws import LAWS, Chinchilla
from scaling.fitting.published import PROCEDURES, as_published
from scaling.fitting.published.porian import minima
from scaling.spec import Refusal

TABLES = {
    "besiroglu2024": "epoch_chinchilla.csv",
    "hoffmann2022-3": "epoch_chinchilla.csv",
    "porian2024": "porian_isoflop.csv",
    "gadre2024": "gadre_overtrain_rpj.csv",
    "muennighoff2023": "muennighoff_repeat.csv",
    "steplaw2025": "steplaw_dense.csv",
}
TRUTH = Chinchilla(E=1.7, A=400.0, B=900.0, alpha=0.36, beta=0.32)


@pytest.mark.parametrize("name", TABLES)
def test_a_paper_s_figures_come_out_or_the_difference_has_a_cause(published, name):
    found = as_published(published(TABLES[name]), name)
    assert found.own
    asked = [q for q in found.quantities if q.published is not None]
    assert asked
    for q in asked:
        assert q.agrees or q.why, f"{q.name}: {q.ours} against {q.published}"
    if name not in ("hoffmann2022-3", "steplaw2025"):
        assert all(q.agrees for q in asked)


def test_every_procedure_is_tested():
    assert set(TABLES) | {"kaplan2020"} == set(PROCEDURES)


def test_hoffmann_s_printed_point_is_no_minimum(published):
    found = as_published(published("epoch_chinchilla.csv"), "hoffmann2022-3")
    (over,) = [q.ours for q in found.quantities if q.published is None]
    assert over > 2


def table(n, d, loss, **columns) -> pandas.DataFrame:
    found = {"n_params": n, "tokens": d, "loss": loss} | columns
    return pandas.DataFrame({name: [str(v) for v in values] for name, values in found.items()})


@pytest.fixture
def grid():
    n, d = np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6), indexing="ij")
    return n.ravel(), d.ravel()


def test_besiroglu_s_procedure_finds_a_planted_law_and_does_not_claim_the_paper_s_rows(grid):
    n, d = grid
    found = as_published(table(n, d, TRUTH(n, d)), "besiroglu2024")
    values = {q.name: q.ours for q in found.quantities}
    assert not found.own and found.dropped == {"one of the five highest losses": 5}
    for name in ("E", "alpha", "beta"):
        assert values[name] == pytest.approx(getattr(TRUTH, name), rel=1e-3)
    assert all(entry["agrees"] is None for entry in found.to_json()["quantities"])


def test_kaplan_s_procedure_finds_a_planted_law_without_a_floor(grid):
    n, d = grid
    law = LAWS["kaplan"](E=0.0, Nc=6.4e13, Dc=1.8e13, alpha_n=0.076, alpha_d=0.103)
    values = {q.name: q.ours for q in as_published(table(n, d, law(n, d)), "kaplan2020").quantities}
    for name in ("Nc", "Dc", "alpha_n", "alpha_d"):
        assert values[name] == pytest.approx(getattr(law, name), rel=1e-4)


def test_porian_s_minima_are_the_law_s_optima_on_a_clean_ladder(runs):
    flops, n = np.meshgrid(np.geomspace(1e18, 1e21, 7), np.geomspace(1e7, 1e11, 33), indexing="ij")
    n, d = n.ravel(), (flops / (6 * n)).ravel()
    near = np.abs(np.log(n / TRUTH.optimum(6 * n * d, (6.0, 1.0)).n)) < np.log(20)
    n, d = n[near], d[near]
    exponents, left = minima(runs(n, d, TRUTH(n, d)))
    a, b = (float(v) for v in TRUTH.exponents(1.0, (6.0, 1.0)))
    assert not left and exponents["n"] == pytest.approx(a, abs=0.03) and exponents["d"] == pytest.approx(b, abs=0.03)


def test_an_unknown_procedure_and_a_table_too_small_are_refused(grid):
    n, d = grid
    with pytest.raises(Refusal, match="no such procedure; there are besiroglu2024"):
        as_published(table(n, d, TRUTH(n, d)), "besiroglu2025")
    with pytest.raises(Refusal, match="gadre2024"):
        as_published(table(n, d, TRUTH(n, d)), "gadre2024")
    with pytest.raises(Refusal, match="unique|missing|lr"):
        as_published(table(n, d, TRUTH(n, d)), "steplaw2025")


def test_the_command_repeats_a_procedure_and_refuses_options_that_it_settles(tmp_path, grid, capsys):
    n, d = grid
    path = tmp_path / "runs.csv"
    table(n, d, TRUTH(n, d)).to_csv(path, index=False)
    assert main(["fit", str(path), "--as", "hoffmann2022-3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["procedure"] == "hoffmann2022-3" and found["runs"] == 36
    assert main(["fit", str(path), "--as", "hoffmann2022-3", "--where", "n_params<5e9"]) == 0
    assert "30 runs" in capsys.readouterr().out
    assert main(["fit", str(path), "--as", "hoffmann2022-3", "--params", "n_params", "--law", "kaplan"]) == 2
    said = capsys.readouterr().err
    assert "--law: is settled by --as" in said and "--params: is settled by --as" in said


@pytest.mark.parametrize("estimator", ["isoflop", "envelope", "all"])
def test_the_approaches_answer_beside_one_another(tmp_path, capsys, estimator):
    n, d = np.meshgrid(np.geomspace(1e6, 1e10, 16), np.geomspace(1e8, 1e12, 16), indexing="ij")
    path = tmp_path / "runs.csv"
    table(n.ravel(), d.ravel(), TRUTH(n, d).ravel()).to_csv(path, index=False)
    words = ["fit", str(path), "--params", "n_params", "--estimator", estimator]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if estimator == "all":
        assert [one["approach"] for one in found["approaches"]] == ["envelope", "isoflop", "huber", "surface"]
    else:
        assert found["status"] == "converged" and found["estimates"] == {} and found["optimum"]["at"][0]["n"] > 0
    assert main(words) == 0
    assert main([*words, "--bootstrap", "10"]) == 2
