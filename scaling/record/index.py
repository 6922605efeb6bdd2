"""A list and a table of a results folder with 100,000 runs in a second or two.

An index is a SQLite file in this machine's cache, one for each results folder: what the files said when they were last
read, each with the stamp that it had then. Only what has another stamp is read again. The files are the truth: an index
that is lost, damaged, locked or of another version is made again from them.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import signal
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from scaling.record import table
from scaling.record.ledger import Ledger
from scaling.record.tuning import Tuning
from scaling.spec import Refusal

MOST_FAULTS = 20  # of records that cannot be read, which a refusal names
PATIENCE = 30.0  # seconds for which another process may hold the index: that of making one again, twice
ROOT = Path(__file__).parents[1]
CODE = ("spec.py", "cost.py", "record")  # what decides a row; an index that another version made is not believed
PART, STAT_THREADS = 1000, 8  # runs whose files are asked for in one go, and how many goes at once
FORK_AT = 2000  # files to read from which on more processes pay
FAILED = "failure "  # the stamp of a failure begins so
TABLES = """
CREATE TABLE IF NOT EXISTS about (state TEXT);
CREATE TABLE IF NOT EXISTS runs (position INTEGER PRIMARY KEY, stamp TEXT, entry TEXT, entry_sum INTEGER, line TEXT,
                                 line_sum INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A planned run, as a list shows it."""

    id: str
    group: str
    role: str
    steps: int
    status: str = "pending"  # finished | diverged | failed | pending; unsound: its record or failure cannot be read
    loss: float | None = None  # held-out, nats per token
    reason: str = ""  # why it is diverged, failed or unsound
    kind: str = ""  # of the failure of a run without a record (`Failure.kind`)


FIELDS = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True)
class Row:
    """What the index holds of a run: its entry, and where it is evaluated its line of `runs.csv`."""

    stamp: str  # of the record or failure that the rest was read from
    entry: Entry
    line: str = ""


class _Damaged(Exception):
    """The index is not as it was written."""


class Index:
    """What a results folder holds, by way of an index in `home`, a folder of this machine's own."""

    def __init__(self, ledger: Ledger, home: Path):
        self.ledger = ledger
        name = f"{platform.node()}:{ledger.folder.resolve()}"  # a home folder may be shared by machines
        self.path = Path(home) / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:24]}.sqlite"
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._db:
            self._db.close()
        self._db = None

    def runs(self) -> list[Entry]:
        """Every planned run in the order of the plan, as the files say now. Raises `Refusal` without a study."""
        return self._read(lines=False)[0]

    def lines(self) -> list[str]:
        """The lines of `runs.csv` as the files give them now. Raises `Refusal` for records that are none."""
        entries, found = self._read(lines=True)
        if faults := [entry.reason for entry in entries if entry.status == "unsound"]:
            more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
            raise Refusal(faults[:MOST_FAULTS] + more)
        return [table.HEADER, *found]

    def _read(self, *, lines: bool) -> tuple[list[Entry], list[str]]:
        """The entries, and where asked the lines of evaluated runs; from files alone where SQLite does not serve."""
        for anew in (False, True):
            try:
                return self._at(self._open(anew=anew), lines)
            except (sqlite3.Error, OSError, _Damaged) as error:
                self.close()
                if "locked" in str(error):
                    break
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(TABLES)
        return self._at(self._db, lines)

    def _open(self, *, anew: bool) -> sqlite3.Connection:
        if self._db is None:
            if anew:
                self.path.unlink(missing_ok=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            # What a crash tears is seen by the sums and made again, so nothing waits for the disk.
            self._db.executescript("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;" + TABLES)
        return self._db

    def _at(self, db: sqlite3.Connection, lines: bool) -> tuple[list[Entry], list[str]]:
        db.execute("BEGIN IMMEDIATE")  # of several processes one brings the index up to date
        try:
            entries, state = self._refresh(db, strict=lines)
            found = [*filter(None, _lines(db, state))] if lines else []
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return entries, found

    def _refresh(self, db: sqlite3.Connection, *, strict: bool) -> tuple[list[Entry], str]:
        folder = self.ledger.folder
        now = {"code": _code(), "study": _stamp(folder / "study.json"), "tuning": _stamp(folder / "tuning.json")}
        try:
            tuning = Tuning.of(folder)
        except Refusal:
            if strict:
                raise
            tuning, now["tuning"] = Tuning(groups={}), "not read"
        state = next((text for (text,) in db.execute("SELECT state FROM about")), "{}")
        before = json.loads(state)
        rows = list(_entries(db, state, before.get("runs", 0)))
        if before != now | {"runs": len(rows)}:
            known = {}
            if all(before.get(name) == now[name] for name in ("code", "tuning")):
                known = {
                    row.entry.id: replace(row, line=line) for row, line in zip(rows, _lines(db, state), strict=True)
                }
            plan = (Entry(*planned) for planned in self.ledger.planned())
            rows = [_carried(known.get(planned.id), planned) for planned in plan]
            del known
            state = json.dumps(now | {"runs": len(rows)})
            db.execute("DELETE FROM runs")
            _put(db, state, enumerate(rows))
            db.execute("DELETE FROM about")
            db.execute("INSERT INTO about VALUES (?)", [state])
        entries = [row.entry for row in rows]
        stamps = enumerate(_stamps(folder, [entry.id for entry in entries]))
        changed = [(position, stamp) for position, stamp in stamps if stamp != rows[position].stamp]
        del rows

        def read() -> Iterator[tuple[int, Row]]:
            jobs = ((entries[position], stamp) for position, stamp in changed)
            for (position, _), row in zip(changed, _read_all(self.ledger, tuning, jobs, len(changed)), strict=True):
                entries[position] = row.entry
                yield position, row

        _put(db, state, read())
        return entries, state


def _read_all(ledger: Ledger, tuning: Tuning, jobs: Iterable[tuple[Entry, str]], count: int) -> Iterator[Row]:
    """`_read` of each, by every core where there are many and this process is free to fork: it has no threads."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if count < FORK_AT or cores == 1 or threading.active_count() > 1:
        yield from (_read(ledger, planned, stamp, tuning) for planned, stamp in jobs)
        return
    with multiprocessing.get_context("fork").Pool(min(cores, 8), _begin_reading, (ledger, tuning)) as pool:
        yield from pool.imap(_read_one, jobs, chunksize=PART // 4)


def _begin_reading(ledger: Ledger, tuning: Tuning) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    reading["of"] = ledger, tuning


reading: dict[str, tuple[Ledger, Tuning]] = {}  # in a process of `_read_all`


def _read_one(job: tuple[Entry, str]) -> Row:
    ledger, tuning = reading["of"]
    return _read(ledger, *job, tuning)


def _code() -> str:
    """A digest of what decides a row."""
    files = [path for name in CODE for path in (ROOT.glob(f"{name}/*.py") if name == "record" else [ROOT / name])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _stamp(path: str | Path) -> str:
    """What is another whenever a file has changed, also one that was put in its place; empty where there is none."""
    try:
        of = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{of.st_mtime_ns} {of.st_ctime_ns} {of.st_size} {of.st_ino}"


def _stamps(folder: Path, ids: Sequence[str]) -> Iterator[str]:
    """Of each run's record, or else of its failure."""
    try:
        there = {entry.name for entry in os.scandir(folder / "runs")}
    except FileNotFoundError:
        there = set()
    runs = f"{folder}/runs"

    def of(run_id: str) -> str:
        if run_id not in there:
            return ""
        if record := _stamp(f"{runs}/{run_id}/record.json"):
            return record
        failure = _stamp(f"{runs}/{run_id}/failure.json")
        return failure and FAILED + failure

    with ThreadPoolExecutor(STAT_THREADS) as pool:  # a shared disk answers many at once
        parts = [ids[start : start + PART] for start in range(0, len(ids), PART)]
        for part in pool.map(lambda part: [of(run_id) for run_id in part], parts):
            yield from part


def _read(ledger: Ledger, planned: Entry, stamp: str, tuning: Tuning) -> Row:
    """What the files say of a run now."""
    bare = Entry(planned.id, planned.group, planned.role, planned.steps)
    try:
        if not stamp or stamp.startswith(FAILED):
            failure = ledger.failure(planned.id) if stamp else None
            said = {"status": "failed", "reason": failure.reason, "kind": failure.kind} if failure else {}
            return Row(stamp, replace(bare, **said))
        record, line = ledger[planned.id], ""
        if planned.role != "trunk":
            line = table.line(table.row(record, planned.group, planned.role, tuning))
        return Row(stamp, replace(bare, status=record.status, loss=record.loss, reason=record.reason), line)
    except KeyError:  # it was reopened meanwhile
        return Row("", bare)
    except (Refusal, OSError) as error:
        return Row(stamp, replace(bare, status="unsound", reason=str(error)))


def _carried(row: Row | None, planned: Entry) -> Row:
    """What was known of a run that is planned as it was."""
    same = row and all(getattr(row.entry, name) == getattr(planned, name) for name in ("group", "role", "steps"))
    return row if row and same else Row("", planned)


def _put(db: sqlite3.Connection, state: str, rows: Iterable[tuple[int, Row]]) -> None:
    def values() -> Iterator[tuple[Any, ...]]:
        for position, row in rows:
            entry = json.dumps([getattr(row.entry, name) for name in FIELDS])
            first = (position, row.stamp, entry)
            yield (*first, _sum(state, *first), row.line, _sum(state, *first, row.line))

    db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", values())


def _entries(db: sqlite3.Connection, state: str, count: int) -> Iterator[Row]:
    """Entries and stamps. Raises `_Damaged` for rows that are not those that were put in for this state."""
    found = db.execute("SELECT position, stamp, entry, entry_sum FROM runs ORDER BY position").fetchall()
    if [position for position, *_ in found] != list(range(count)):
        raise _Damaged
    for position, stamp, entry, kept in found:
        if kept != _sum(state, position, stamp, entry):
            raise _Damaged
        yield Row(stamp, Entry(*json.loads(entry)))


def _lines(db: sqlite3.Connection, state: str) -> Iterator[str]:
    """Of every run; empty for one that the table has not. Raises `_Damaged` as `_entries` does."""
    for *values, kept in db.execute("SELECT position, stamp, entry, line, line_sum FROM runs ORDER BY position"):
        if kept != _sum(state, *values):
            raise _Damaged
        yield values[-1]


def _sum(state: str, *values: int | str) -> int:
    return zlib.crc32("\0".join([state, *map(str, values)]).encode())
