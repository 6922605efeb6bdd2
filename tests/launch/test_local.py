"""The supervisor with stand-in workers: small Python programs that speak the worker's protocol."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from scaling.launch.local import Event, FolderLock, LocalSweep, default_workers
from scaling.plan import Plan, straight, trunks
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.spec import Refusal, RunSpec

# Serves jobs with the real protocol; `make` writes a bare record and does what BEHAVIOUR says for the run's seed.
WORKER = """
import dataclasses, json, os, signal, sys, time
from pathlib import Path
from scaling.launch.worker import Stopped, serve
from scaling.record import Ledger, RunRecord

ledger, behaviour = Ledger(Path(sys.argv[1])), json.loads(sys.argv[2])

def make(runs, branch_steps, progress, stop):
    with open(ledger.folder / "populations.txt", "a") as file:
        print(len(runs), file=file)
    with open(ledger.folder / "cores.txt", "a") as file:
        print(len(os.sched_getaffinity(0)), file=file)
    for run in runs:
        yield run.id, one(run, branch_steps, progress, stop)

def one(run, branch_steps, progress, stop):
    progress({"step": 1})
    with open(ledger.folder / "order.txt", "a") as file:
        file.write(run.id + "\\n")
    act = behaviour.get(str(run.seed), "finish")
    marker = ledger.folder / f"tried-{run.id}"
    first = not marker.exists()
    marker.touch()
    if act == "crash" or (act == "crash once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "signalled once" and first:
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop():
            time.sleep(0.01)
        raise Stopped
    if act == "raise":
        raise ValueError("no such luck\\nsecond line")
    if act == "slow":
        for _ in range(600):
            if stop():
                raise Stopped
            time.sleep(0.05)
    if act == "deaf":
        time.sleep(60)
    for step in branch_steps:
        (ledger.run_folder(run.id) / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    ledger.commit(RunRecord(run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens,
        epochs=1.0, loss=1.0, loss_se=None, bits_per_byte=None, entropy=None, clock=None, data={}, machine={}))
    return "finished"

sys.exit(serve(make))
"""


class Sweep:
    """One sweep in a temporary folder, with what its stand-in workers do by seed of the run."""

    def __init__(self, folder: Path, plan: Plan, **behaviour: str):
        self.plan, self.ledger, self.stop = plan, Ledger(folder), threading.Event()
        self.seen: list[Event] = []
        commit_json(folder / "study.json", {"plan": plan.to_json()})
        script = folder / "worker.py"
        script.write_text(textwrap.dedent(WORKER))
        by_seed = json.dumps({key.removeprefix("seed"): act for key, act in behaviour.items()})
        self.command = [sys.executable, str(script), str(folder), by_seed]

    def run(self, workers: int = 2, **how):
        with FolderLock(self.ledger.folder) as lock:
            return LocalSweep(
                self.plan, self.ledger, command=self.command, workers=workers, lock=lock, seen=self.seen.append,
                stop=self.stop, **how,
            ).run()  # fmt: skip

    @property
    def order(self) -> list[str]:
        path = self.ledger.folder / "order.txt"
        return path.read_text().split() if path.exists() else []


def seeds(tiny: RunSpec, *values: int, role="fitted") -> Plan:
    from dataclasses import replace

    plan = Plan()
    for seed in values:
        plan += straight(replace(tiny, seed=seed), [tiny.model], [2000], group="grid", role=role)
    return plan


def test_every_run_is_made_once_whatever_the_number_of_workers(tiny: RunSpec, tmp_path: Path):
    for workers in (1, 3):
        sweep = Sweep(tmp_path / str(workers), seeds(tiny, *range(7)))
        outcome = sweep.run(workers)
        assert set(outcome.recorded.values()) == {"finished"} and not outcome.failed and not outcome.stopped
        assert sorted(sweep.order) == sorted(p.run.id for p in sweep.plan.runs)


def test_a_finished_sweep_starts_nothing(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1))
    sweep.run()
    before = sweep.order
    outcome = sweep.run()
    assert sweep.order == before and not outcome.recorded and not outcome.failed


def test_branches_wait_for_their_trunk(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [2000, 4000, 8000], group="grid")
    sweep = Sweep(tmp_path, plan)
    assert len(sweep.run(3).recorded) == 4
    assert sweep.order[0] == plan.runs[0].run.id


def test_a_recorded_trunk_without_its_weights_is_trained_again(tiny: RunSpec, tmp_path: Path):
    trunk = trunks(tiny, [tiny.model], [2000, 8000], group="grid")
    Sweep(tmp_path, trunk).run()
    more = trunks(tiny, [tiny.model], [2000, 4000, 8000], group="grid")
    sweep = Sweep(tmp_path, more)
    outcome = sweep.run()
    assert set(outcome.recorded) == {trunk.runs[0].run.id, more.runs[2].run.id}
    assert (sweep.ledger.run_folder(trunk.runs[0].run.id) / "record.0.json").exists()


def test_held_out_runs_start_after_the_forecast(tiny: RunSpec, tmp_path: Path):
    fitted, held_out = seeds(tiny, 0, 1, 2), seeds(tiny, 9, role="held_out")
    sweep = Sweep(tmp_path, fitted + held_out)
    at_release: list[list[str]] = []
    sweep.run(
        held_back=[p.run.id for p in held_out.runs],
        release=lambda: at_release.append([r.run.id for r in sweep.ledger]),
    )
    assert [set(ids) for ids in at_release] == [{p.run.id for p in fitted.runs}]
    assert sweep.order[-1] == held_out.runs[0].run.id


def test_a_run_that_kills_its_worker_is_tried_again_and_others_go_on(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2, 3), seed1="crash once", seed2="crash")
    outcome = sweep.run()
    ids = {p.run.seed: p.run.id for p in sweep.plan.runs}
    assert set(outcome.recorded) == {ids[0], ids[1], ids[3]}
    assert set(outcome.failed) == {ids[2]} and "signal 9" in outcome.failed[ids[2]]
    assert ids[2] not in sweep.ledger and sweep.order.count(ids[2]) == 2


def test_an_error_in_a_run_is_its_reason_and_is_not_repeated(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1), seed1="raise")
    outcome = sweep.run()
    (reason,) = outcome.failed.values()
    assert reason == "ValueError: no such luck"
    assert "second line" in "".join(p.read_text() for p in (tmp_path / "logs").glob("*.log"))


def test_branches_of_a_lost_trunk_are_failed_and_nothing_is_forecast_from_a_part(tiny: RunSpec, tmp_path: Path):
    from dataclasses import replace

    broken = trunks(replace(tiny, seed=5), [tiny.model], [2000, 4000], group="grid")
    held_out = seeds(tiny, 9, role="held_out")
    sweep = Sweep(tmp_path, broken + seeds(tiny, 0) + held_out, seed5="raise")
    released: list[bool] = []
    outcome = sweep.run(held_back=[held_out.runs[0].run.id], release=lambda: released.append(True))
    assert released == [] and "waits for fitted runs" in outcome.failed[held_out.runs[0].run.id]
    branches = [p.run.id for p in broken.runs[1:]]
    assert all(outcome.failed[run_id] == "its trunk was not trained" for run_id in branches)


@pytest.mark.parametrize("act", ["slow", "deaf"])
def test_stopping_ends_within_its_grace_and_keeps_what_is_done(
    tiny: RunSpec, tmp_path: Path, act: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scaling.launch.local.GRACE_SECONDS", 4.0)
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed1=act, seed2=act)
    timer = threading.Timer(2.0, sweep.stop.set)
    timer.start()
    started = time.monotonic()
    outcome = sweep.run()
    assert outcome.stopped and time.monotonic() - started < 2.0 + 5.0
    assert not outcome.failed
    assert {record.run.seed for record in sweep.ledger} == {0}


def test_a_worker_that_is_signalled_alone_hands_its_run_back(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed1="signalled once")
    outcome = sweep.run()
    assert len(outcome.recorded) == 3 and not outcome.failed and not outcome.stopped
    assert sweep.order.count(sweep.plan.runs[1].run.id) == 2


def test_workers_are_pinned_to_a_core_and_a_plan_of_one_run_has_them_all(tiny: RunSpec, tmp_path: Path):
    for runs in (1, 2):
        Sweep(tmp_path / str(runs), seeds(tiny, *range(runs))).run()
        cores = (tmp_path / str(runs) / "cores.txt").read_text().split()
        assert set(map(int, cores)) == {len(os.sched_getaffinity(0)) if runs == 1 else 1}


def test_runs_of_one_shape_go_to_a_worker_together(tiny: RunSpec, tmp_path: Path):
    from dataclasses import replace

    other = straight(replace(tiny, batch=4), [tiny.model], [2000], group="grid")
    sweep = Sweep(tmp_path, seeds(tiny, *range(5)) + other)
    outcome = sweep.run(1, population=4)
    assert len(outcome.recorded) == 6 and sorted(sweep.order) == sorted(p.run.id for p in sweep.plan.runs)
    assert sorted(map(int, (tmp_path / "populations.txt").read_text().split())) == [1, 1, 4]


@pytest.mark.parametrize("act", ["raise", "crash"])
def test_a_member_that_breaks_a_population_stops_no_other(tiny: RunSpec, tmp_path: Path, act: str):
    sweep = Sweep(tmp_path, seeds(tiny, *range(4)), seed2=act)
    outcome = sweep.run(1, population=4)
    ids = {p.run.seed: p.run.id for p in sweep.plan.runs}
    assert set(outcome.recorded) == {ids[0], ids[1], ids[3]} and set(outcome.failed) == {ids[2]}


def test_a_population_whose_worker_is_signalled_is_handed_back(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, *range(3)), seed1="signalled once")
    outcome = sweep.run(1, population=3)
    assert len(outcome.recorded) == 3 and not outcome.failed and not outcome.stopped


def test_one_sweep_at_a_time_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scaling.launch.local.TAKEOVER_SECONDS", 0.2)
    with FolderLock(tmp_path):
        with pytest.raises(Refusal, match="another sweep"):
            FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass


def test_workers_end_with_their_supervisor_and_free_the_folder(tiny: RunSpec, tmp_path: Path):
    """A supervisor killed with -9 leaves nobody behind who could write into the folder."""
    sweep = Sweep(tmp_path, seeds(tiny, 0), seed0="deaf")
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path; from scaling.launch.local import FolderLock; "
        "lock = FolderLock(Path(sys.argv[1])); "
        "child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, "
        "pass_fds=(lock.fileno(),), start_new_session=True); "
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *sweep.command], capture_output=True, text=True)
    assert done.returncode == -9
    with FolderLock(tmp_path):  # waits for the worker's copy of the lock
        pass


def test_a_cpu_has_a_worker_a_core_and_an_accelerator_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert default_workers() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert default_workers() == 1
