"""A results folder in a bucket that can neither rename nor append nor lock: tests/bucket, in memory."""

import builtins
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from scaling.cli import main
from scaling.record import Failure, Ledger, RunRecord, claims, table
from scaling.record.claims import ClaimLost, Holder, Observer, standing
from scaling.record.files import commit_json, commit_text, create_text, files_below, folder_of, names
from scaling.record.live import Live
from scaling.record.verify import verify
from scaling.spec import Refusal, RunSpec, to_json

A = "a" * 12


@pytest.fixture
def folder(bucket: ModuleType) -> Path:
    return folder_of("gs://bucket/study")


@pytest.fixture
def record(tiny: RunSpec) -> RunRecord:
    return RunRecord(
        run=tiny, status="finished", reason="", tokens=tiny.tokens, unique_tokens=tiny.tokens, epochs=1.0, loss=3.0,
        loss_se=0.1, bits_per_byte=None, entropy=2.0, clock=None, data={}, machine={},
    )  # fmt: skip


def lay_down(folder: Path, run: RunSpec) -> None:
    planned = {"id": run.id, "group": "g", "role": "fitted", "run": to_json(run)}
    commit_json(folder / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": [planned]})


@pytest.mark.parametrize(
    "text, said",
    [
        ("s3://bucket/study", "Google Cloud Storage"),
        ("memory://study", "Google Cloud Storage"),
        ("gs://bucket", "must be gs://BUCKET/NAME"),
        ("gs://bucket/*", "may have none of"),
    ],
)
def test_what_is_no_folder_in_a_bucket_is_refused(bucket: ModuleType, text: str, said: str, capsys):
    assert main(["verify", text]) == 2
    assert said in capsys.readouterr().err


def test_without_the_client_the_way_out_is_said(bucket: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    imported = builtins.__import__

    def without(name: str, *rest):
        if name == "gcsfs":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["status", "gs://bucket/study"]) == 2
    assert "gcsfs is not installed; pip install '.[gcs]'" in capsys.readouterr().err


def test_a_client_that_cannot_create_on_a_condition_is_refused(bucket: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bucket.GCSFileSystem, "_pipe_file", lambda self, path, data: None)
    with pytest.raises(Refusal, match="must not exist yet"):
        folder_of("gs://bucket/study")


def test_an_object_is_made_once_and_replaced_whole(folder: Path):
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda number: create_text(folder / "x", str(number)), range(8))]
    assert made.count(True) == 1 and (folder / "x").read_text() == str(made.index(True))
    before = (folder / "x").stat()
    commit_text(folder / "x", "9")
    after = (folder / "x").stat()
    assert before.st_size == after.st_size == 1 and before.st_ino != after.st_ino, "another version is seen"
    commit_text(folder / "x", "é")
    commit_text(folder / "y" / "z", "")
    assert (folder / "x").read_text() == "é" and names(folder) == ["x", "y"]
    assert [name for name, _ in files_below(folder)] == ["x", "y/z"]
    assert (folder / "y").is_dir() and not (folder / "y").is_file() and not (folder / "no").exists()


def test_no_object_leads_out_of_a_folder(folder: Path):
    for name in ("a/../../b", "../c", "d/e"):
        (folder / name).write_bytes(b"")
    assert [name for name, _ in files_below(folder)] == ["d/e"]


def test_a_neighbour_whose_name_begins_alike_is_another_folder(folder: Path):
    commit_text(folder.with_name("study2") / "x", "1")
    assert not names(folder) and not [*files_below(folder)] and not folder.exists()


def test_of_many_participants_one_has_the_claim(folder: Path, bucket: ModuleType, monkeypatch: pytest.MonkeyPatch):
    holders, together = [Holder(folder) for _ in range(8)], threading.Barrier(8)

    def at_once(what: str, name: str) -> None:
        if "/claim." in name and what in ("create", "overwrite"):
            together.wait(5)

    monkeypatch.setattr(bucket, "before", at_once)
    with ThreadPoolExecutor(8) as pool:
        found = [claim for claim in pool.map(lambda holder: holder.claim(A), holders) if claim]
    assert len(found) == 1 and found[0].token == 1 and found[0].held(folder)
    for holder in holders:
        holder.__exit__()
    assert standing(folder, A) is None and not names(folder / "holders")


def test_a_silent_holder_loses_its_claims_after_the_lease_and_not_before(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "STORE_LEASE_SECONDS", 0.3)
    with Holder(folder) as dead, Holder(folder) as mine:
        first = dead.claim(A)
        assert mine.claim(A) is None
        time.sleep(0.4)  # neither has beaten: 20 seconds are between two beats
        second = mine.claim(A)
        assert second.token == 2
        with pytest.raises(ClaimLost):
            first.check(folder)


def test_a_holder_says_what_it_has_in_hand(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "STORE_PAUSE_SECONDS", 0.01)
    with Holder(folder) as holder:
        holder.claim(A)
        waited, observer = threading.Event(), Observer(folder)
        for _ in range(300):
            said = observer.sighting(holder.name)
            if said and said.runs == (A,):
                break
            waited.wait(0.01)
        assert said.runs == (A,)
        assert not said.locks and not said.kernel and not holder.files
        beat = said.beat
        waited.wait(0.1)
        assert observer.sighting(holder.name).beat == beat, "no write is paid for that says nothing new"


def test_a_store_that_does_not_answer_is_an_error_of_its_folder(folder: Path, bucket: ModuleType, monkeypatch):
    def fails(what: str, name: str) -> None:
        raise bucket.HttpError("503: try again")

    monkeypatch.setattr(bucket, "before", fails)
    with pytest.raises(OSError, match="503"):
        (folder / "x").read_bytes()
    with pytest.raises(Refusal, match="cannot be written to"):
        Holder(folder)


def test_a_record_is_made_once_and_a_run_reopened(folder: Path, record: RunRecord):
    ledger, run_id = Ledger(folder), record.run.id
    ledger.reopen(run_id)  # nothing there
    ledger.fail(run_id, Failure(kind="crash", reason="r"))
    assert ledger.failure(run_id).reason == "r"
    ledger.commit(record)
    assert ledger[run_id] == record and ledger.failure(run_id) is None and [*ledger] == [record]
    with pytest.raises(FileExistsError):
        ledger.commit(replace(record, loss=2.0))
    for number in range(2):
        ledger.reopen(run_id)
        assert run_id not in ledger
        ledger.commit(replace(record, loss=float(number)))
    assert ledger[run_id].loss == 1.0 and names(ledger.run_folder(run_id)) == [
        "record.0.json", "record.1.json", "record.json", "spec.json",
    ]  # fmt: skip


def test_a_watcher_sees_the_curve_grow_and_the_record(folder: Path, record: RunRecord, tiny: RunSpec):
    lay_down(folder, tiny)
    live, path = Live(Ledger(folder), curves=1), Ledger(folder).run_folder(tiny.id) / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": 5.0 - step}) + "\n" for step in (1, 2, 3)]
    for count in (1, 2, 3):
        commit_text(path, "".join(rows[:count]) + json.dumps({"step": count, "open": []}) + "\n")
        live.refresh()
        ((run, curve),) = live.changed(live.version - 1)
        assert run.step == count and run.status == "begun" and len(curve.points()) == count
    live.refresh()
    assert [run.step for run in live.runs] == [3] and not curve.points(live.version - 1)
    Ledger(folder).commit(record)
    live.refresh()
    assert live.counts == {"finished": 1} and live.over


def test_the_commands_read_a_bucket(folder: Path, record: RunRecord, tiny: RunSpec, tmp_path: Path, capsys):
    for home in (folder, tmp_path):
        lay_down(home, tiny)
        Ledger(home).commit(record)
        table.write(Ledger(home))
    assert (folder / "runs.csv").read_bytes() == (tmp_path / "runs.csv").read_bytes()
    assert not verify(Ledger(folder)).findings
    for words in (["verify"], ["status", "--json"], ["table"]):
        assert main([words[0], str(folder), *words[1:]]) == 0
        inside = capsys.readouterr().out
        assert main([words[0], str(tmp_path), *words[1:]]) == 0
        assert inside == capsys.readouterr().out
    assert main(["log", str(folder), "--to", "tensorboard"]) == 2
    assert "copy them there" in capsys.readouterr().err
