import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.record import Failure, Ledger
from scaling.record.files import commit_json, commit_text
from scaling.record.seal import digest, file_digest, sealed
from scaling.spec import Refusal, RunSpec
from tests.record.test_record import record_of


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "out")


def text_of(ledger: Ledger, run: RunSpec) -> Path:
    return ledger.run_folder(run.id) / "record.json"


def test_no_byte_of_a_record_changes_unseen(ledger: Ledger, tiny: RunSpec):
    ledger.commit(record_of(tiny))
    path = text_of(ledger, tiny)
    whole = path.read_text()
    digits = [i for i, c in enumerate(whole) if c.isdigit()]
    for i in digits[:: max(1, len(digits) // 100)]:
        path.write_text(whole[:i] + str((int(whole[i]) + 1) % 10) + whole[i + 1 :])
        with pytest.raises(Refusal, match=r"record.json: not a run record .*; move it away and the run is made again"):
            ledger[tiny.id]
    path.write_text(json.dumps(json.loads(whole), sort_keys=True))  # the same values laid out otherwise
    assert ledger[tiny.id] == record_of(tiny)


def test_a_record_without_a_seal_is_one_of_an_older_version(ledger: Ledger, tiny: RunSpec):
    commit_json(text_of(ledger, tiny), record_of(tiny).to_json())
    assert ledger[tiny.id] == record_of(tiny)


def test_a_record_of_another_run_is_not_taken_for_this_ones(ledger: Ledger, tiny: RunSpec):
    other = replace(tiny, seed=1)
    commit_json(text_of(ledger, tiny), sealed(record_of(other).to_json()))
    with pytest.raises(Refusal, match=f"that of run {other.id}"):
        ledger[tiny.id]


def test_a_record_seals_the_curve_as_it_is_then(ledger: Ledger, tiny: RunSpec):
    curve = ledger.begin(tiny) / "metrics.jsonl"
    commit_text(curve, '{"step": 1, "loss": 2.0}\n')
    ledger.commit(record_of(tiny))
    values = json.loads(text_of(ledger, tiny).read_text())
    assert values["curve_sha256"] == file_digest(curve) and values["sha256"] == digest(values)


def test_of_many_participants_one_records_a_run(ledger: Ledger, tiny: RunSpec):
    gate = threading.Barrier(8)

    def commit(loss: int) -> bool:
        gate.wait()
        try:
            ledger.commit(record_of(tiny, loss=float(loss)))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(commit, range(8)))
    assert won.count(True) == 1 and ledger[tiny.id].loss == won.index(True)
    assert not list(ledger.folder.rglob("*.part"))


def test_of_many_that_reopen_a_run_all_go_on_and_its_record_is_kept_once(ledger: Ledger, tiny: RunSpec):
    ledger.commit(record_of(tiny))
    gate = threading.Barrier(8)

    def reopen(_: int) -> None:
        gate.wait()
        ledger.reopen(tiny.id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reopen, range(8)))
    assert tiny.id not in ledger
    kept = list(ledger.run_folder(tiny.id).glob("record.*.json"))
    assert len(kept) == 1 and json.loads(kept[0].read_text())["loss"] == 1.5
    ledger.reopen(replace(tiny, seed=1).id)  # pending, and without a folder


def test_a_failure_stands_until_the_run_has_a_record(ledger: Ledger, tiny: RunSpec):
    assert ledger.failure(tiny.id) is None
    for attempts in (1, 2):
        failure = Failure(kind="crash", reason="signal 11", attempts=attempts, log="logs/worker-0.log")
        ledger.fail(tiny.id, failure)
        assert ledger.failure(tiny.id) == failure
    ledger.commit(record_of(tiny))
    assert ledger.failure(tiny.id) is None and not (ledger.run_folder(tiny.id) / "failure.json").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kind": "bad", "reason": "", "attempts": 1, "log": ""}', '{"kind": "crash"}', "[" * 10**5]
)
def test_a_failure_that_is_none_is_refused_by_name(ledger: Ledger, tiny: RunSpec, text: str):
    commit_text(ledger.run_folder(tiny.id) / "failure.json", text)
    with pytest.raises(Refusal, match="failure.json: does not say why"):
        ledger.failure(tiny.id)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\n", "0123456789ab\n", "", ".", "..", "0123456789AB", None, 7])
def test_no_name_but_an_id_becomes_a_path(ledger: Ledger, name):
    for use in (ledger.run_folder, ledger.curve, ledger.reopen, ledger.failure, ledger.__getitem__):
        with pytest.raises(Refusal, match="must be twelve hex digits"):
            use(name)
    with pytest.raises(Refusal, match="must be twelve hex digits"):
        assert name in ledger
    plan = [{"id": name, "group": "g", "role": "fitted", "run": {"steps": 1}}]
    commit_json(ledger.folder / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": plan})
    with pytest.raises(Refusal, match="must be twelve hex digits"):
        ledger.study()


def test_a_study_that_plans_a_run_twice_is_refused(ledger: Ledger, tiny: RunSpec):
    planned = {"id": tiny.id, "group": "g", "role": "fitted", "run": {"steps": 1}}
    commit_json(ledger.folder / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": [planned] * 2})
    with pytest.raises(Refusal, match=f"plans run {tiny.id} twice"):
        ledger.study()


@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(ledger: Ledger, tiny: RunSpec, tmp_path: Path, inner: str):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = ledger.run_folder(tiny.id) / inner
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    for use in (lambda: ledger.begin(tiny), lambda: ledger.commit(record_of(tiny))):
        with pytest.raises(Refusal, match="outside of the results folder"):
            use()
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["study.json", "record.json"])
@pytest.mark.parametrize("how", ["nested", "a gigabyte", "torn UTF-8", "no object"])
def test_a_hostile_document_is_refused_in_a_line(ledger: Ledger, tiny: RunSpec, name: str, how: str):
    path = text_of(ledger, tiny) if name == "record.json" else ledger.folder / name
    path.parent.mkdir(parents=True)
    path.write_bytes({"nested": b'{"a":' * 10**5, "torn UTF-8": b'{"a": "\xff\xff"}', "no object": b"7"}.get(how, b""))
    if how == "a gigabyte":
        os.truncate(path, 2**30)
    with pytest.raises(Refusal, match=name) as refused:
        ledger[tiny.id] if name == "record.json" else ledger.study()  # noqa: B018
    assert len(refused.value.faults) == 1 and "\n" not in refused.value.faults[0]
