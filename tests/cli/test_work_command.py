"""Taking part in the sweep of a folder, up to where a worker would start."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli import main, sweep
from scaling.launch.local import Outcome
from scaling.plan import Analysis, Plan, Study, straight
from scaling.record import Failure, Ledger
from scaling.record.claims import Holder
from scaling.record.files import commit_json
from scaling.spec import RunSpec
from tests.record.test_record import record_of

EXPERIMENT = """
from scaling.plan import Analysis, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=8, d_ff=16, d_head=8, vocab_size=192, context=12)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=1e-2, warmup_steps=2, cooldown_steps=4),
               data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=1200), batch=8, steps=20)
STUDY = Study(name="tiny", question="?", plan=straight(BASE, [MODEL], [1920, HORIZON], group="grid"),
              analysis=Analysis(laws=("chinchilla",)))
"""


@pytest.fixture
def folder(tmp_path: Path, tiny: RunSpec) -> Path:
    plan = straight(tiny, [tiny.model], [1920, 3840], group="grid")
    study = Study(name="s", question="?", plan=plan, analysis=Analysis(laws=("chinchilla",)))
    commit_json(tmp_path / "study.json", study.to_json())
    return tmp_path


@pytest.fixture
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome())


@pytest.mark.parametrize(
    "words, said",
    [
        (["--workers", "0"], "--workers = 0: must be at least 1"),
        (["--patience", "0"], "--patience = 0.0: must be a positive number of seconds"),
        (["--only", "a" * 12], "plans no such run"),
        (["--population", "-1"], "--population = -1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_rule(folder: Path, words: list[str], said: str, capsys):
    assert main(["work", str(folder), *words]) == 2
    assert said in capsys.readouterr().err


def test_every_fault_of_a_request_is_said_at_once(folder: Path, capsys):
    assert main(["work", str(folder), "--workers", "0", "--patience", "-1", "--only", "x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_folder_without_a_study_is_refused_and_stays_empty(tmp_path: Path, capsys):
    assert main(["work", str(tmp_path)]) == 2
    assert "not a results folder" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_another_plan_is_refused_while_somebody_is_at_work(tmp_path: Path, nothing_trains, capsys):
    experiment, out = tmp_path / "tiny.py", tmp_path / "out"
    experiment.write_text(EXPERIMENT.replace("HORIZON", "3840"))
    assert main(["run", str(experiment), "--out", str(out)]) == 1
    with Holder(out):
        capsys.readouterr()
        assert main(["run", str(experiment), "--out", str(out)]) == 1, "the same plan is joined"
        before = (out / "study.json").read_bytes()
        experiment.write_text(EXPERIMENT.replace("HORIZON", "5760"))
        assert main(["run", str(experiment), "--out", str(out)]) == 2
        assert "is at work there on another plan" in capsys.readouterr().err
    assert (out / "study.json").read_bytes() == before
    assert main(["run", str(experiment), "--out", str(out)]) == 1
    assert len(json.loads((out / "study.json").read_text())["plan"]) == 2


def test_who_takes_part_has_the_cores_that_the_sweep_was_begun_with(tmp_path: Path, monkeypatch, capsys):
    """Several threads sum in another order: one folder holds runs of one kind."""
    asked = []
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: asked.append(self._single) or Outcome())
    experiment = tmp_path / "tiny.py"
    experiment.write_text(EXPERIMENT.replace("HORIZON", "3840"))
    for begun, single in (("2", True), ("1", False)):
        out = tmp_path / begun
        main(["run", str(experiment), "--out", str(out), "--workers", begun])
        ledger = Ledger(out)
        ledger.commit(record_of(Plan.from_json(ledger.study()["plan"]).runs[0].run))
        for workers in ("1", "2"):
            main(["run", str(experiment), "--out", str(out), "--workers", workers])
            main(["work", str(out), "--workers", workers])
        assert asked == [single] * 5
        asked.clear()
    assert "as this sweep was begun with" in capsys.readouterr().err


def test_who_has_another_text_or_none_takes_no_part(tmp_path: Path, tiny: RunSpec, monkeypatch, nothing_trains, capsys):
    text = tmp_path / "text"
    text.write_bytes(bytes(range(97, 123)) * 4000)
    source = {"source": f"text:{text}"}
    run = replace(tiny, data=replace(tiny.data, **source), model=replace(tiny.model, vocab_size=256))
    study = Study(name="s", question="?", plan=straight(run, [run.model], [1920, 3840], group="grid"))
    ledger, folder = Ledger(tmp_path / "out"), str(tmp_path / "out")
    with Holder(ledger.folder) as holder:
        sweep.lay_down(study, ledger, holder, "", 1)
    assert main(["work", folder]) == 0
    (ledger.begin(study.plan.runs[0].run) / "metrics.jsonl").write_text('{"step": 1}\n')
    text.write_bytes(bytes(range(97, 123)) * 4001)
    capsys.readouterr()
    assert main(["work", folder]) == 2
    assert "its text is another than that of the runs" in capsys.readouterr().err
    text.unlink()
    assert main(["work", folder]) == 2
    assert "data.source" in capsys.readouterr().err


def test_the_table_is_written_by_the_last_to_leave(folder: Path, tiny: RunSpec, nothing_trains):
    with Holder(folder):
        assert main(["work", str(folder)]) == 0
        assert not (folder / "runs.csv").exists(), "another is at work, whose table would be newer"
    assert main(["work", str(folder)]) == 0
    assert (folder / "runs.csv").exists()


def test_a_folder_that_went_away_is_a_failure_and_not_a_refusal(folder: Path, tmp_path: Path, monkeypatch, capsys):
    lost = Failure(kind="folder_lost", reason="gone")

    def run(self) -> Outcome:
        folder.rename(tmp_path.with_name(tmp_path.name + "-away"))
        return Outcome(failed={p["id"]: lost for p in study["plan"]})

    study = Ledger(folder).study()
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", run)
    assert main(["work", str(folder)]) == 1
    assert "failed (folder_lost)" in capsys.readouterr().err and not folder.exists()


def test_what_is_not_finished_is_said_with_its_reason_and_the_way_out(folder: Path, monkeypatch, capsys):
    ledger = Ledger(folder)
    first, second = (planned["id"] for planned in ledger.study()["plan"])
    failures = {
        first: Failure(kind="disk_full", reason="no [room] left", attempts=1, log="logs/worker-0.log"),
        second: Failure(kind="blocked", reason="its trunk was not trained"),
    }
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome(failed=failures))
    assert main(["work", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "no [room] left; see logs/worker-0.log; make room" in err
    assert "its trunk was not trained" in err


@pytest.mark.parametrize("number", sweep.SIGNALS)
def test_every_signal_to_end_leaves_with_75_whatever_is_under_way(folder: Path, monkeypatch, number, capsys):
    """Here in the closing, which no supervisor watches."""
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome())

    def signalled(ledger: Ledger) -> None:
        import signal

        signal.raise_signal(number)
        threading.Event().wait(10)

    monkeypatch.setattr("scaling.cli.sweep.table.write", signalled)
    assert main(["work", str(folder)]) == 75
    assert "the same command goes on" in capsys.readouterr().err
