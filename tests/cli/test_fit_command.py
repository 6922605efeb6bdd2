"""`scaling fit` end to end, on tables with a planted law."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.cli.main import main
from scaling.fitting.laws import Chinchilla

TRUTH = Chinchilla(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.3)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """36 runs on a grid of 6 sizes and 6 horizons, 0.3 % noise, with two counts of parameters."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    loss = TRUTH(n, d) * np.exp(0.003 * np.random.default_rng(0).normal(size=len(n)))
    rows = [f"r{i},{a!r},{1.2 * a**0.98!r},{b!r},{c!r}\n" for i, (a, b, c) in enumerate(zip(n, d, loss, strict=True))]
    path = tmp_path / "runs.csv"
    path.write_text(
        "run_id,n_params,n_params_total,tokens,loss\n" + "".join(rows).replace("np.float64(", "").replace(")", "")
    )
    return path


def document(capsys: pytest.CaptureFixture, *words: object) -> dict[str, Any]:
    assert main([str(word) for word in words] + ["--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_has_every_key_that_is_promised(table: Path, capsys: pytest.CaptureFixture):
    found = document(capsys, "fit", table, "--params", "n_params")
    promised = {
        "law", "params", "estimator", "runs", "dropped", "status", "estimates", "unidentified", "objective", "optimum",
        "holdout", "design", "warnings",
    }  # fmt: skip
    assert promised <= found.keys()
    assert set(found["estimates"]["alpha"]) == {"value", "se", "interval"}
    assert {"cut", "error", "baseline"} <= found["holdout"].keys()
    assert {"condition", "span_n", "span_d", "span_ratio"} <= found["design"].keys()
    assert {"flops", "n", "d", "loss", "intervals"} <= found["optimum"]["at"][0].keys()


@pytest.mark.parametrize("options", [[], ["--bootstrap", "50"], ["--estimator", "huber"]], ids=" ".join)
def test_equal_tables_give_equal_bytes(table: Path, options: list[str]):
    """Any order of the rows, any PYTHONHASHSEED, one thread or two."""
    head, *rows = table.read_text().splitlines(keepends=True)
    shuffled = table.with_name("shuffled.csv")
    shuffled.write_text(head + "".join(np.random.default_rng(1).permutation(rows)))
    said = set()
    for path, seed, threads in ((table, "0", "1"), (shuffled, "1", "2"), (shuffled, "12345", "1")):
        limits = {f"{name}_NUM_THREADS": threads for name in ("OMP", "OPENBLAS", "MKL")}
        words = [sys.executable, "-m", "scaling", "fit", str(path), "--params", "n_params", "--json", *options]
        done = subprocess.run(words, env=os.environ | limits | {"PYTHONHASHSEED": seed}, capture_output=True)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1


def test_every_convention_of_n_gets_a_fit_of_its_own(table: Path, capsys: pytest.CaptureFixture):
    found = document(capsys, "fit", table, "--params", "all")["fits"]
    assert [one["params"] for one in found] == ["n_params", "n_params_total"]
    alpha, total = (one["estimates"]["alpha"]["value"] for one in found)
    assert total == pytest.approx(alpha / 0.98, rel=1e-4)


def test_the_loss_may_be_fitted_as_it_is(table: Path, capsys: pytest.CaptureFixture):
    words = ("fit", table, "--params", "n_params", "--level", "0.99")
    log, raw = document(capsys, *words), document(capsys, *words, "--loss-space", "raw")
    assert raw["loss_space"] == "raw" and raw["scale"] > log["scale"]
    for one in (log, raw):
        low, high = one["estimates"]["alpha"]["interval"]
        assert low < TRUTH.alpha < high


def test_influence_finds_the_run_that_was_planted(table: Path, capsys: pytest.CaptureFixture):
    head, *rows = table.read_text().splitlines(keepends=True)
    rows[35] = rows[35].rsplit(",", 1)[0] + f",{float(rows[35].rsplit(',', 1)[1]) * 1.012}\n"
    table.write_text(head + "".join(rows))
    found = document(
        capsys, "fit", table, "--params", "n_params", "--estimator", "huber", "--delta", "1", "--influence"
    )
    alpha = found["estimates"]["alpha"]["value"]
    by_run = {one["without"]: abs(one["estimates"]["alpha"] - alpha) for one in found["influence"]["run_id"]}
    assert len(by_run) == 36 and max(by_run, key=lambda name: by_run[name]) == "r35"


def test_all_laws_are_judged_by_what_they_extrapolate(table: Path, capsys: pytest.CaptureFixture):
    found = document(capsys, "fit", table, "--params", "n_params", "--law", "all")
    weights = {one["law"]: one["weight"] for one in found["tournament"]["entrants"]}
    assert sum(weights.values()) == pytest.approx(1) and weights["chinchilla"] > weights["kaplan"]
    assert [one["law"] for one in found["fits"]] == list(weights)


def test_a_law_of_one_variable_takes_any_column(table: Path, capsys: pytest.CaptureFixture):
    found = document(
        capsys, "fit", table, "--law", "power", "--x", "tokens", "--params", "n_params", "--where", "n_params>=9e8"
    )
    assert found["estimates"]["alpha"]["value"] == pytest.approx(TRUTH.beta, rel=0.1) and found["optimum"] is None


def test_residuals_and_influence_are_drawn(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["fit", str(table), "--params", "n_params", "--influence", "--figures", str(tmp_path / "figures")]) == 0
    assert "influence" in capsys.readouterr().out
    for name in ("residuals", "influence"):
        assert (tmp_path / "figures" / f"{name}.svg").read_text().count("<use") >= 6
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "options, said",
    [
        (["--law", "chinchila"], "there is no such law"),
        (["--law", "power"], "--x n"),
        (["--x", "n"], "--x n: law chinchilla is of n, d"),
        (["--delta", "0.1"], "--delta 0.1: only --estimator huber"),
        (["--estimator", "huber", "--delta", "-1"], "--delta -1: must be above 0"),
        (["--bootstrap", "1"], "--bootstrap 1: must be 0"),
        (["--level", "1.5"], "level = 1.5"),
        (["--seed", "-1"], "--seed -1"),
        (["--law", "all", "--influence"], "--influence: is for one law"),
        (["--where", "n_params>1e12"], "no runs to fit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_options_that_cannot_be_are_refused(table: Path, capsys: pytest.CaptureFixture, options: list[str], said: str):
    assert main(["fit", str(table), "--params", "n_params", *options]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out


def test_profiles_and_calibration_stand_beside_the_fit(table: Path, capsys: pytest.CaptureFixture):
    words = ["fit", table, "--params", "n_params", "--profile", "--calibrate", "30"]
    found = document(capsys, *words)
    assert set(found["profile"]) == {"E", "alpha", "beta"}
    for name, item in found["profile"].items():
        (low, high), (delta_low, delta_high) = item["interval"], found["estimates"][name]["interval"]
        assert low < item["value"] < high
        assert (high - low) / (delta_high - delta_low) == pytest.approx(1, abs=0.5)
    calibration = found["calibration"]
    assert calibration["studies"] == 30 and {"alpha", "n x100", "loss x10"} <= calibration["quantities"].keys()
    assert all(0.6 <= one["coverage"] <= 1 for one in calibration["quantities"].values())
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "by profile" in printed and "simulated from the fit" in printed
    assert main(["fit", str(table), "--params", "n_params", "--calibrate", "5"]) == 2
