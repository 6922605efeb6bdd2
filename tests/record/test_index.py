import csv
import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.fitting.observe import read_table
from scaling.plan import Plan, Planned, trunks
from scaling.record import Failure, Ledger, index, table
from scaling.record.files import commit_json, commit_text
from scaling.record.index import Entry, Index
from scaling.record.seal import sealed
from scaling.record.tuning import same_but_rate
from scaling.spec import Refusal, RunSpec
from tests.record.test_record import record_of


def put(ledger: Ledger, plan: Plan) -> None:
    commit_json(ledger.folder / "study.json", {"name": "s", "question": "?", "analysis": {}, "plan": plan.to_json()})


@pytest.fixture
def plan(tiny: RunSpec) -> Plan:
    grid = trunks(tiny, [tiny.model], [2000, 4000], group="grid")
    return grid + Plan(tuple(Planned(run=replace(tiny, seed=s), group="more", role="compare") for s in range(1, 6)))


@pytest.fixture
def ledger(tmp_path: Path, plan: Plan) -> Ledger:
    """Every run recorded but the last two, of which one was given up."""
    ledger = Ledger(tmp_path / "out")
    put(ledger, plan)
    for i, p in enumerate(plan.runs[:-2]):
        lost = {"status": "diverged", "loss": None, "reason": "=1+1, not finite"} if i == 3 else {"loss": 1 + i / 7}
        ledger.commit(record_of(p.run, **lost))
    ledger.fail(plan.runs[-1].run.id, Failure(kind="crash", reason="signal 11", attempts=3))
    return ledger


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def as_the_files_say(found: Index) -> bool:
    """Whether list and table are those that the files give without any index."""
    table.write(found.ledger)
    with Index(found.ledger, found.path.parent / "nothing here") as fresh:
        listed = fresh.runs()
    return (
        "".join(found.lines()) == (found.ledger.folder / "runs.csv").read_bytes().decode()
        and found.runs() == listed
        and [entry.id for entry in listed] == [p["id"] for p in found.ledger.study()["plan"]]
    )


def test_the_index_says_what_the_files_say(ledger: Ledger, plan: Plan, home: Path):
    with Index(ledger, home) as found:
        runs = found.runs()
        assert as_the_files_say(found)
    trunk, pending, given_up = runs[0], runs[-2], runs[-1]
    assert trunk.role == "trunk" and trunk.status == "finished"
    assert pending == Entry(plan.runs[-2].run.id, "more", "compare", plan.runs[-2].run.steps)
    assert (given_up.status, given_up.reason, given_up.kind) == ("failed", "signal 11", "crash")
    assert not list(ledger.folder.rglob("*.sqlite*")), "a results folder may be shared, and SQLite may not"


CHANGES: dict[str, Callable[[Ledger, Plan], object]] = {
    "a record": lambda ledger, plan: ledger.commit(record_of(plan.runs[-2].run)),
    "a record after a failure": lambda ledger, plan: ledger.commit(record_of(plan.runs[-1].run)),
    "a failure": lambda ledger, plan: ledger.fail(plan.runs[-2].run.id, Failure(kind="hang", reason="h", attempts=1)),
    "a record reopened": lambda ledger, plan: ledger.reopen(plan.runs[2].run.id),
    "a record made again": lambda ledger, plan: (
        ledger.reopen(plan.runs[2].run.id),
        ledger.commit(record_of(plan.runs[2].run, loss=9.25)),
    ),
    "a run more, in front": lambda ledger, plan: put(
        ledger, Plan((replace(plan.runs[-1], run=replace(plan.runs[-1].run, seed=99)), *plan.runs))
    ),
    "a run less": lambda ledger, plan: put(ledger, Plan(plan.runs[:2] + plan.runs[3:])),
    "another group": lambda ledger, plan: put(ledger, Plan(tuple(replace(p, group="other") for p in plan.runs))),
    "another role": lambda ledger, plan: put(ledger, Plan(tuple(replace(p, role="trunk") for p in plan.runs))),
    "a tuning": lambda ledger, plan: commit_json(
        ledger.folder / "tuning.json",
        {"groups": [{
            "group": "more", "kappa": {"value": 0.1}, "range": {"n": [1, 1e9], "d": [1, 1e9]},
            "plane": {"terms": ["a"], "values": [0.5], "n0": 1e3, "d0": 1e3},
            "planned": {same_but_rate(p.run): 0.01 for p in plan.runs},
        }]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_index_follows_every_change_of_the_files(ledger: Ledger, plan: Plan, home: Path, change: str):
    with Index(ledger, home) as found:
        before = found.runs(), found.lines()
    CHANGES[change](ledger, plan)
    with Index(ledger, home) as found:
        assert (found.runs(), found.lines()) != before
        assert as_the_files_say(found)


def test_only_what_changed_is_read_again(ledger: Ledger, plan: Plan, home: Path, monkeypatch: pytest.MonkeyPatch):
    with Index(ledger, home) as found:
        found.lines()
    read = []
    monkeypatch.setattr(Ledger, "planned", lambda self: pytest.fail("study.json has not changed"))
    monkeypatch.setattr(
        Ledger, "__getitem__", lambda self, run_id, of=Ledger.__getitem__: (read.append(run_id), of(self, run_id))[1]
    )
    ledger.commit(record_of(plan.runs[-2].run))
    with Index(ledger, home) as found:
        found.runs()
        found.lines()
    assert read == [plan.runs[-2].run.id]


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "lost":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "no database":
            path.write_bytes(b"not a database" * 1000)
        case "torn":
            path.write_bytes(whole[: len(whole) // 2])
        case "zeroed":
            path.write_bytes(whole[:5000] + bytes(3000) + whole[8000:])
        case "another number":
            assert whole.count(b"1.2857142857142856") == 2
            path.write_bytes(whole.replace(b"1.2857142857142856", b"1.2057142857142856"))
        case "another version":
            db = sqlite3.connect(path)
            db.execute("DROP TABLE parts")
            db.execute("CREATE TABLE parts (what TEXT)")
            db.commit()
            db.close()
        case "a part less" | "a line less":
            db = sqlite3.connect(path)
            db.execute("DELETE FROM parts" if how == "a part less" else "DELETE FROM lines WHERE position = 2")
            db.commit()
            db.close()


@pytest.mark.parametrize(
    "how",
    "lost, empty, no database, torn, zeroed, another number, another version, a part less, a line less".split(", "),
)
def test_a_lost_or_damaged_index_loses_nothing(ledger: Ledger, home: Path, how: str):
    with Index(ledger, home) as found:
        assert as_the_files_say(found)
        path = found.path
    damaged(path, how)
    with Index(ledger, home) as found:
        assert as_the_files_say(found)
        assert found.path.is_file()


def test_no_flipped_bit_of_an_index_is_believed(ledger: Ledger, home: Path):
    with Index(ledger, home) as found:
        runs, lines = found.runs(), found.lines()
        path = found.path
    whole = path.read_bytes()
    for at in range(0, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with Index(ledger, home) as found:
            assert (found.runs(), found.lines()) == (runs, lines), at


def test_without_a_place_for_it_the_files_do(ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch):
    home.write_text("a file, not a folder")
    with Index(ledger, home) as found:
        assert len(found.runs()) == 8 and len(found.lines()) == 6
    home.unlink()
    monkeypatch.setattr(index, "PATIENCE", 0.01)
    with Index(ledger, home) as found:
        found.runs()
        other = sqlite3.connect(found.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert as_the_files_say(found)
        other.close()


def test_any_number_of_readers_share_an_index(ledger: Ledger, plan: Plan, home: Path):
    gate, expected = threading.Barrier(6), None

    def read(_: int) -> list[str]:
        gate.wait()
        with Index(ledger, home) as found:
            return [*map(str, found.runs()), *found.lines()]

    with ThreadPoolExecutor(6) as pool:
        for step in range(3):
            said = list(pool.map(read, range(6)))
            expected = said[0]
            assert all(one == expected for one in said)
            ledger.fail(plan.runs[-1].run.id, Failure(kind="hang", reason=f"{step}", attempts=step))


def test_more_processes_read_the_same(ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch):
    with Index(ledger, home / "one") as one, Index(ledger, home / "more") as more:
        alone = one.lines()
        monkeypatch.setattr(index, "FORK_AT", 1)
        assert more.lines() == alone and more.runs() == one.runs()


def test_a_record_that_is_none_is_listed_and_no_table_is_made_of_it(ledger: Ledger, plan: Plan, home: Path):
    bad = [p.run.id for p in plan.runs[1:3]]
    for run_id in bad:
        commit_text(ledger.run_folder(run_id) / "record.json", "{}")
    with Index(ledger, home) as found:
        assert [entry.id for entry in found.runs() if entry.status == "unsound"] == bad
        with pytest.raises(Refusal) as refused:
            found.lines()
    assert len(refused.value.faults) == 2 and all(f"{n}/record.json" in str(refused.value) for n in bad)


@pytest.mark.parametrize(
    "field, value",
    [("batch", "eight"), ("model", {"n_layers": [1]}), ("steps", None), ("", 7), ("tokens", "a"), ("loss", "b")],
)
def test_a_record_of_a_stranger_that_holds_what_cannot_be_is_refused(
    ledger: Ledger, plan: Plan, home: Path, field: str, value: object
):
    run_id = plan.runs[1].run.id
    path = ledger.run_folder(run_id) / "record.json"
    values = json.loads(path.read_text())
    of = values["run"] if field in values["run"] else values
    of[field or "status"] = of[field] | value if isinstance(value, dict) else value
    commit_json(path, sealed(values))
    with pytest.raises(Refusal):
        table.rows(ledger)
    with Index(ledger, home) as found, pytest.raises(Refusal):
        found.lines()


HOSTILE = [
    "=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n@x", " =1", "'=1", "''+1", "\uff1d1", "\ud800=1",
    "'", "-", "a=b", 'say "hi", =1',
]  # fmt: skip


def test_no_cell_of_a_table_rules_the_terminal(ledger: Ledger, plan: Plan, home: Path):
    ledger.commit(record_of(plan.runs[-2].run, status="diverged", loss=None, reason="a\x1b[2Jb\0c\x9bd\x7f\r\ne\tf"))
    with Index(ledger, home) as found:
        text = "".join(found.lines())
    assert not table.CONTROLS.search(text) and r"a\x1b[2Jb\x00c\x9bd\x7f" in text and "\ne\tf" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_of_a_table_runs_and_ours_reads_it_back(ledger: Ledger, plan: Plan, home: Path, text: str):
    run = plan.runs[-2].run
    study = ledger.study()
    study["plan"][-2]["group"] = text
    commit_json(ledger.folder / "study.json", study)
    ledger.commit(record_of(run, status="diverged", loss=None, reason=text))
    with Index(ledger, home) as found:
        assert as_the_files_say(found)
    with open(ledger.folder / "runs.csv", newline="") as file:
        row = [*csv.DictReader(file)][-1]
    for name in ("group", "reason"):
        assert row[name].lstrip(" \t\r\n")[:1] not in tuple(table.FORMULA) and row[name][:1] not in tuple("\t\r\n")
    back = read_table(ledger.folder)
    read = text.replace("\ud800", "?").replace("\r", "\n")
    assert [back[name].iloc[-1].replace("\r", "\n") for name in ("group", "reason")] in ([read] * 2, [read.strip()] * 2)
