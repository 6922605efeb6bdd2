import subprocess
import sys
from pathlib import Path

import pytest

from scaling.record import Ledger, files
from scaling.record.files import beside, commit_text
from scaling.record.litter import clear
from scaling.spec import RunSpec
from tests.record.test_record import record_of

PLACES = ("report.html", "figures/f.svg", "holders/x", "runs/{}/metrics.jsonl", "runs/{}/checkpoints/7")


def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def ledger(tmp_path: Path, tiny: RunSpec) -> Ledger:
    found = Ledger(tmp_path)
    found.commit(record_of(tiny))
    for step in (6, 7):
        commit_text(found.run_folder(tiny.id) / "checkpoints" / str(step) / "manifest.json", "{}")
    commit_text(found.run_folder(tiny.id) / "checkpoints" / "bad-5" / "manifest.json", "{}")
    return found


def asides(ledger: Ledger, run_id: str, pid: int, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(files.os, "getpid", lambda: pid)
    found = [beside(ledger.folder / place.format(run_id)) for place in PLACES]
    monkeypatch.undo()
    for path in found:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    return found


def test_what_the_dead_left_half_written_goes_and_what_the_living_write_stays(
    ledger: Ledger, tiny: RunSpec, monkeypatch
):
    gone = asides(ledger, tiny.id, dead(), monkeypatch)
    kept = asides(ledger, tiny.id, files.os.getpid(), monkeypatch)
    others = {path for path in ledger.folder.rglob("*") if path.is_file() and path not in gone}
    assert clear(ledger, [tiny.id], []) == len(PLACES)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
    assert {path for path in ledger.folder.rglob("*") if path.is_file()} == others


def test_what_strangers_left_is_cleared_by_who_is_alone_and_our_own_dead_by_anybody(
    ledger: Ledger, tiny: RunSpec, monkeypatch
):
    ours = asides(ledger, tiny.id, dead(), monkeypatch)
    monkeypatch.setattr(files, "processes", lambda: "0" * 8)  # another machine, or another container of this one
    theirs = asides(ledger, tiny.id, dead(), monkeypatch)
    assert clear(ledger, [tiny.id], [tiny.id], alone=lambda: False) == len(ours)
    assert not any(path.exists() for path in ours) and all(path.exists() for path in theirs)
    assert ledger.checkpoint_steps(tiny.id) == {6, 7}
    assert clear(ledger, [tiny.id], [tiny.id]) == len(theirs) + 2


def test_a_finished_run_keeps_no_weights_but_those_set_aside(ledger: Ledger, tiny: RunSpec):
    """Its worker may have been killed between the record and their deletion."""
    clear(ledger, [tiny.id], [])
    assert ledger.checkpoint_steps(tiny.id) == {6, 7}, "a trunk's are needed"
    clear(ledger, [tiny.id], [tiny.id])
    assert [path.name for path in (ledger.run_folder(tiny.id) / "checkpoints").iterdir()] == ["bad-5"]


def test_nothing_is_deleted_where_a_link_leads(ledger: Ledger, tiny: RunSpec, tmp_path_factory, monkeypatch):
    away = tmp_path_factory.mktemp("away")
    (ledger.run_folder("a" * 12)).symlink_to(away)
    monkeypatch.setattr(files.os, "getpid", dead)
    theirs = beside(away / "metrics.jsonl")
    monkeypatch.undo()
    theirs.write_text("half")
    clear(ledger, ["a" * 12], ["a" * 12])
    assert theirs.exists()
