"""The whole way, tiny: from a study file to a report, through kills and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.storms import kills
from benchmarks.storms.ground import Ground
from tests.cli.test_cli import STUDY

ONE_CORE = {"NPROC": "1"}


def start(folder: Path, *words: str) -> subprocess.Popen:
    path = folder / "tiny.py"
    path.write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, "-m", "scaling", "run", str(path), "--out", str(folder / "out"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_CORE, start_new_session=True,
    )  # fmt: skip


def finish(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    status, out, err = finish(folder)
    assert status == 0, err
    assert "forecast" in out
    return folder / "out"


def record_times(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/record.json")}


def test_a_study_ends_in_a_table_fits_a_scored_forecast_and_a_page(reference: Path):
    for name in ("study.json", "runs.csv", "forecast.json", "fits/chinchilla.json", "fits/score.json", "report.html"):
        assert (reference / name).stat().st_size > 0, name
    forecasts = json.loads((reference / "forecast.json").read_text())
    scores = json.loads((reference / "fits/score.json").read_text())
    assert [f["run_id"] for f in forecasts] == [s["run_id"] for s in scores]
    assert len((reference / "runs.csv").read_text().splitlines()) == 1 + 10
    records = [json.loads(path.read_text()) for path in reference.glob("runs/*/record.json")]
    assert len(records) == 13
    for record in records:
        assert record["status"] == "finished" and record["machine"]["jax"] and record["data"]["source"] == "zipf-facts"


def test_the_forecast_was_written_before_its_run_began(reference: Path):
    (forecast,) = json.loads((reference / "forecast.json").read_text())
    begun = (reference / "runs" / forecast["run_id"] / "spec.json").stat().st_mtime_ns
    assert (reference / "forecast.json").stat().st_mtime_ns <= begun


def test_a_folder_and_its_table_mean_the_same_fit(reference: Path):
    fits = [
        subprocess.run(
            [sys.executable, "-m", "scaling", "fit", str(path), "--params", "n_params", "--json"],
            capture_output=True, text=True, check=True,
        ).stdout
        for path in (reference, reference / "runs.csv")
    ]  # fmt: skip
    assert fits[0] == fits[1] and json.loads(fits[0])["runs"] == 9


def test_kill_nine_at_any_moment_loses_nothing(reference: Path, tmp_path: Path):
    """Killed at random moments and started again: no finished run is trained twice, and every result is the same."""
    saving_often = {"scaling.train.loop.CHECKPOINT_SECONDS": 0.0}
    ground = Ground(tmp_path, STUDY, saving_often, cache=Path(os.environ["XDG_CACHE_HOME"]))
    ground.undisturbed_is(reference, seconds=8.0)
    row = kills.storm(ground, seed=0, short=True, tries=4)
    assert row.tries == row.survived == 4, row.found


def test_interrupting_leaves_soon_and_says_how_to_go_on(reference: Path, tmp_path: Path):
    process = start(tmp_path)
    time.sleep(4)
    os.kill(process.pid, signal.SIGINT)
    interrupted = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - interrupted < 5
    assert process.returncode == 75 and "To go on: scaling run" in err
    assert finish(tmp_path)[0] == 0
    assert (tmp_path / "out" / "runs.csv").read_bytes() == (reference / "runs.csv").read_bytes()


def test_a_finished_study_trains_nothing_and_reports_again(reference: Path):
    before, page = record_times(reference), (reference / "report.html").read_bytes()
    status, _, err = finish(reference.parent)
    assert status == 0 and "nothing left to train" in err
    assert record_times(reference) == before and (reference / "report.html").read_bytes() == page


def test_a_diverged_run_is_a_result_and_the_rest_goes_on(tmp_path: Path):
    status, _, err = finish(
        tmp_path, "--set", "optim.peak_lr=1e38", "--set", "optim.clip_norm=1e38", "--set", "optim.name=sgd"
    )
    assert status == 1
    assert "diverged" in err and "not finite at step" in err
    rows = (tmp_path / "out" / "runs.csv").read_text().splitlines()
    assert len(rows) == 11 and all(",diverged," in row for row in rows[1:])
