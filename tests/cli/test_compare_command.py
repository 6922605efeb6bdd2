"""`scaling compare`, from a file to a verdict in words."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from scaling.cli import compare
from scaling.cli.main import main
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


@pytest.fixture
def ask(tmp_path):
    """The command on a study in which `other` drops 30 % of its tokens; horizons may be cut to those of one size."""

    def run(*words, sizes=(4e3, 1e4, 3e4, 7e4)):
        rng, rows = np.random.default_rng(0), []
        for group, own in (("base", (4e3, 1e4, 3e4, 7e4)), ("other", sizes)):
            for n in own:
                for seed in range(2 if n == 1e4 else 1):
                    for d in (5e5, 1e6, 2e6, 4e6, 8e6):
                        loss = TRUTH(n, d * (0.7 if group == "other" else 1)) * np.exp(0.003 * rng.normal())
                        rows.append((n, d, loss, group, seed))
        table = pandas.DataFrame(rows, columns=["n_params", "tokens", "loss", "group", "seed"])
        path = tmp_path / "runs.csv"
        table.to_csv(path, index=False)
        parser = argparse.ArgumentParser()
        compare.arguments(parser)
        return compare.run(parser.parse_args([str(path), "--params", "n_params", *words]))

    return run


def test_the_verdict_comes_first_and_the_check_beside_it(ask, capsys):
    assert ask("--baseline", "base") == 0
    out = capsys.readouterr().out
    assert "compute multiplier" in out.splitlines()[0] and "at matched losses" in out
    assert "disagree" not in out


def test_json_is_one_document(ask, capsys):
    assert ask("--baseline", "base", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["algorithms"]
    low, high = one["law"]["rho_d"]["interval"]
    assert low < 0.7 < high and one["matched_losses"]["multiplier"]["value"] == pytest.approx(0.7, abs=0.06)


def test_a_single_size_is_told_by_matched_losses_alone(ask, capsys):
    assert ask("--baseline", "base", sizes=(1e4,)) == 0
    out = capsys.readouterr().out
    assert "single size" in out.splitlines()[0] and "rho_D" not in out


def test_an_unknown_baseline_is_refused(ask):
    with pytest.raises(Refusal, match="there is no such group"):
        ask("--baseline", "sgd")


def test_a_group_trained_on_other_data_is_no_algorithm(capsys):
    """Our own results folder holds runs on a source of known entropy beside those on text."""
    folder = Path(__file__).parents[2] / "results" / "reference" / "quickstart"
    words = ["compare", str(folder), "--params", "n_params", "--baseline", "AdamW"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == ["facts"]
    assert (
        {one["algorithm"] for one in found["algorithms"]}
        == {"SGD", "no attention"}
        == {one["law"]["algorithm"] for one in found["algorithms"]}
    )
    assert main(words) == 0
    assert "facts: left out, it was trained on other data" in capsys.readouterr().out
