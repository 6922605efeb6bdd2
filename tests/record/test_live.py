"""A results folder while others write into it."""

import json
import math
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.plan import Plan, straight, trunks
from scaling.record import Failure, Ledger, RunRecord
from scaling.record.claims import Holder
from scaling.record.files import commit_json, commit_text
from scaling.record.live import POINTS, Curve, Live, Tail, by_interest
from scaling.spec import Refusal, RunSpec


def row(step: int, loss: float = 2.5) -> str:
    return json.dumps({"step": step, "tokens": 96 * step, "loss": loss, "lr": 0.01}) + "\n"


def record_of(run: RunSpec, **changes) -> RunRecord:
    known = RunRecord(
        run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0, loss=1.5,
        loss_se=0.01, bits_per_byte=None, entropy=None, clock=None, data={}, machine={},
    )  # fmt: skip
    return replace(known, **changes)


def asked(folder: Path, plan: Plan) -> Ledger:
    study = {"name": "s", "question": "?", "analysis": {}, "command": "scaling run s", "plan": plan.to_json()}
    commit_json(folder / "study.json", study)
    return Ledger(folder)


def seeds(tiny: RunSpec, count: int) -> Plan:
    plan = Plan()
    for seed in range(count):
        plan += straight(replace(tiny, seed=seed), [tiny.model], [2000], group="grid")
    return plan


def log(ledger: Ledger, run: RunSpec, *steps: int) -> Path:
    path = ledger.begin(run) / "metrics.jsonl"
    with open(path, "a") as file:
        file.write("".join(map(row, steps)))
    return path


def steps_of(tail: Tail) -> list[int]:
    return [found["step"] for found in tail.rows()[1]]


def test_every_whole_line_is_read_once_wherever_the_writer_was(tmp_path: Path):
    text = "".join(row(step, loss=1 + 1 / step) for step in range(1, 200)).encode()
    rng, path = random.Random(4), tmp_path / "metrics.jsonl"
    tail, read, at = Tail(str(path)), [], 0
    while at < len(text):
        size = rng.choice([0, 1, 7, 90, 1000])
        with open(path, "ab") as file:
            file.write(text[at : at + size])
        at += size
        anew, rows = tail.rows()
        assert not anew
        read += rows
    assert read == [json.loads(line) for line in text.splitlines()]


def test_a_file_that_is_another_one_is_read_again(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(row(1) + row(2) + row(3))
    tail = Tail(str(path))
    assert steps_of(tail) == [1, 2, 3]
    commit_text(path, row(1) + row(2))  # shorter, as a resumed run leaves it
    assert tail.rows() == (True, [json.loads(row(1)), json.loads(row(2))])
    commit_text(path, row(1) + row(2) + row(9))  # longer, and begins alike
    assert [found["step"] for found in tail.rows()[1]][-1] == 9
    with open(path, "r+") as file:  # the same file, longer, with other contents
        file.write(row(4) + row(5) + row(6) + row(7))
    assert tail.rows() == (True, [json.loads(row(step)) for step in (4, 5, 6, 7)])
    path.unlink()
    assert tail.rows() == (True, []) and tail.rows() == (False, [])


def test_what_is_no_row_is_passed_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 3, "open": [[1.0]]}\n\x00\x00\xff\n[]\n7\n{"loss": 1}\n' + b"[" * 9999 + b"\n" + row(4).encode()
    )
    assert steps_of(Tail(str(path))) == [4]


def test_a_curve_that_did_not_grow_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(row(1))
    tail = Tail(str(path))
    tail.rows()
    monkeypatch.setattr("scaling.record.live.open", None, raising=False)
    assert tail.rows() == (False, [])


def test_a_page_that_gets_what_is_new_has_the_whole_curve():
    rng, curve, known, since = random.Random(1), Curve(), [], 0
    for version in range(1, 300):
        if version == 120:
            curve.restart(version)
        for _ in range(rng.choice([0, 1, 5])):
            curve.add(1 + len(known) * 96 + version, 2.0, version)
        if rng.random() < 0.3:
            whole = curve.whole_since > since
            known = curve.points() if whole else known + curve.points(since)
            assert known == curve.points() and len(known) <= POINTS
            since = version


def test_a_long_curve_keeps_its_shape_in_few_points():
    curve = Curve()
    for step in range(1, 10_001):
        curve.add(step, 1 / step, 1)
    tokens = [at for at, _ in curve.points()]
    assert POINTS / 2 <= len(tokens) <= POINTS and tokens[0] == 1 and tokens[-1] > 9_800
    assert {b - a for a, b in zip(tokens, tokens[1:], strict=False)} == {tokens[1] - tokens[0]}


def test_each_run_is_what_its_folder_says(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 7)
    ledger, runs = asked(tmp_path, plan), [p.run for p in plan.runs]
    ledger.commit(record_of(runs[0]))
    ledger.commit(record_of(runs[1], status="diverged", reason="not finite at step 9", loss=None, tokens=9 * 96))
    ledger.begin(runs[2])
    ledger.fail(runs[2].id, Failure(kind="out_of_memory", reason="no room", attempts=3, log="logs/worker-0.log"))
    log(ledger, runs[3], 1, 2)
    log(ledger, runs[4], 1, 2, 3)
    with Holder(tmp_path) as holder:
        ledger.begin(runs[5])
        assert holder.claim(runs[4].id) and holder.claim(runs[5].id)
        live = Live(ledger)
        live.refresh()
        assert [run.status for run in live.runs] == [
            "finished", "diverged", "failed", "begun", "running", "running", "pending"
        ]  # fmt: skip
        finished, diverged, failed, begun, running, *_ = live.runs
        assert (finished.loss, finished.train_loss, finished.fraction) == (1.5, None, 1.0)
        assert (diverged.step, diverged.reason) == (9, "not finite at step 9")
        assert failed.reason == "no room; see logs/worker-0.log" and "--retry" in failed.way_out
        assert (begun.step, begun.train_loss, begun.loss) == (2, 2.5, None)
        (here,) = live.participants
        assert here.live and set(here.runs) == {runs[4].id, runs[5].id} and running.host == here.host
        assert by_interest(live.runs)[0].status == "running" and not live.over
    live.refresh()
    assert live.over and not live.at_work and live.counts["begun"] == 2
    assert live.go_on == "scaling run s"


def test_who_stopped_beating_is_gone_and_its_runs_are_not_running(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1)
    ledger, run = asked(tmp_path, plan), plan.runs[0].run
    log(ledger, run, 1, 2)
    with Holder(tmp_path) as holder:
        holder.claim(run.id)
        left_behind = (tmp_path / "holders" / holder.name).read_text()
    (tmp_path / "holders" / "0123456789ab").write_text(left_behind)  # as `kill -9` leaves it: nobody holds its lock
    live = Live(ledger)
    live.refresh()
    (gone,) = live.participants
    assert not gone.live and gone.runs == (run.id,)
    assert live.runs[0].status == "begun" and "0123456789ab" in live.runs[0].reason


def test_a_run_that_is_tried_again_has_not_failed(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1)
    ledger, run = asked(tmp_path, plan), plan.runs[0].run
    ledger.begin(run)
    ledger.fail(run.id, Failure(kind="crash", reason="signal 11", attempts=2))
    with Holder(tmp_path) as holder:
        holder.claim(run.id)
        live = Live(ledger)
        live.refresh()
        assert (live.runs[0].status, live.runs[0].reason) == ("running", "")


class Counting(Ledger):
    reads = 0

    def __getitem__(self, run_id: str) -> RunRecord:
        self.reads += 1
        return super().__getitem__(run_id)


def test_what_an_index_knows_to_be_finished_is_not_read(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 3)
    ledger, ids = Counting(asked(tmp_path, plan).folder), [p.run.id for p in plan.runs]
    for planned in plan.runs[:2]:
        ledger.commit(record_of(planned.run))
    live = Live(ledger, finished={ids[0]: 1.25, ids[1]: 1.5})
    live.refresh()
    assert ledger.reads == 0 and live.counts == {"pending": 1, "finished": 2} and live.runs[0].loss == 1.25
    ledger.reopen(ids[0])  # the files are the truth
    live.refresh()
    assert live.counts == {"pending": 2, "finished": 1}


def test_a_record_is_read_once_and_looked_for_again(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 3)
    ledger = Counting(asked(tmp_path, plan).folder)
    for planned in plan.runs:
        ledger.commit(record_of(planned.run))
    live = Live(ledger)
    for _ in range(3):
        live.refresh()
    assert ledger.reads == 3 and live.over
    ledger.reopen(plan.runs[1].run.id)
    live.refresh()
    assert [run.status for run in live.runs] == ["finished", "pending", "finished"] and not live.over
    assert live.runs[1].loss is None


def test_a_record_that_was_changed_is_no_result(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1)
    ledger = asked(tmp_path, plan)
    ledger.commit(record_of(plan.runs[0].run))
    path = ledger.run_folder(plan.runs[0].run.id) / "record.json"
    path.write_text(path.read_text().replace("1.5", "1.4"))
    live = Live(ledger)
    live.refresh()
    assert live.runs[0].status == "failed" and live.runs[0].loss is None and "record.json" in live.runs[0].reason


def test_a_branch_says_what_it_waits_for(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [2000, 4000], group="grid")
    trunk = next(p.run for p in plan.runs if p.role == "trunk")
    ledger = asked(tmp_path, plan)
    live = Live(ledger)
    for reason in ("pending", "diverged"):
        live.refresh()
        assert {run.reason for run in live.runs if run.role != "trunk"} == {
            f"its trunk {trunk.id} {'is ' if reason == 'pending' else ''}{reason}"
        }
        assert live.runs[1].fraction == 0.0
        if reason == "pending":
            ledger.commit(record_of(trunk, status="diverged", reason="x", loss=None))


def test_the_rate_is_that_of_the_rows_as_they_came(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1)
    ledger, run, now = asked(tmp_path, plan), plan.runs[0].run, [0.0]
    live = Live(ledger, clock=lambda: now[0])
    for step in (2, 4, 6):
        log(ledger, run, step)
        live.refresh()
        now[0] += 0.5
    now[0] = 1.0
    live.refresh()
    assert live.runs[0].tokens_per_second == 4 * run.batch_tokens / 1.0
    now[0] = 4.0  # nothing comes
    live.refresh()
    assert live.runs[0].tokens_per_second == 4 * run.batch_tokens / 4.0


def test_only_what_changed_is_told(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 4)
    ledger, runs = asked(tmp_path, plan), [p.run for p in plan.runs]
    live = Live(ledger)
    log(ledger, runs[0], 1)
    live.refresh()
    assert [run.id for run, _ in live.changed(0)] == [runs[0].id]
    log(ledger, runs[2], 1)
    live.refresh()
    assert [run.id for run, _ in live.changed(1)] == [runs[2].id]
    ledger.commit(record_of(runs[0]))
    live.refresh()
    assert [(run.id, run.status) for run, _ in live.changed(2)] == [(runs[0].id, "finished")]
    live.refresh()
    assert not [*live.changed(3)]


def test_a_sweep_may_gain_runs_while_it_is_watched(tiny: RunSpec, tmp_path: Path):
    ledger = asked(tmp_path, seeds(tiny, 1))
    live = Live(ledger)
    log(ledger, seeds(tiny, 1).runs[0].run, 1)
    live.refresh()
    asked(tmp_path, seeds(tiny, 3))
    live.refresh()
    assert [run.step for run in live.runs] == [1, 0, 0]


def test_a_folder_that_vanishes_is_refused(tiny: RunSpec, tmp_path: Path):
    live = Live(asked(tmp_path / "there", seeds(tiny, 1)))
    live.refresh()
    os.rename(tmp_path / "there", tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="not a results folder"):
        live.refresh()


def test_a_loss_that_is_no_number_is_none(tiny: RunSpec, tmp_path: Path):
    plan = seeds(tiny, 1)
    ledger, run = asked(tmp_path, plan), plan.runs[0].run
    (ledger.begin(run) / "metrics.jsonl").write_text(row(1) + row(2, loss=math.nan))
    live = Live(ledger)
    live.refresh()
    assert (live.runs[0].step, live.runs[0].train_loss) == (2, None)


def test_a_refresh_of_many_growing_runs_is_quick(tiny: RunSpec, tmp_path: Path):
    """A quarter of a thousand live runs, each with a new row, in a quarter of 0.3 s of this process."""
    plan = seeds(tiny, 250)
    ledger = asked(tmp_path, plan)
    paths = []
    for planned in plan.runs:
        folder = ledger.run_folder(planned.run.id)
        folder.mkdir(parents=True)
        paths.append(folder / "metrics.jsonl")
        paths[-1].write_text("".join(map(row, range(1, 50))))
    live, spent = Live(ledger), []
    live.refresh()
    for step in (50, 51, 52):
        for path in paths:
            with open(path, "a") as file:
                file.write(row(step))
        began = time.process_time()
        live.refresh()
        spent.append(time.process_time() - began)
        assert all(run.step == step for run in live.runs)
    assert min(spent) < 0.3 / 4, spent
