"""The judges of benchmarks/chaos.py: each fault that a storm may do is found, and an orderly folder has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.storms.commits import Disk, calls
from benchmarks.storms.ground import Found, Ground, Results, Row, compare, marks
from scaling.record import Ledger, RunRecord
from scaling.spec import RunSpec


def results(folder: Path, run: RunSpec, loss: float = 1.25, steps: tuple[int, ...] = (1, 2)) -> Path:
    """A results folder with one run."""
    ledger = Ledger(folder)
    (ledger.begin(run) / "metrics.jsonl").write_text("".join(json.dumps({"step": s}) + "\n" for s in steps))
    ledger.commit(RunRecord(
        run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0, loss=loss,
        loss_se=None, bits_per_byte=None, entropy=None, clock=None, data={}, machine={},
    ))  # fmt: skip
    (folder / "runs.csv").write_text(f"loss\n{loss}\n")
    return folder


def test_two_folders_of_the_same_results_have_no_difference(tiny: RunSpec, tmp_path: Path):
    reference = Results.of(results(tmp_path / "one", tiny))
    assert not compare(results(tmp_path / "other", tiny), reference)


def test_what_a_storm_broke_is_found_by_its_kind(tiny: RunSpec, tmp_path: Path):
    reference = Results.of(results(tmp_path / "reference", tiny))
    (record,) = reference.records

    assert compare(tmp_path / "empty", reference) == Found(
        lost=[f"run {record} has no record that can be read"], silent=[], twice=[], wrong=[]
    )
    off = compare(results(tmp_path / "off", tiny, loss=1.2500000000000002), reference)
    assert len(off.silent) == 2 and not off.lost  # the run and the table
    doubled = compare(results(tmp_path / "doubled", tiny, steps=(1, 2, 2)), reference)
    assert len(doubled.twice) == 1
    again = results(tmp_path / "again", tiny)
    marks(again).mkdir()
    (marks(again) / "committed").write_text(f"{record} 11\n{record} 12\n")
    assert compare(again, reference).twice == [f"run {record} was finished 2 times"]
    (again / "runs" / record / ".record.json.0123.part").touch()
    assert len(compare(again, reference).wrong) == 1


def test_a_row_counts_the_tries_that_left_something_wrong():
    row = Row(storm="any")
    for found in (Found(), Found(lost=["a", "b"]), Found(silent=["c"])):
        row.judge("a try", found)
    assert (row.tries, row.survived, len(row.found.lost)) == (3, 1, 2)
    assert Row.from_json(json.loads(json.dumps(row.to_json()))).survived == 1


def trace(*lines: str) -> list[tuple[str, str]]:
    found = Disk.after(calls(f"{line}\n" for line in lines), Path("/r")).commits
    return [(path.name, fault) for path, fault in found]


WRITTEN = (
    '7 openat(AT_FDCWD</home>, "/r/runs/.record.part", O_WRONLY|O_CREAT|O_EXCL, 0666) = 5</r/runs/.record.part>',
    '7 write(5</r/runs/.record.part>, ""..., 12) = 12',
)
FLUSHED = (
    "7 fsync(5</r/runs/.record.part> <unfinished ...>",
    '9 write(3</r/logs/w>, "", 1) = 1',
    "7 <... fsync resumed>) = 0",
)
NAMED = ('7 rename("/r/runs/.record.part", "/r/runs/record.json") = 0',)
FOLDER = ("7 fsync(6</r/runs>) = 0",)


def test_a_commit_is_of_flushed_contents_and_its_folder_is_flushed_after():
    assert trace(*WRITTEN, *FLUSHED, *NAMED, *FOLDER) == [("record.json", "")]
    assert "is not flushed" in trace(*WRITTEN, *NAMED, *FOLDER)[0][1]
    assert "is not flushed" in trace(*WRITTEN, *NAMED, *FLUSHED, *FOLDER)[0][1]
    assert "before the next commit" in trace(*WRITTEN, *FLUSHED, *NAMED)[0][1]
    assert "before the next commit" in trace(*WRITTEN, *FLUSHED, *FOLDER, *NAMED)[0][1]
    failed = '7 rename("/r/runs/.record.part", "/r/runs/record.json") = -1 ENOENT (No such file or directory)'
    assert trace(*WRITTEN, failed) == []


def test_a_folder_is_committed_with_everything_in_it_flushed():
    made = (
        '7 mkdir("/r/c/.5.part", 0777) = 0',
        '7 mkdir("/r/c/.5.part/d", 0777) = 0',
        '7 openat(AT_FDCWD</home>, "/r/c/.5.part/d/a", O_RDWR|O_CREAT, 0666) = 5</r/c/.5.part/d/a>',
        '7 pwrite64(5</r/c/.5.part/d/a>, ""..., 9, 0) = 9',
    )
    flushes = [f"7 fsync(5</r/c/.5.part{name}>) = 0" for name in ("/d/a", "/d", "")]
    commit = ('7 rename("/r/c/.5.part", "/r/c/5") = 0', "7 fsync(6</r/c>) = 0")
    assert trace(*made, *flushes, *commit) == [("5", "")]
    for missing in range(len(flushes)):
        assert trace(*made, *flushes[:missing], *flushes[missing + 1 :], *commit)[0][1], flushes[missing]


@pytest.mark.parametrize(("name", "status"), [("ATTEMPTS", 0), ("NO_SUCH_CONSTANT", 1)])
def test_a_storm_reaches_every_process_or_says_that_it_missed(tmp_path: Path, name: str, status: int):
    ground = Ground(tmp_path, constants={f"scaling.launch.local.{name}": 17})
    code = "import scaling.launch.local as local; print(local.ATTEMPTS)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ground.environment(tmp_path / "out"), capture_output=True, text=True
    )
    assert done.returncode == status and done.stdout == ("17\n" if not status else "")
    assert "STORM" not in os.environ
