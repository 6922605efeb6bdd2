import csv
import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaling.cost import count_params, train_flops
from scaling.plan import Plan, trunks
from scaling.record import Clock, Ledger, RunRecord, files, table
from scaling.record.files import commit_json, commit_text, create_text
from scaling.record.tuning import Tuning
from scaling.spec import Refusal, RunSpec


def record_of(run: RunSpec, **changes) -> RunRecord:
    known = RunRecord(
        run=run,
        status="finished",
        reason="",
        tokens=run.tokens,
        unique_tokens=run.tokens,
        epochs=1.0,
        loss=1.5,
        loss_se=0.01,
        bits_per_byte=None,
        entropy=1.1,
        clock=Clock(
            compile=1.0, train=2.0, evaluate=0.5, steps=run.steps, tokens_per_second=10.0, flops_per_second=1e6
        ),
        data={"source": "zipf-facts"},
        machine={"device": "cpu"},
    )
    return dataclasses.replace(known, **changes)


@pytest.fixture
def plan(tiny: RunSpec) -> Plan:
    return trunks(tiny, [tiny.model], [2000, 4000], group="grid")


@pytest.fixture
def ledger(tmp_path: Path, plan: Plan) -> Ledger:
    commit_json(tmp_path / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": plan.to_json()})
    return Ledger(tmp_path)


def test_a_record_reads_back_as_it_was_written(ledger: Ledger, tiny: RunSpec):
    for record in (
        record_of(tiny),
        record_of(dataclasses.replace(tiny, seed=1), status="diverged", loss=None, clock=None),
    ):
        ledger.commit(record)
        assert ledger[record.run.id] == record
    assert len(list(ledger)) == 2


def test_a_record_is_written_once(ledger: Ledger, tiny: RunSpec):
    ledger.commit(record_of(tiny))
    with pytest.raises(FileExistsError):
        ledger.commit(record_of(tiny, loss=1.0))
    assert ledger[tiny.id].loss == 1.5


def test_a_reopened_run_is_pending_and_its_record_kept(ledger: Ledger, tiny: RunSpec):
    for loss in (1.5, 1.4):
        ledger.commit(record_of(tiny, loss=loss))
        ledger.reopen(tiny.id)
    assert tiny.id not in ledger
    kept = sorted(ledger.run_folder(tiny.id).glob("record.*.json"))
    assert [json.loads(path.read_text())["loss"] for path in kept] == [1.5, 1.4]


def test_a_record_that_is_not_one_is_refused_by_name(ledger: Ledger, tiny: RunSpec):
    ledger.commit(record_of(tiny))
    path = ledger.run_folder(tiny.id) / "record.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Refusal, match="record.json: not a run record"):
        ledger[tiny.id]


def test_counts_follow_the_spec_and_not_the_file(ledger: Ledger, tiny: RunSpec):
    ledger.commit(record_of(tiny))
    path = ledger.run_folder(tiny.id) / "record.json"
    values = json.loads(path.read_text())
    assert values["params"]["mlp"] == count_params(tiny.model).mlp
    values["params"]["mlp"] = 1
    del values["sha256"], values["curve_sha256"]  # as in records of older versions, whose counts may be wrong
    path.write_text(json.dumps(values))
    assert ledger[tiny.id] == record_of(tiny)


def test_the_table_has_a_row_for_each_evaluated_run_in_the_order_of_the_plan(ledger: Ledger, plan: Plan):
    for planned in reversed(plan.runs):
        ledger.commit(record_of(planned.run, loss=None if planned.role == "trunk" else 1.25))
    table.write(ledger)
    rows = list(csv.DictReader((ledger.folder / "runs.csv").read_text().splitlines()))
    branches = [p.run for p in plan.runs if p.role != "trunk"]
    assert [row["run_id"] for row in rows] == [run.id for run in branches]
    for row, run in zip(rows, branches, strict=True):
        assert int(row["n_params"]) == count_params(run.model).matmul
        assert int(row["flops"]) == train_flops(run)
        assert row["trunk"] == run.branch.trunk and row["loss"] == "1.25"


def test_the_table_tells_apart_what_runs_were_trained_and_measured_on(ledger: Ledger, plan: Plan):
    data = {"corrupted": 0.1, "duplicated": 0.25, "duplicate_tokens": 120}
    planned = plan.with_role("fitted").runs[0]
    spoilt = dataclasses.replace(
        planned.run,
        data=dataclasses.replace(planned.run.data, **data),
        eval=dataclasses.replace(planned.run.eval, source="text:else"),
    )
    of_plain, of_spoilt = (
        table.row(run.id, record_of(run), "grid", "fitted", Tuning.of(ledger.folder)) for run in (planned.run, spoilt)
    )
    differ = {name: of_spoilt[name] for name in table.COLUMNS if of_spoilt[name] != of_plain[name]}
    assert differ == {"run_id": spoilt.id, "eval_source": "text:else", **data}
    assert of_plain["eval_source"] == of_plain["source"] and of_plain["corrupted"] == 0
    assert len(table.line(of_spoilt).split(",")) == len(table.COLUMNS) == len(of_spoilt)


def test_nothing_of_the_clock_is_in_the_table(ledger: Ledger, plan: Plan):
    texts = []
    for seconds in (1.0, 2.0):
        for planned in plan.runs:
            if planned.run.id in ledger:
                ledger.reopen(planned.run.id)
            clock = Clock(
                compile=seconds,
                train=seconds,
                evaluate=seconds,
                steps=1,
                tokens_per_second=seconds,
                flops_per_second=seconds,
            )
            ledger.commit(record_of(planned.run, clock=clock, machine={"device": str(seconds)}))
        table.write(ledger)
        texts.append((ledger.folder / "runs.csv").read_bytes())
    assert texts[0] == texts[1]


def test_a_cell_that_a_spreadsheet_would_run_is_defused(ledger: Ledger, plan: Plan):
    run = plan.runs[1].run
    ledger.commit(record_of(run, status="diverged", reason="=cmd|' /C calc'!A0", loss=None))
    table.write(ledger)
    (row,) = csv.DictReader((ledger.folder / "runs.csv").read_text().splitlines())
    assert row["reason"] == "'=cmd|' /C calc'!A0" and row["loss"] == ""


def test_a_new_folder_has_its_name_on_the_disk_before_what_is_in_it_counts(tmp_path: Path, monkeypatch):
    flushed: list[Path] = []
    monkeypatch.setattr(files, "flush_folder", flushed.append)
    commit_text(tmp_path / "out" / "runs" / "a" / "record.json", "x")
    assert flushed == [tmp_path, tmp_path / "out", tmp_path / "out" / "runs", tmp_path / "out" / "runs" / "a"]
    commit_text(tmp_path / "out" / "runs" / "a" / "record.json", "y")
    assert flushed[4:] == [tmp_path / "out" / "runs" / "a"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    commit_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        commit_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_is_flushed_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    commit_text(tmp_path / "a.txt", "text")
    assert calls == ["fsync", "replace", "fsync"]


def test_json_with_a_number_that_json_has_not_is_never_written(tmp_path: Path):
    with pytest.raises(ValueError):
        commit_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_torn_line_of_a_curve_is_left_out(ledger: Ledger, tiny: RunSpec):
    folder = ledger.begin(tiny)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert ledger.curve(tiny.id) == [{"step": 1, "loss": 2.0}]


def test_a_folder_without_a_study_is_not_a_results_folder(tmp_path: Path):
    with pytest.raises(Refusal, match="not a results folder"):
        Ledger(tmp_path).study()


def test_of_many_that_create_a_file_one_does_and_its_text_is_whole(tmp_path: Path):
    path, texts = tmp_path / "folder" / "claim", [f"{number}" * 10_000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda text: create_text(path, text), texts))
    assert won.count(True) == 1 and path.read_text() == texts[won.index(True)]
    assert [p.name for p in path.parent.iterdir()] == ["claim"]
