"""`scaling tune` as a person meets it: grown grids, resumption, refusals, and what a fit makes of it.

Workers are stood in for by planted losses, except in the last test, which trains.
"""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli import main, tune
from scaling.cli.locate import study_of
from scaling.cost import count_params
from scaling.fitting.observe import load_runs
from scaling.launch.local import Outcome
from scaling.plan import Plan, Planned
from scaling.record import Ledger, table
from scaling.record.files import commit_json
from scaling.record.tuning import REACH, Mistuning, Tuning
from scaling.spec import RunSpec
from tests.cli.test_cli import STUDY
from tests.record.test_record import record_of

KAPPA, PEAK = 0.03, 1e-2  # PEAK: the study's own rate


def valley(best: Callable[[RunSpec], float]) -> Callable[[RunSpec], float | None]:
    """The loss of a run whose best rate is `best`; a rate above 1 diverges."""

    def loss(run: RunSpec) -> float | None:
        n, rate = count_params(run.model).matmul, run.optim.peak_lr
        x, ripple = math.log(rate / best(run)), 2e-4 * (int(run.id, 16) % 7 - 3)
        return None if rate > 1 else 3 * n**-0.05 * run.tokens**-0.02 * math.exp(KAPPA * x**2 + ripple)

    return loss


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(STUDY)
    return path


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch):
    """planted(loss, stop_after=None) -> the list of runs that the stand-in makes from now on."""

    def plant(loss: Callable[[RunSpec], float | None], stop_after: int | None = None) -> list[Planned]:
        made: list[Planned] = []

        def sweep(plan: Plan, ledger: Ledger, *_: object) -> Outcome:
            for p in plan.pending(ledger).runs:
                if stop_after is not None and len(made) >= stop_after:
                    return Outcome(stopped=True)
                value = None if p.role == "trunk" else loss(p.run)
                lost = p.role != "trunk" and value is None
                ledger.commit(record_of(p.run, loss=value, status="diverged" if lost else "finished", data={}))
                made.append(p)
            return Outcome()

        monkeypatch.setattr(tune, "sweep", sweep)
        return made

    return plant


def rates(made: list[Planned]) -> set[float]:
    return {round(p.run.optim.peak_lr / PEAK, 6) for p in made}


def document(folder: Path) -> dict:
    return json.loads((folder / "tuning.json").read_text())


def tuned(study: Path, *words: str) -> int:
    return main(["tune", str(study), "--out", str(study.parent / "out"), *words])


def recorded(study: Path, loss: Callable[[RunSpec], float | None]) -> Ledger:
    """The results folder of the study, every run recorded with its planted loss."""
    asked, _ = study_of(str(study), [])
    ledger = Ledger(study.parent / "out")
    commit_json(ledger.folder / "study.json", asked.to_json())
    for p in asked.runs.runs:
        ledger.commit(record_of(p.run, loss=None if p.role == "trunk" else loss(p.run), data={}))
    table.write(ledger)
    return ledger


def test_a_study_that_is_planned_right_is_called_tuned_and_its_grid_does_not_grow(study: Path, planted, capsys):
    made = planted(valley(lambda run: PEAK * 1.05))
    assert tuned(study) == 0
    assert rates(made) == {0.25, 0.5, 1, 2, 4} and len(made) == 3 * 5 * 3
    said = capsys.readouterr()
    assert "sizes: transfers" in said.out and "planned rates: tuned" in said.out
    assert "tuning_excess<0.005" in said.out and "the study itself costs" in said.err
    assert document(study.parent / "out")["groups"][0]["verdict"] == "tuned"
    for name in ("runs.csv", "study.json", "figures/transfer.svg", "figures/transfer.png"):
        assert (study.parent / "out/tuning" / name).stat().st_size > 0, name


@pytest.mark.parametrize("times, grown", [(10.0, {8, 16}), (30.0, {8, 16, 32, 64}), (1 / 6, {1 / 8, 1 / 16})])
def test_a_grid_grows_towards_its_optimum_and_no_further(study: Path, planted, times: float, grown: set[float]):
    made = planted(valley(lambda run: PEAK * times))
    assert tuned(study, "--sizes", "2", "--horizons", "1") == 0
    assert rates(made) == {0.25, 0.5, 1, 2, 4} | {round(factor, 6) for factor in grown}
    (group,) = document(study.parent / "out")["groups"]
    assert {cell["status"] for cell in group["cells"]} == {"resolved"} and group["verdict"] == "off"
    assert group["factor"]["value"] == pytest.approx(times, rel=0.1)


def test_only_the_model_whose_optimum_is_at_the_edge_grows(study: Path, planted):
    made = planted(valley(lambda run: PEAK * (12 if run.model.d_model == 8 else 1)))
    assert tuned(study) == 0
    assert {p.run.model.d_model for p in made if p.run.optim.peak_lr > 5 * PEAK} == {8}
    (group,) = document(study.parent / "out")["groups"]
    assert group["sizes"]["verdict"] == "drifts"


def test_a_grid_grows_three_times_at_most_and_never_into_divergence(study: Path, planted, capsys):
    few = ["--sizes", "1", "--horizons", "1"]
    made = planted(valley(lambda run: PEAK * 1e-6))
    assert tuned(study, *few) == 0
    assert min(rates(made)) == round(0.25 / 2**6, 6)
    assert "edge at N" in capsys.readouterr().out
    study.write_text(STUDY.replace("peak_lr=1e-2", "peak_lr=0.4"))
    made = planted(valley(lambda run: 50.0))
    assert main(["tune", str(study), "--out", str(study.parent / "hot"), *few]) == 0
    assert max(p.run.optim.peak_lr for p in made) == 0.4 * 4  # planned at once; nothing was added above
    assert {cell["status"] for cell in document(study.parent / "hot")["groups"][0]["cells"]} == {"edge"}


def test_an_interrupted_tuning_goes_on_to_the_same_bytes(study: Path, planted, capsys):
    loss = valley(lambda run: PEAK * 12)
    undisturbed = planted(loss)
    few = ["--sizes", "1", "--horizons", "2"]
    assert main(["tune", str(study), "--out", str(study.parent / "whole"), *few]) == 0
    trained: list[str] = []
    for stop_after in (7, 9, 2):  # in the first round, in the second, in it again
        made = planted(loss, stop_after)
        assert tuned(study, *few) == 75
        assert "To go on: scaling tune" in capsys.readouterr().err
        trained += [p.run.id for p in made]
    made = planted(loss)
    assert tuned(study, *few) == 0
    trained += [p.run.id for p in made]
    assert sorted(trained) == sorted(p.run.id for p in undisturbed)
    for name in ("tuning.json", "tuning/runs.csv"):
        assert (study.parent / "out" / name).read_bytes() == (study.parent / "whole" / name).read_bytes(), name
    made = planted(loss)
    assert tuned(study, *few) == 0 and not made


def test_runs_of_the_study_are_taken_over_and_not_trained_again(study: Path, planted, capsys):
    loss = valley(lambda run: PEAK)
    own = recorded(study, loss)
    made = planted(loss)
    assert tuned(study) == 0
    assert "9 runs at the planned rates are taken over from it" in capsys.readouterr().err
    assert rates(made) == {0.25, 0.5, 2, 4}
    for record in own:
        assert record.run.id not in {p.run.id for p in made}


def test_a_trunk_is_trained_again_where_a_branch_still_needs_its_weights(study: Path, planted):
    loss = valley(lambda run: PEAK)
    own = recorded(study, loss)
    asked, _ = study_of(str(study), [])
    branch = next(p.run for p in asked.plan.runs if p.role == "fitted")
    assert branch.branch
    own.reopen(branch.id)
    made = planted(loss)
    assert tuned(study) == 0
    again = {p.run.id for p in made if p.run.optim.peak_lr == PEAK}
    assert again == {branch.id, branch.branch.trunk}


def test_the_excess_of_a_run_is_what_its_parabola_says():
    off = Mistuning(lr_over_best=3.0, kappa=0.1)
    bottom = 2.0 * math.exp(-0.1 * math.log(3) ** 2)  # the parabola through ln 2 at a factor of 3
    assert off.excess(2.0) == pytest.approx(2.0 - bottom, rel=1e-12)
    assert Mistuning(lr_over_best=1 / 3, kappa=0.1).excess(2.0) == pytest.approx(2.0 - bottom, rel=1e-12)


def test_more_rates_add_to_those_that_are_there(study: Path, planted):
    planted(valley(lambda run: PEAK))
    assert tuned(study) == 0
    made = planted(valley(lambda run: PEAK))
    assert tuned(study, "--rates", "5", "--step", "1.41421356") == 0
    assert rates(made) == {round(2**-0.5, 6), round(2**0.5, 6)}
    (group,) = document(study.parent / "out")["groups"]
    assert {len(cell["tried"]) for cell in group["cells"]} == {7}


def test_the_table_of_the_study_says_how_far_each_run_is_off_and_what_it_costs(study: Path, planted):
    """The three columns against the planted valley; runs of groups that were not tuned have none."""
    best = 2.5 * PEAK
    own = recorded(study, valley(lambda run: best))
    planted(valley(lambda run: best))
    assert tuned(study) == 0
    rows = list(csv.DictReader((own.folder / "runs.csv").read_text().splitlines()))
    assert len(rows) == 10
    for row in rows:
        if row["group"] != "grid":
            assert row["lr_over_best"] == row["tuning_excess"] == row["tuned_loss"] == ""
            continue
        loss, excess = float(row["loss"]), float(row["tuning_excess"])
        assert float(row["lr_over_best"]) == pytest.approx(1 / 2.5, rel=0.03)
        assert excess == pytest.approx(loss * (1 - math.exp(-KAPPA * math.log(2.5) ** 2)), rel=0.1)
        assert float(row["tuned_loss"]) == pytest.approx(loss - excess, rel=1e-12)


def test_a_fit_can_leave_badly_tuned_runs_out_or_use_what_they_would_have_reached(study: Path, planted, capsys):
    drifting = valley(lambda run: PEAK * (run.tokens / 8000) ** -0.6)
    own = recorded(study, drifting)
    planted(drifting)
    assert tuned(study, "--rates", "7") == 0
    rows = [r for r in csv.DictReader((own.folder / "runs.csv").read_text().splitlines()) if r["role"] == "fitted"]
    excess = {r["run_id"]: float(r["tuning_excess"]) for r in rows}
    bound = sorted(excess.values())[4]
    kept = load_runs(own.folder, params="n_params", where=[f"tuning_excess<{bound!r}"])
    assert set(kept.run_id) == {name for name, value in excess.items() if value < bound} and 0 < len(kept) < 9
    assert kept.dropped[f"not tuning_excess<{bound!r}"] == 10 - len(kept)  # the held-out run has none
    moved = load_runs(own.folder, params="n_params", columns={"loss": "tuned_loss"})
    plain = load_runs(own.folder, params="n_params")
    assert moved.run_id == plain.run_id
    assert plain.loss - moved.loss == pytest.approx([excess[name] for name in plain.run_id])
    capsys.readouterr()
    words = ["fit", str(own.folder), "--params", "n_params", "--json"]
    assert main([*words, "--columns", "loss=tuned_loss"]) == 0 and json.loads(capsys.readouterr().out)["runs"] == 9


def test_nothing_is_said_beyond_what_was_tuned(study: Path, planted):
    """Beyond a factor of 2 in N or D, for a run planned since, and for a price beyond the parabola's reach."""
    planted(valley(lambda run: PEAK))
    assert tuned(study) == 0
    tuning = Tuning.of(study.parent / "out")
    asked, _ = study_of(str(study), [])
    runs = [p.run for p in asked.plan.runs if p.role != "trunk"]
    assert all(tuning(run, "grid") for run in runs) and tuning(runs[0], "held-out") is None
    longer, _ = study_of(str(study), ["steps=3000"])
    assert all(tuning(p.run, "grid") is None for p in longer.plan.runs if p.role != "trunk")
    narrow = {"d": (runs[0].tokens / 9, runs[0].tokens / 3)}
    beyond = Tuning(groups={"grid": replace(tuning.groups["grid"], **narrow)})
    assert beyond(runs[0], "grid") is None
    fast = replace(runs[0], optim=replace(runs[0].optim, peak_lr=PEAK * 2 * REACH), seed=3)
    off = tuning(fast, "grid")
    assert off and off.lr_over_best == pytest.approx(2 * REACH, rel=0.05) and off.excess(2.0) is None


def test_a_dry_run_writes_nothing_and_json_is_one_document(study: Path, planted, capsys):
    made = planted(valley(lambda run: PEAK))
    before = {p for p in study.parent.iterdir() if p.name != "__pycache__"}
    assert tuned(study, "--dry-run") == 0
    assert not made and {p for p in study.parent.iterdir() if p.name != "__pycache__"} == before
    capsys.readouterr()
    assert tuned(study, "--json", "--sizes", "2", "--level", "0.5") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == document(study.parent / "out") and said["level"] == 0.5
    assert said["command"].endswith("tiny.py --sizes 2 --level 0.5")


def test_everything_wrong_with_a_request_is_said_at_once_before_anything_is_made(study: Path, capsys):
    words = "--sizes x --horizons 0 --rates 2 --step 9 --seeds 0 --level 1 --group grod --workers 0".split()
    assert tuned(study, *words) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 8 and "did you mean grid" in said.err
    assert not (study.parent / "out").exists()


def test_a_folder_of_another_study_is_refused(study: Path, planted, capsys):
    planted(valley(lambda run: PEAK))
    assert tuned(study) == 0
    assert tuned(study, "--set", "optim.beta2=0.9") == 2
    assert "runs of other cells than this study's" in capsys.readouterr().err
    assert main(["tune", str(study), "--out", str(study)]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_a_broken_tuning_is_refused_by_name(study: Path, capsys):
    own = recorded(study, valley(lambda run: PEAK))
    (own.folder / "tuning.json").write_text('{"groups": 3}')
    assert main(["report", str(own.folder)]) == 2
    assert "tuning.json: not a tuning" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_tuning_survives_an_interrupt_and_repeats_the_study_at_factor_1(tmp_path: Path):
    path = tmp_path / "tiny.py"
    path.write_text(STUDY)
    words = [sys.executable, "-m", "scaling", "tune", str(path), "--out", str(tmp_path / "out"), "--workers", "1"]
    words += ["--sizes", "1", "--horizons", "2", "--rates", "3"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": os.environ | {"NPROC": "1"}}
    first = subprocess.Popen(words, start_new_session=True, **how)  # type: ignore[call-overload]
    while not list(tmp_path.glob("out/tuning/runs/*/record.json")) and first.poll() is None:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 75 and "To go on: scaling tune" in err
    done = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("out/tuning/runs/*/record.json")}
    second = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"NPROC": "1"}, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "planned" in second.stdout or "no optimum" in second.stdout
    now = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("out/tuning/runs/*/record.json")}
    assert done.items() <= now.items() and len(now) >= 9
    asked, _ = study_of(str(path), [])
    ours = {p.run.id for p in asked.plan.runs if p.run.model.d_model == 32 and p.run.tokens != 4032}
    assert len(ours) == 3 and ours <= now.keys()
