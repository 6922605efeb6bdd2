"""The supervisor with stand-in workers: small Python programs that speak the worker's protocol."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.launch.local import LocalSweep, Outcome, Stop, default_workers
from scaling.launch.process import Event
from scaling.plan import Plan, straight, trunks
from scaling.record import Ledger, claims
from scaling.record.claims import Holder
from scaling.record.files import commit_json, create_text
from scaling.spec import Refusal, RunSpec

# Serves jobs with the real protocol; `make` writes a bare record and does what BEHAVIOUR says for the run's seed.
WORKER = """
import dataclasses, json, os, shutil, signal, sys, time
from pathlib import Path
from scaling.launch.worker import Failed, Stopped, serve
from scaling.record import Ledger, RunRecord

ledger, behaviour = Ledger(Path(sys.argv[1])), json.loads(sys.argv[2])

def make(job, progress, stop):
    with open(ledger.folder / "populations.txt", "a") as file:
        print(len(job.runs), file=file)
    with open(ledger.folder / "cores.txt", "a") as file:
        print(len(os.sched_getaffinity(0)), file=file)
    for run in job.runs:
        yield run.id, one(run, job.branch_steps, progress, stop)

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
    if act == "deaf" or (act == "hang once" and first):
        progress({"phase": "train"})
        time.sleep(60)
    if act == "slow steps":
        for step in range(4):
            progress({"phase": "train"})
            time.sleep(0.2 + 0.3 * (step == 3))
    if act == "raise once" and first:
        raise ValueError("no such luck")
    if act == "crash thrice":
        times = ledger.folder / f"times-{run.id}"
        tried = int(times.read_text()) if times.exists() else 0
        times.write_text(str(tried + 1))
        if tried < 3:
            os.kill(os.getpid(), signal.SIGKILL)
    if act == "lose the trunk once" and run.branch and first:
        shutil.rmtree(ledger.run_folder(run.branch.trunk) / "checkpoints")
        raise Failed("trunk_lost", "its weights are gone")
    if act == "lose the trunk one after the other":
        if run.branch and first:
            shutil.rmtree(ledger.run_folder(run.branch.trunk) / "checkpoints", ignore_errors=True)
            time.sleep(0.0 if run.steps < 60 else 0.7)
            raise Failed("trunk_lost", "its weights are gone")
        if not run.branch and not first:
            time.sleep(2.0)
    for step in branch_steps:
        saved = ledger.run_folder(run.id) / "checkpoints" / str(step)
        saved.mkdir(parents=True, exist_ok=True)
        (saved / "manifest.json").touch()  # what a supervisor asks for
    ledger.commit(RunRecord(run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens,
        epochs=1.0, loss=1.0, loss_se=None, bits_per_byte=None, entropy=None, clock=None, data={}, machine={}))
    return "finished"

sys.exit(serve(make))
"""


class Sweep:
    """One sweep in a temporary folder, with what its stand-in workers do by seed of the run."""

    def __init__(self, folder: Path, plan: Plan, **behaviour: str):
        self.plan, self.ledger, self.stop = plan, Ledger(folder), Stop()
        self.seen: list[Event] = []
        commit_json(folder / "study.json", {"plan": plan.to_json()})
        script = folder / "worker.py"
        script.write_text(textwrap.dedent(WORKER))
        by_seed = json.dumps({key.removeprefix("seed"): act for key, act in behaviour.items()})
        self.command = [sys.executable, str(script), str(folder), by_seed]

    def run(self, workers: int = 2, **how):
        with Holder(self.ledger.folder) as holder:
            return LocalSweep(
                self.plan, self.ledger, command=self.command, workers=workers, holder=holder, seen=self.seen.append,
                stop=self.stop, **how,
            ).run()  # fmt: skip

    @property
    def order(self) -> list[str]:
        path = self.ledger.folder / "order.txt"
        return path.read_text().split() if path.exists() else []


def seeds(tiny: RunSpec, *values: int, role="fitted") -> Plan:
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
    assert set(outcome.failed) == {ids[2]} and "signal 9" in outcome.failed[ids[2]].reason
    assert ids[2] not in sweep.ledger and sweep.order.count(ids[2]) == 3


def test_an_error_in_a_run_is_its_reason_and_is_not_repeated(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1), seed1="raise")
    outcome = sweep.run()
    (failure,) = outcome.failed.values()
    assert failure == sweep.ledger.failure(sweep.plan.runs[1].run.id)
    assert (failure.kind, failure.reason) == ("error", "ValueError: no such luck")
    assert "second line" in "".join(p.read_text() for p in (tmp_path / "logs").glob("*.log"))


def test_branches_of_a_lost_trunk_are_failed_and_nothing_is_forecast_from_a_part(tiny: RunSpec, tmp_path: Path):
    broken = trunks(replace(tiny, seed=5), [tiny.model], [2000, 4000], group="grid")
    held_out = seeds(tiny, 9, role="held_out")
    sweep = Sweep(tmp_path, broken + seeds(tiny, 0) + held_out, seed5="raise")
    released: list[bool] = []
    outcome = sweep.run(held_back=[held_out.runs[0].run.id], release=lambda: released.append(True))
    assert released == [] and "waits for fitted runs" in outcome.failed[held_out.runs[0].run.id].reason
    branches = [p.run.id for p in broken.runs[1:]]
    assert all(outcome.failed[run_id].reason == "its trunk was not trained" for run_id in branches)


@pytest.mark.parametrize("act", ["slow", "deaf"])
def test_stopping_ends_within_its_grace_and_keeps_what_is_done(
    tiny: RunSpec, tmp_path: Path, act: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scaling.launch.local.GRACE_SECONDS", 4.0)
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed1=act, seed2=act)
    timer = threading.Timer(2.0, sweep.stop.ask)
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


def test_workers_end_with_their_supervisor_and_its_claims_are_free(tiny: RunSpec, tmp_path: Path):
    """A supervisor killed with -9 leaves nobody behind who could write into the folder."""
    sweep = Sweep(tmp_path, seeds(tiny, 0), seed0="deaf")
    run_id = sweep.plan.runs[0].run.id
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path; from scaling.record.claims import Holder; "
        "holder = Holder(Path(sys.argv[1])); holder.claim(sys.argv[2]); "
        "child = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, "
        "pass_fds=holder.files, start_new_session=True); "
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    words = [sys.executable, "-c", code, str(tmp_path), run_id, *sweep.command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -9
    with Holder(tmp_path) as mine:
        deadline = time.monotonic() + 5
        while mine.claim(run_id) is None:  # as long as the worker has its copy of the lock
            assert time.monotonic() < deadline
            time.sleep(0.05)


def together(*sweeps: Sweep, **how) -> list[Outcome]:
    """Several participants at once."""
    with ThreadPoolExecutor(len(sweeps)) as pool:
        return list(pool.map(lambda sweep: sweep.run(1, **how), sweeps))


def test_participants_share_the_runs_and_finish_none_twice(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, *range(8)) + trunks(replace(tiny, seed=9), [tiny.model], [2000, 4000], group="grid")
    outcomes = together(*[Sweep(tmp_path, plan) for _ in range(3)])
    order = (tmp_path / "order.txt").read_text().split()
    assert sorted(order) == sorted(p.run.id for p in plan.runs)
    for outcome in outcomes:  # each knows in the end what the others made
        assert set(outcome.recorded) == set(order) and not outcome.failed
    assert not list(tmp_path.glob("runs/*/claim.*")) and not list((tmp_path / "holders").iterdir())


def test_who_does_not_linger_leaves_what_others_have_in_hand(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 0)
    with Holder(tmp_path) as other:
        other.claim(plan.runs[0].run.id)
        outcome = Sweep(tmp_path, plan).run(1, linger=False)
    assert not outcome.recorded and not outcome.failed


def test_branches_of_a_trunk_in_other_hands_are_left_to_these(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [2000, 4000], group="grid")
    with Holder(tmp_path) as other:
        other.claim(plan.runs[0].run.id)
        outcome = Sweep(tmp_path, plan).run(1, linger=False)
    assert not outcome.recorded and not outcome.failed


def test_who_does_not_linger_still_waits_for_what_may_be_in_dead_hands(
    tiny: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A participant on another machine that died says nothing of it: its run is taken over after the lease."""
    monkeypatch.setattr(claims, "kernel", lambda: "")
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(claims.Holder, "_live", lambda self: None)
    plan = seeds(tiny, 0)
    with Holder(tmp_path) as other:
        other.claim(plan.runs[0].run.id)
        assert [*Sweep(tmp_path, plan).run(1, linger=False).recorded] == [plan.runs[0].run.id]


def test_who_lingers_goes_on_with_the_runs_of_the_dead(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 0)
    other = Holder(tmp_path)
    other.claim(plan.runs[0].run.id)
    threading.Timer(1.5, other.__exit__).start()
    assert [*Sweep(tmp_path, plan).run(1).recorded] == [plan.runs[0].run.id]


def test_a_participant_asked_for_some_runs_makes_no_other(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2))
    wanted = sweep.plan.runs[1].run.id
    assert [*sweep.run(only=[wanted]).recorded] == sweep.order == [wanted]


def test_a_silent_worker_is_killed_and_its_run_tried_again(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1), seed1="hang once")
    outcome = sweep.run(patience=1.0)
    assert len(outcome.recorded) == 2 and sweep.order.count(sweep.plan.runs[1].run.id) == 2


def test_a_run_that_always_hangs_is_given_up_as_that(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1), seed1="deaf")
    outcome = sweep.run(patience=0.5)
    (failure,) = outcome.failed.values()
    assert failure.kind == "hang" and failure.attempts == 3 and len(outcome.recorded) == 1


def test_a_slow_worker_is_not_taken_to_hang(tiny: RunSpec, tmp_path: Path):
    """Silence is judged by the pace of the run itself."""
    outcome = Sweep(tmp_path, seeds(tiny, 0), seed0="slow steps").run(patience=0.5)
    assert len(outcome.recorded) == 1


def test_what_failed_for_good_is_tried_again_only_when_asked(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed1="raise once", seed2="crash thrice")
    ids = {p.run.seed: p.run.id for p in sweep.plan.runs}
    assert {i: f.kind for i, f in sweep.run().failed.items()} == {ids[1]: "error", ids[2]: "crash"}
    again = sweep.run()
    assert set(again.recorded) == {ids[2]} and {i: f.kind for i, f in again.failed.items()} == {ids[1]: "error"}
    assert set(sweep.run(retry=True).recorded) == {ids[1]}
    assert not list(tmp_path.glob("runs/*/failure.json"))


def test_a_lost_trunk_is_trained_again_for_its_branch(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [2000, 8000], group="grid")
    Sweep(tmp_path, plan).run()
    ledger, (trunk, *branches) = Ledger(tmp_path), [p.run for p in plan.runs]
    ledger.reopen(branches[0].id)
    (tmp_path / f"tried-{branches[0].id}").unlink()
    sweep = Sweep(tmp_path, plan, **{f"seed{tiny.seed}": "lose the trunk once"})
    assert set(sweep.run().recorded) == {trunk.id, branches[0].id}
    assert sweep.order[-3:] == [branches[0].id, trunk.id, branches[0].id]


def test_a_trunk_that_several_branches_miss_is_trained_by_one_worker(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [2000, 8000], group="grid")
    Sweep(tmp_path, plan).run()
    ledger, (trunk, *branches) = Ledger(tmp_path), [p.run for p in plan.runs]
    for branch in branches:
        ledger.reopen(branch.id)
        (tmp_path / f"tried-{branch.id}").unlink()
    (tmp_path / "order.txt").unlink()
    sweep = Sweep(tmp_path, plan, **{f"seed{tiny.seed}": "lose the trunk one after the other"})
    assert set(sweep.run().recorded) == {trunk.id, *(branch.id for branch in branches)}
    assert sweep.order.count(trunk.id) == 1, "the second to miss it waits for the first one's"


def test_a_second_request_to_stop_is_obeyed_at_once(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1), seed0="deaf", seed1="deaf")
    asked: list[float] = []

    def twice() -> None:
        sweep.stop.ask()
        asked.append(time.monotonic())
        sweep.stop.ask()

    threading.Timer(2.0, twice).start()
    assert sweep.run().stopped and time.monotonic() - asked[0] < 1.0


def test_workers_that_cannot_start_are_not_started_for_ever(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1))
    (tmp_path / "worker.py").write_text("import sys; sys.exit('no such module')")
    reasons = {failure.reason for failure in sweep.run().failed.values()}
    assert reasons == {"workers end before they are ready: no such module"}


def test_what_a_worker_says_that_is_no_event_is_passed_over(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path, seeds(tiny, 0, 1))
    script = tmp_path / "worker.py"
    noise = "for said in ('a plugin says hello', '[1, 2]', '{\"no\": \"event\"}', 'null'): print(said, flush=True)\n"
    script.write_text(noise + script.read_text())
    assert set(sweep.run().recorded.values()) == {"finished"}


@pytest.mark.parametrize("error, kind", [(errno.ENOSPC, "disk_full"), (errno.EIO, "folder_lost")])
def test_a_claim_that_cannot_be_written_ends_the_sweep_when_nothing_is_in_hand(
    tiny: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, kind: str
):
    sweep, made = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed0="slow steps"), []

    def claimed(path: Path, text: str) -> bool:
        made.append(path)
        if len(made) > 1:
            raise OSError(error, os.strerror(error))
        return create_text(path, text)

    monkeypatch.setattr(claims, "create_text", claimed)
    outcome = sweep.run()
    if kind == "disk_full":
        assert len(outcome.recorded) == 1, "what is in hand goes on to its end"
    assert {failure.kind for failure in outcome.failed.values()} == {kind}
    assert len(outcome.failed) + len(outcome.recorded) == 3


def test_a_disk_that_has_room_again_is_used_again(tiny: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sweep, made = Sweep(tmp_path, seeds(tiny, 0, 1, 2), seed0="slow steps"), []

    def claimed(path: Path, text: str) -> bool:
        made.append(path)
        if len(made) == 2:
            raise OSError(errno.ENOSPC, "no room")
        return create_text(path, text)

    monkeypatch.setattr(claims, "create_text", claimed)
    assert len(sweep.run().recorded) == 3


def test_nothing_is_written_by_way_of_a_link_in_a_strangers_folder(tiny: RunSpec, tmp_path: Path):
    sweep = Sweep(tmp_path / "out", seeds(tiny, 0))
    (tmp_path / "away").mkdir()
    (tmp_path / "out" / "logs").symlink_to(tmp_path / "away")
    with pytest.raises(Refusal, match="is a link"):
        sweep.run()
    (tmp_path / "out" / "logs").unlink()
    (tmp_path / "out" / "logs").mkdir()
    (tmp_path / "out" / "logs" / "worker-0.log").symlink_to(tmp_path / "away" / "x")
    with pytest.raises(OSError):
        sweep.run()
    assert not list((tmp_path / "away").iterdir())


def test_a_folder_that_is_taken_away_ends_the_sweep_with_that_reason(tiny: RunSpec, tmp_path: Path):
    folder = tmp_path / "here"
    sweep = Sweep(folder, seeds(tiny, 0, 1), seed0="slow", seed1="slow")
    threading.Timer(2.0, lambda: folder.rename(tmp_path / "there")).start()
    failures = sweep.run().failed.values()
    assert {failure.kind for failure in failures} == {"folder_lost"} and len(failures) == 2


def test_a_cpu_has_a_worker_a_core_and_an_accelerator_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert default_workers() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert default_workers() == 1
