"""A sweep of several participants and their worker processes over one bucket (tests/bucket, shared by processes)."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from scaling.cli import main
from scaling.launch.local import LocalSweep, Outcome, Stop
from scaling.plan import Analysis, Plan, Study, straight, trunks
from scaling.record import Ledger
from scaling.record.claims import Holder
from scaling.record.files import commit_json, create_text, folder_of, names
from scaling.spec import RunSpec

# Serves jobs with the real protocol; dies once on seed 1, cannot make seed 2, and says what it made.
WORKER = """
import os, signal, sys, uuid
from scaling.launch.worker import Failed, serve
from scaling.record import Ledger, RunRecord
from scaling.record.files import commit_text, create_text, folder_of

folder = folder_of("gs://bucket/study")
ledger = Ledger(folder)

def make(job, progress, stop):
    for run in job.runs:
        for claim in job.claims:
            claim.check(folder)
        if run.seed == 1 and create_text(folder / "died", "once"):
            os.kill(os.getpid(), signal.SIGKILL)
        if run.seed == 2:
            raise Failed("error", "no such luck")
        commit_text(folder / "made" / f"{run.id}.{uuid.uuid4().hex}", "")
        for step in job.branch_steps:
            upload = ledger.run_folder(run.id) / "checkpoints" / f"{step}.{uuid.uuid4().hex}"
            commit_text(upload / "manifest.json", "{}")
        ledger.commit(RunRecord(run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens,
            epochs=1.0, loss=1.0, loss_se=None, bits_per_byte=None, entropy=None, clock=None, data={}, machine={}))
        yield run.id, "finished"

sys.exit(serve(make))
"""


@pytest.fixture
def folder(bucket: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "objects").mkdir()
    monkeypatch.setattr(bucket, "objects", bucket.Shared(tmp_path / "objects"))
    monkeypatch.setenv("SCALING_TEST_BUCKET", str(tmp_path / "objects"))
    here = [str(Path(bucket.__file__).parent), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("scaling.launch.local.STORE_LOOK_SECONDS", 0.2)
    return folder_of("gs://bucket/study")


def seeds(tiny: RunSpec, *values: int) -> Plan:
    plan = Plan()
    for seed in values:
        plan += straight(replace(tiny, seed=seed), [tiny.model], [2000], group="grid")
    return plan


def test_participants_share_a_bucket_and_finish_no_run_twice(folder: Path, tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1, 2, 3, 4) + trunks(tiny, [tiny.model], [2000, 4000], group="grid")
    ledger, outcomes = Ledger(folder), []
    commit_json(folder / "study.json", {"plan": plan.to_json()})
    (tmp_path / "worker.py").write_text(WORKER)

    def take_part() -> None:
        with Holder(folder) as holder:
            command = [sys.executable, str(tmp_path / "worker.py")]
            sweep = LocalSweep(plan, ledger, command=command, workers=1, holder=holder, stop=Stop())
            outcomes.append(sweep.run())

    threads = [threading.Thread(target=take_part) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = next(p.run.id for p in plan.runs if p.run.seed == 2)
    made = [name.partition(".")[0] for name in names(folder / "made")]
    assert sorted(made) == sorted(p.run.id for p in plan.runs if p.run.id != failed)
    assert all(p.run.id in ledger for p in plan.runs if p.run.id != failed)
    assert (folder / "died").is_file() and not create_text(folder / "died", "twice")
    log = ledger.failure(failed).log.partition(":")[2]
    assert Path(log).is_file() and not log.startswith("gs:")
    assert not names(folder / "holders") and not [*folder.glob("runs/*/claim.*")]
    assert {run_id for outcome in outcomes for run_id in outcome.failed} == {failed}


def test_the_command_takes_part_in_a_bucket(folder: Path, tiny: RunSpec, monkeypatch: pytest.MonkeyPatch, capsys):
    plan = seeds(tiny, 1)
    study = Study(name="s", question="?", plan=plan, analysis=Analysis(laws=("chinchilla",)))
    commit_json(folder / "study.json", study.to_json())
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome())
    assert main(["work", str(folder)]) == 0, capsys.readouterr().err
    assert (folder / "runs.csv").is_file() and not names(folder / "holders")


def test_a_store_that_stops_answering_ends_the_sweep_and_says_so(folder: Path, tiny: RunSpec, bucket: ModuleType):
    plan: Plan = seeds(tiny, 1)
    commit_json(folder / "study.json", {"plan": plan.to_json()})

    def down(what: str, name: str) -> None:
        raise bucket.HttpError("503")

    with Holder(folder) as holder:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        sweep = LocalSweep(plan, Ledger(folder), command=command, workers=1, holder=holder, stop=Stop())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket, "before", down)
            outcome: Outcome = sweep.run()
    (failure,) = outcome.failed.values()
    assert failure.kind == "folder_lost" and "503" in failure.reason
