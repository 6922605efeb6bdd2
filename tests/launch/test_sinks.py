"""Curves copied to trackers: a stand-in that remembers, and the real ones where they are installed."""

import json
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli.main import main
from scaling.cli.progress import label
from scaling.launch import mirror
from scaling.launch.local import Event
from scaling.launch.mirror import Copier, Mirror
from scaling.launch.sinks import TensorBoard, WandB, missing
from scaling.plan import Plan, straight
from scaling.record import Ledger, RunRecord
from scaling.record.files import commit_json, commit_text
from scaling.spec import RunSpec


class Told:
    """Remembers every word; `rows` by run."""

    name = "told"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.rows: dict[str, list[int]] = {}
        self.ended: dict[str, dict | None] = {}
        self.values: dict[int, dict] = {}
        self.closed = False

    def begin(self, run_id, config):
        assert {"name", "group", "role", "run"} == set(config)
        self.begun.append(run_id)

    def row(self, run_id, step, values):
        assert run_id in self.begun and run_id not in self.ended
        self.rows.setdefault(run_id, []).append(step)
        self.values[step] = values

    def end(self, run_id, summary):
        self.ended[run_id] = summary

    def close(self):
        self.closed = True


def row(step: int, loss: float = 2.5) -> str:
    return json.dumps({"step": step, "tokens": 96 * step, "loss": loss + 1 / step, "lr": 0.01}) + "\n"


@pytest.fixture
def plan(tiny: RunSpec) -> Plan:
    plan = Plan()
    for seed in range(3):
        plan += straight(replace(tiny, seed=seed), [tiny.model], [2000], group="grid")
    return plan


@pytest.fixture
def ledger(tmp_path: Path, plan: Plan) -> Ledger:
    commit_json(tmp_path / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": plan.to_json()})
    return Ledger(tmp_path)


@pytest.fixture(autouse=True)
def a_short_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.01)


def log(ledger: Ledger, run: RunSpec, *steps: int) -> Path:
    path = ledger.begin(run) / "metrics.jsonl"
    with open(path, "a") as file:
        file.write("".join(map(row, steps)))
    return path


def finish(ledger: Ledger, run: RunSpec) -> None:
    ledger.commit(RunRecord(
        run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0, loss=1.5,
        loss_se=0.01, bits_per_byte=None, entropy=None, clock=None, data={}, machine={},
    ))  # fmt: skip


def progress(run: RunSpec, *others: RunSpec, worker: int = 0) -> Event:
    values = {"phase": "compile", "ids": [run.id, *(o.id for o in others)]}
    return Event(kind="progress", worker=worker, run_id=run.id, values=values)


def until(true) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_every_row_of_the_runs_in_hand_is_told_once_and_in_order(ledger: Ledger, plan: Plan):
    sink, (one, two, three) = Told(), [p.run for p in plan.runs]
    log(ledger, three, 1)  # another participant's
    with Mirror("told", lambda: sink, ledger, plan, label) as see:
        see(progress(one, two))
        for step in (1, 2, 3):
            log(ledger, one, step)
            log(ledger, two, step)
            see(progress(one, two))
            until(lambda step=step: all(sink.rows.get(r.id, [0])[-1] == step for r in (one, two)))
        log(ledger, one, 4)
        finish(ledger, one)
        see(Event(kind="done", worker=0, run_id=one.id, values={"status": "finished"}))
        until(lambda: one.id in sink.ended)
        log(ledger, two, 4)
    assert sink.rows == {one.id: [1, 2, 3, 4], two.id: [1, 2, 3, 4]} and sink.closed
    assert sink.ended[one.id]["loss"] == 1.5 and sink.ended[two.id] is None
    assert sink.values[4] == {"tokens": 384, "loss": 2.75, "lr": 0.01}


def test_whoever_goes_on_with_a_run_tells_no_step_twice(ledger: Ledger, plan: Plan):
    run, told = plan.runs[0].run, []
    for rows in ((1, 2, 3), (2, 3, 4, 5), (4,), (4, 5, 6)):  # the curve as each participant finds it: some went back
        sink = Told()
        commit_text(ledger.begin(run) / "metrics.jsonl", "".join(map(row, rows)))
        with Mirror("told", lambda sink=sink: sink, ledger, plan, label) as see:
            see(progress(run))
        told += sink.rows.get(run.id, [])
        assert bool(sink.begun) == bool(sink.rows)
    assert told == [1, 2, 3, 4, 5, 6]


def test_a_curve_that_goes_back_while_it_is_watched_is_not_told_again(ledger: Ledger, plan: Plan):
    sink, run = Told(), plan.runs[0].run
    copier = Copier(sink, ledger, label)
    path = log(ledger, run, 1, 2, 3)
    copier.begin(plan.runs[0])
    copier.copy()
    commit_text(path, row(1))
    copier.copy()
    log(ledger, run, 2, 3, 4)
    copier.copy()
    assert sink.rows[run.id] == [1, 2, 3, 4]


def test_a_worker_that_dies_lets_go_of_all_its_runs(ledger: Ledger, plan: Plan):
    sink, (one, two, _) = Told(), [p.run for p in plan.runs]
    log(ledger, one, 1)
    log(ledger, two, 1)
    with Mirror("told", lambda: sink, ledger, plan, label) as see:
        see(progress(one, two, worker=3))
        see(Event(kind="gone", worker=3, run_id=one.id, values={"status": -9}))
        until(lambda: set(sink.ended) == {one.id, two.id})
    assert sink.ended == {one.id: None, two.id: None}


def test_a_run_that_another_participant_took_over_is_told_by_that_one(ledger: Ledger, plan: Plan):
    ours, theirs, run = Told(), Told(), plan.runs[0].run
    log(ledger, run, 1)
    with Mirror("told", lambda: ours, ledger, plan, label) as see:
        see(progress(run))
        until(lambda: ours.rows == {run.id: [1]})
        with Mirror("told", lambda: theirs, ledger, plan, label) as other:
            see(Event(kind="lost", worker=0, run_id=run.id))
            until(lambda: run.id in ours.ended)
            log(ledger, run, 2)
            other(progress(run))
    assert ours.rows == {run.id: [1]} and theirs.rows == {run.id: [2]} and ours.ended == {run.id: None}


@pytest.mark.parametrize("word", ["begin", "row", "end", "close", "make"])
def test_a_sink_that_raises_is_reported_once_and_dropped(ledger: Ledger, plan: Plan, capfd, word: str):
    run = plan.runs[0].run

    def broken(*_):
        raise (SystemExit if word == "row" else ConnectionError)("no\nservice")

    sink = Told()
    setattr(sink, word, broken)
    log(ledger, run, 1)
    with Mirror("told", broken if word == "make" else lambda: sink, ledger, plan, label) as see:
        for _ in range(3):
            see(progress(run))
            see(Event(kind="failed", worker=0, run_id=run.id, values={"reason": "x"}))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "--log told: " in lines[0] and "no;" in lines[0] and see.dropped


def test_a_sink_that_hangs_is_reported_once_and_the_sweep_goes_on(ledger: Ledger, plan: Plan, capfd, monkeypatch):
    monkeypatch.setattr(mirror, "HANG_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "CLOSE_SECONDS", 0.05)
    run, sink, free = plan.runs[0].run, Told(), threading.Event()
    monkeypatch.setattr(sink, "row", lambda *_: free.wait(30))
    log(ledger, run, 1)
    with Mirror("told", lambda: sink, ledger, plan, label) as see:
        see(progress(run))

        def dropped() -> bool:
            began = time.monotonic()
            see(progress(run))
            assert time.monotonic() - began < 5  # no call waits for the sink
            return see.dropped

        until(dropped)
    free.set()
    assert capfd.readouterr().err.count("has not come back") == 1


def test_a_sink_takes_no_more_of_a_stopped_sweep_than_is_left(ledger: Ledger, plan: Plan, capfd, monkeypatch):
    run, sink, free = plan.runs[0].run, Told(), threading.Event()
    monkeypatch.setattr(sink, "row", lambda *_: free.wait(30))
    log(ledger, run, 1)
    with Mirror("told", lambda: sink, ledger, plan, label, left=lambda: 0.1) as see:
        see(progress(run))
        began = time.monotonic()
    free.set()
    assert time.monotonic() - began < 4 and "last rows" in capfd.readouterr().err


def test_a_folder_that_is_there_is_copied_once(ledger: Ledger, plan: Plan):
    told, (one, two, _) = [], plan.runs
    log(ledger, one.run, 1, 2)
    finish(ledger, one.run)
    log(ledger, two.run, 1)
    for _ in range(2):
        sink = Told()
        copier = Copier(sink, ledger, label)
        for planned in plan.runs:
            copier.begin(planned)
            copier.end(planned.run.id)
        copier.close()
        told.append((sink.rows, sorted(sink.ended)))
    assert told == [({one.run.id: [1, 2], two.run.id: [1]}, sorted([one.run.id, two.run.id])), ({}, [])]


@pytest.mark.parametrize("words", ["run smoke --log", "tune smoke --log", "work FOLDER --log", "log FOLDER --to"])
def test_a_missing_package_is_refused_before_any_compute(ledger: Ledger, tmp_path: Path, capsys, monkeypatch, words):
    monkeypatch.setattr("scaling.launch.sinks.importlib.util.find_spec", lambda _: None)
    words = [str(ledger.folder) if word == "FOLDER" else word for word in words.split()]
    out = [] if str(ledger.folder) in words else ["--out", str(tmp_path / "out")]
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        assert main([*words, name, *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"pip install '.[{name}]'" in line and package in line
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_there_is_not_missed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scaling.launch.sinks.importlib.util.find_spec", lambda name: name == "wandb" or None)
    assert missing(["wandb"]) == [] and len(missing(["wandb", "tensorboard", "tensorboard"])) == 1


def test_tensorboard_reads_back_what_the_curve_says(ledger: Ledger, plan: Plan):
    written = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    run = plan.runs[0].run
    path = log(ledger, run, 1, 2, 3)
    for rest in ((), (4, 5)):  # two participants, one after the other
        log(ledger, run, *rest)
        copier = Copier(TensorBoard(ledger.folder / "tensorboard"), ledger, label)
        copier.begin(plan.runs[0])
        if rest:
            finish(ledger, run)
        copier.close()
    found: dict[str, dict[int, float]] = {}
    for file in sorted((ledger.folder / "tensorboard" / run.id).iterdir()):
        data = file.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = written.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    assert event.step not in found.setdefault(value.tag, {})
                    found[value.tag][event.step] = value.simple_value
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for tag in ("loss", "lr", "step"):
        assert found[tag] == pytest.approx({r["tokens"]: r[tag] for r in rows}, rel=1e-6)
    assert found["result/loss"] == {run.tokens: 1.5}


def test_wandb_offline_takes_many_runs_in_one_process(ledger: Ledger, plan: Plan, capfd, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Mirror("wandb", lambda: WandB(ledger.folder, "s"), ledger, plan, label) as see:
        for planned in plan.runs:
            log(ledger, planned.run, 1, 2)
        see(progress(*(p.run for p in plan.runs)))
        until(lambda: all((ledger.folder / "wandb" / ".mirrored" / p.run.id).exists() for p in plan.runs))
        finish(ledger, plan.runs[0].run)
    assert not see.dropped, capfd.readouterr().err
    files = {path.stem for path in ledger.folder.glob("wandb/offline-run-*/*.wandb")}
    assert files == {f"run-{p.run.id}" for p in plan.runs}
    assert "wandb sync" in capfd.readouterr().err
