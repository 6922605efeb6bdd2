"""A list and a table of a results folder with 100,000 runs in a second or two.

An index is a SQLite file in this machine's cache, one for each results folder: what the files said when they were last
read, each with the stamp that it had then. Only what has another stamp is read again. The files are the truth: an index
that is lost, damaged, locked or of another version is made again from them.
"""

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import platform
import signal
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from scaling.record import table
from scaling.record.ledger import Ledger
from scaling.record.tuning import Tuning
from scaling.spec import Refusal

MOST_FAULTS = 20  # of records that cannot be read, which a refusal names
PATIENCE = 30.0  # seconds for which another process may hold the index: that of making one again, twice
ROOT = Path(__file__).parents[1]
CODE = ("spec.py", "cost.py", "record")  # what decides a row; an index that another version made is not believed
PART = 500  # runs that are kept, asked for and read in one go
STAT_THREADS, SLOW_STAT = 8, 5e-5  # goes at once where a file's stamp takes longer than so many seconds: a shared disk
FORK_AT = 2000  # files to read from which on more processes pay
FAILED = "failure "  # the stamp of a failure begins so
TABLES = """
CREATE TABLE IF NOT EXISTS about (state TEXT);
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY, rows TEXT, sum INTEGER);
CREATE TABLE IF NOT EXISTS lines (position INTEGER PRIMARY KEY, line TEXT, sum INTEGER);
"""


class Entry(NamedTuple):
    """A planned run, as a list shows it."""

    id: str
    group: str
    role: str
    steps: int
    status: str = "pending"  # finished | diverged | failed | pending; unsound: its record or failure cannot be read
    loss: float | None = None  # held-out, nats per token
    reason: str = ""  # why it is diverged, failed or unsound
    kind: str = ""  # of the failure of a run without a record (`Failure.kind`)


class Row(NamedTuple):
    """What the index holds of a run, beside its line of `runs.csv`."""

    stamp: str  # of the record or failure that the rest was read from
    entry: Entry

    @property
    def in_table(self) -> bool:
        return bool(self.stamp) and not self.stamp.startswith(FAILED) and self.entry.role != "trunk"


class _Damaged(Exception):
    """The index is not as it was written."""


class Index:
    """What a results folder holds, by way of an index in `home`, a folder of this machine's own."""

    def __init__(self, ledger: Ledger, home: Path):
        self.ledger = ledger
        name = f"{platform.node()}:{os.path.realpath(ledger.folder)}"  # a home folder may be shared by machines
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
            with _no_search_for_cycles():
                rows, state = self._refresh(db, strict=lines)
                found = [line for _, line in _lines(db, state, rows)] if lines else []
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return [row.entry for row in rows], found

    def _refresh(self, db: sqlite3.Connection, *, strict: bool) -> tuple[list[Row], str]:
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
        rows = _rows(db, state, before.get("runs", 0))
        if before != now | {"runs": len(rows)}:
            known: dict[str, tuple[Row, str]] = {}
            if all(before.get(name) == now[name] for name in ("code", "tuning")):
                lines = dict(_lines(db, state, rows))
                known = {row.entry.id: (row, lines.get(position, "")) for position, row in enumerate(rows)}
            found = [_carried(known.get(planned[0]), Entry(*planned)) for planned in self.ledger.planned()]
            rows = [row for row, _ in found]
            state = json.dumps(now | {"runs": len(rows)})
            for name in ("parts", "lines", "about"):
                db.execute(f"DELETE FROM {name}")
            db.execute("INSERT INTO about VALUES (?)", [state])
            _put_rows(db, state, rows, range(0, len(rows), PART))
            _put_lines(db, state, rows, ((position, line) for position, (_, line) in enumerate(found)))
            del known, found
        stamps = enumerate(_stamps(folder, [row.entry.id for row in rows]))
        changed = [(position, stamp) for position, stamp in stamps if stamp != rows[position].stamp]

        def read() -> Iterator[tuple[int, str]]:
            jobs = ((rows[position].entry, stamp) for position, stamp in changed)
            for (position, _), (row, line) in zip(
                changed, _read_all(self.ledger, tuning, jobs, len(changed)), strict=True
            ):
                rows[position] = row
                yield position, line

        _put_lines(db, state, rows, read())
        _put_rows(db, state, rows, sorted({position - position % PART for position, _ in changed}))
        return rows, state


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Nothing of what is read here refers to itself, and looking for what does takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read_all(
    ledger: Ledger, tuning: Tuning, jobs: Iterable[tuple[Entry, str]], count: int
) -> Iterator[tuple[Row, str]]:
    """`_read` of each, by every core where there are many and this process is free to fork: it has no threads."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if count < FORK_AT or cores == 1 or threading.active_count() > 1:
        yield from (_read(ledger, planned, stamp, tuning) for planned, stamp in jobs)
        return
    with multiprocessing.get_context("fork").Pool(min(cores, 8), _begin_reading, (ledger, tuning)) as pool:
        yield from pool.imap(_read_one, jobs, chunksize=PART // 2)


def _begin_reading(ledger: Ledger, tuning: Tuning) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    reading["of"] = ledger, tuning


reading: dict[str, tuple[Ledger, Tuning]] = {}  # in a process of `_read_all`


def _read_one(job: tuple[Entry, str]) -> tuple[Row, str]:
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

    began, first = time.perf_counter(), min(PART, len(ids))
    yield from [of(run_id) for run_id in ids[:first]]
    if time.perf_counter() - began < SLOW_STAT * first:
        yield from map(of, ids[first:])
        return
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        parts = [ids[start : start + PART] for start in range(first, len(ids), PART)]
        for part in pool.map(lambda part: [of(run_id) for run_id in part], parts):
            yield from part


def _read(ledger: Ledger, planned: Entry, stamp: str, tuning: Tuning) -> tuple[Row, str]:
    """What the files say of a run now, and its line of `runs.csv`: empty where it has none there."""
    bare = Entry(planned.id, planned.group, planned.role, planned.steps)
    try:
        if not stamp or stamp.startswith(FAILED):
            failure = ledger.failure(planned.id) if stamp else None
            said = {"status": "failed", "reason": failure.reason, "kind": failure.kind} if failure else {}
            return Row(stamp, bare._replace(**said)), ""
        record = ledger[planned.id]
        row = Row(stamp, bare._replace(status=record.status, loss=record.loss, reason=record.reason))
        values = table.row(planned.id, record, planned.group, planned.role, tuning) if row.in_table else None
        return row, table.line(values) if values else ""
    except KeyError:  # it was reopened meanwhile
        return Row("", bare), ""
    except (Refusal, OSError) as error:
        return Row(stamp, bare._replace(status="unsound", reason=str(error))), ""


def _carried(known: tuple[Row, str] | None, planned: Entry) -> tuple[Row, str]:
    """What was known of a run that is planned as it was."""
    same = known and known[0].entry[:4] == planned[:4]
    return known if known and same else (Row("", planned), "")


def _put_rows(db: sqlite3.Connection, state: str, rows: Sequence[Row], starts: Iterable[int]) -> None:
    """Those of the parts that begin at these positions."""

    def values() -> Iterator[tuple[int, str, int]]:
        for start in starts:
            text = json.dumps([[row.stamp, *row.entry] for row in rows[start : start + PART]])
            yield start, text, _sum(state, start, text)

    db.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", values())


def _put_lines(db: sqlite3.Connection, state: str, rows: Sequence[Row], lines: Iterable[tuple[int, str]]) -> None:
    values = ((at, line, _sum(state, at, rows[at].stamp + line)) for at, line in lines)
    db.executemany("INSERT OR REPLACE INTO lines VALUES (?, ?, ?)", values)


def _rows(db: sqlite3.Connection, state: str, count: int) -> list[Row]:
    """Raises `_Damaged` for rows that are not those that were put in for this state."""
    rows = []
    for start, text, kept in db.execute("SELECT part, rows, sum FROM parts ORDER BY part"):
        if start != len(rows) or kept != _sum(state, start, text):
            raise _Damaged
        rows += [Row(stamp, Entry(*of)) for stamp, *of in json.loads(text)]
    if len(rows) != count:
        raise _Damaged
    return rows


def _lines(db: sqlite3.Connection, state: str, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Of every run that the table has, with its position. Raises `_Damaged` as `_rows` does."""
    position = -1
    for position, (at, line, kept) in enumerate(db.execute("SELECT position, line, sum FROM lines ORDER BY position")):
        if at != position or position >= len(rows) or kept != _sum(state, position, rows[position].stamp + line):
            raise _Damaged
        if rows[position].in_table and rows[position].entry.status != "unsound":
            if not line:
                raise _Damaged
            yield position, line
    if position != len(rows) - 1:
        raise _Damaged


def _sum(state: str, position: int, text: str) -> int:
    return zlib.crc32(text.encode(), zlib.crc32(f"{position} {state}".encode()))
