"""A results folder as it changes: what every planned run is doing, read again at the cost of what is new.

A refresh lists the folders of runs without a record, and reads the lines that their curves gained. Nothing is written.
"""

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from scaling.cost import count_params
from scaling.record.claims import Observer
from scaling.record.failure import Failure
from scaling.record.files import names, on_store
from scaling.record.ledger import Ledger, command_of
from scaling.spec import ModelSpec, Refusal, from_json

POINTS = 200  # of a curve, at most; a longer one is thinned by halves
READ_BYTES = 8 << 20  # of one curve in one refresh, at most
CHECKED = 2000  # runs with a record whose record is looked for again in one refresh: a trunk may be reopened
STORE_CHECKED = 4  # in a bucket, where each look is a request
RATE_CHANGES = 16  # of a curve, over which its rate is taken
END_BYTES = 256  # of what was read, by which a file that was replaced is told from one that grew

Status = Literal["finished", "diverged", "failed", "running", "begun", "pending"]
MOST_STEPS = 2**53  # of a row that is believed
MOST_CURVES = 2000  # of runs that are over, which are kept
STATUSES: tuple[Status, ...] = ("running", "begun", "failed", "diverged", "pending", "finished")  # as they are listed


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A supervisor process that takes part in the sweep."""

    name: str
    host: str
    job: str  # of the cluster's scheduler, where there is one
    live: bool  # it may be at work still
    runs: tuple[str, ...]  # in its hands, without a record


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNow:
    """What one planned run is doing."""

    id: str
    group: str
    role: str
    n: int  # parameters, non-embedding and head
    steps: int
    batch_tokens: int
    begins: int  # the step at which it leaves its trunk, else 0
    status: Status = "pending"
    step: int = 0
    train_loss: float | None = None  # of the last row, nats per token
    loss: float | None = None  # held out, nats per token, once it is recorded
    tokens_per_second: float | None = None  # of the record, else as its rows came while it was watched
    reason: str = ""  # why it is not finished
    way_out: str = ""  # what has a failed one tried again
    host: str = ""  # where it is worked on

    @property
    def fraction(self) -> float:
        """Of its own steps that are done."""
        return min(1.0, max(0.0, (self.step - self.begins) / max(1, self.steps - self.begins)))


class Tail:
    """The rows of a metrics.jsonl that grows: each whole line once; a torn last one waits for its rest.

    In a bucket it grows by being another one.
    """

    def __init__(self, path: Path | str):
        self._path = Path(path) if isinstance(path, str) else path
        self._forget()

    def _forget(self) -> None:
        self._at, self._end, self._seen = 0, b"", (0, 0, -1, 0)

    def rows(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether the file is another one, so that earlier rows no longer count; the rows that are new)"""
        try:
            seen = self._path.stat()
            if (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns) == self._seen:
                return False, []
            if on_store(self._path):
                anew, self._at = self._at > 0, 1
                self._seen = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
                rows = [_row(line) for line in self._path.read_bytes().splitlines()]
                return anew, [row for row in rows if row is not None]
            with open(self._path, "rb") as file:
                seen = os.fstat(file.fileno())
                file.seek(self._at - len(self._end))
                text = file.read(READ_BYTES)
                # A file system gives the number of a deleted file to a new one, so what was read is compared, too.
                other = (seen.st_dev, seen.st_ino) != self._seen[:2] or not text.startswith(self._end)
                if other:
                    file.seek(0)
                    text = file.read(READ_BYTES)
        except FileNotFoundError:
            begun, _ = self._at > 0, self._forget()
            return begun, []
        except OSError:  # a shared disk that is away for a while
            return False, []
        anew = other and self._at > 0
        if other:
            self._at = 0
        else:
            text = text[len(self._end) :]
        whole = text.rfind(b"\n") + 1 or (len(text) if len(text) > READ_BYTES // 2 else 0)  # a line of 4 MiB is none
        read = text[:whole]
        self._end = ((b"" if other else self._end) + read)[-END_BYTES:]
        self._at += whole
        rest = seen.st_size > self._at + len(text) - whole
        self._seen = (seen.st_dev, seen.st_ino, -1 if rest else seen.st_size, seen.st_mtime_ns)
        return anew, [row for line in read.splitlines() if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """A logged row; None for what a stopped run holds of the next one (`open`), and for what a crash left behind."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or "open" in row:
        return None
    return row if 0 <= row["step"] < MOST_STEPS else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max else None


@dataclass
class Curve:
    """(tokens, loss) of a run's rows, `POINTS` of them at most."""

    whole_since: int = 0  # the refresh at which all earlier points were replaced
    _points: list[tuple[int, float, int]] = field(default_factory=list)  # with the refresh that brought it
    _stride: int = 1
    _rows: int = 0

    def restart(self, version: int) -> None:
        self._points, self._stride, self._rows, self.whole_since = [], 1, 0, version

    def add(self, tokens: int, loss: float, version: int) -> None:
        self._rows += 1
        if (self._rows - 1) % self._stride:
            return
        self._points.append((tokens, loss, version))
        if len(self._points) > POINTS:
            self._points, self._stride, self.whole_since = self._points[::2], 2 * self._stride, version

    def points(self, since: int = -1) -> list[tuple[int, float]]:
        """All of them, or those that came after the refresh `since`."""
        return [(tokens, loss) for tokens, loss, version in self._points if version > since]


class _Followed:
    """The curve of a run that has one."""

    def __init__(self, folder: Path, batch_tokens: int, drawn: bool):
        self._drawn = drawn
        self.curve, self.step, self.loss = Curve(), 0, None
        self._tail, self._batch_tokens = Tail(folder / "metrics.jsonl"), batch_tokens
        self._seen: deque[tuple[float, int]] = deque(maxlen=RATE_CHANGES)  # (seconds, step) when rows came

    def read(self, version: int, now: float) -> bool:
        """Take the new rows; False where there were none."""
        anew, rows = self._tail.rows()
        if anew:
            self.step, self.loss = 0, None
            self.curve.restart(version)
        for row in rows:
            self.step, self.loss = row["step"], _number(row.get("loss"))
            if self.loss is not None and self._drawn:
                self.curve.add(self.step * self._batch_tokens, self.loss, version)
        if rows:
            if self._seen and self.step < self._seen[-1][1]:  # it went back to a checkpoint
                self._seen.clear()
            self._seen.append((now, self.step))
        return anew or bool(rows)

    def rate(self, now: float) -> float | None:
        """Tokens per second between the first of the last changes and now."""
        if len(self._seen) < 2:
            return None
        (since, first), (_, last) = self._seen[0], self._seen[-1]
        return (last - first) * self._batch_tokens / max(now - since, 1e-9)


class _Watched:
    """One planned run between refreshes."""

    __slots__ = ("now", "trunk", "changed", "recorded", "followed")

    def __init__(self, now: RunNow, trunk: str):
        self.now, self.trunk, self.recorded = now, trunk, False
        self.changed = 0  # the last refresh that found something new
        self.followed: _Followed | None = None

    def read(self, folder: Path, version: int, now: float, drawn: bool) -> _Followed:
        """Its curve, read to the end; its points are kept where it is `drawn`."""
        self.followed = self.followed or _Followed(folder, self.now.batch_tokens, drawn)
        if self.followed.read(version, now):
            self.changed = version
        return self.followed


class Live:
    """The runs of a results folder and who is at work on them; `refresh` brings both up to date.

    `curves`: of how many recorded runs the curve is read as well, in the order of the plan. `finished`: losses by id of
    runs that an index knows to be finished, whose records are then not read. Raises `Refusal` where the folder holds no
    study.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        curves: int = 0,
        finished: Mapping[str, float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.ledger, self.study = ledger, {}
        self.version = 0  # of refreshes
        self.participants: tuple[Participant, ...] = ()
        self._observer, self._curves, self._clock = Observer(ledger.folder), curves, clock
        self._drawn = curves > 0
        self._over: deque[_Watched] = deque()  # recorded, and their curves kept
        self._finished = dict(finished or {})
        self._asked: tuple[int, ...] = ()
        self._watched: dict[str, _Watched] = {}
        self._next_checked = 0
        self._somebody = False  # was seen at work

    def refresh(self) -> None:
        self.version += 1
        self._read_study()
        self._see_participants()
        held = {run_id: p for p in sorted(self.participants, key=lambda p: p.live) for run_id in p.runs}
        self._check_again()
        there = _names(self.ledger.folder / "runs")
        for run_id, one in self._watched.items():
            if one.recorded:
                continue
            if run_id in there:
                self._look(one, _names(self._folder(run_id)), held.get(run_id))
            elif one.trunk or run_id in held or one.now.status != "pending":
                self._look(one, set(), held.get(run_id))

    def _folder(self, run_id: str) -> Path:
        return self.ledger.folder / "runs" / run_id

    @property
    def runs(self) -> list[RunNow]:
        """In the order of the plan."""
        return [one.now for one in self._watched.values()]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(one.now.status for one in self._watched.values())
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def at_work(self) -> bool:
        return any(p.live for p in self.participants)

    def _any(self, *statuses: Status) -> bool:
        return any(one.now.status in statuses for one in self._watched.values())

    @property
    def go_on(self) -> str:
        """The command that goes on with what is left, while nobody is at work; else empty."""
        left = not self.at_work and self._any("begun", "pending", "failed")
        return (command_of(self.study) or "scaling run EXPERIMENT") if left else ""

    @property
    def over(self) -> bool:
        """Nothing is left to do, or nobody who was seen at work is so any more."""
        return not self._any("running", "begun", "pending") or (self._somebody and not self.at_work)

    def changed(self, since: int) -> Iterator[tuple[RunNow, Curve]]:
        """The runs that changed after the refresh `since`."""
        for one in self._watched.values():
            if one.changed > since:
                yield one.now, one.followed.curve if one.followed else Curve()

    def _read_study(self) -> None:
        """A sweep may gain runs while it is watched."""
        path = self.ledger.folder / "study.json"
        try:
            found = path.stat()
            asked = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            asked = ()  # `study` says what is the matter
        if asked and asked == self._asked:
            return
        sizes: dict[str, int] = {}
        study = self.ledger.read_study(lambda planned: _watched(planned, sizes))
        self._asked, before = asked, self._watched
        plan: list[_Watched] = study.pop("plan")
        self.study, self._watched = study, {one.now.id: before.get(one.now.id, one) for one in plan}
        for run_id in self._finished.keys() & self._watched.keys():
            one = self._watched[run_id]
            one.recorded = True
            self._set(one, status="finished", step=one.now.steps, loss=self._finished.pop(run_id))

    def _look(self, one: _Watched, names: set[str], by: Participant | None) -> None:
        """What a run without a record does; `names` are those in its folder, `by` who has it in hand."""
        if "record.json" in names:
            self._take_record(one)
            return
        now = self._clock()
        there = names or one.followed
        curve = one.read(self._folder(one.now.id), self.version, now, self._drawn) if there else None
        step, train_loss = (curve.step, curve.loss) if curve else (0, None)
        live = by is not None and by.live
        failed = self._failure(one.now.id) if "failure.json" in names and not live else None
        status: Status = "running" if live else "failed" if failed else "begun" if step > 0 else "pending"
        reason = way_out = ""
        if failed:
            reason, way_out = failed.reason + (f"; see {failed.log}" if failed.log else ""), failed.way_out
        elif not live:
            reason = f"{by.name} on {by.host}, which held it, is gone" if by else self._waits_for(one.trunk)
        self._set(
            one, status=status, step=step, train_loss=train_loss, loss=None, host=by.host if by and live else "",
            reason=reason, way_out=way_out,
            tokens_per_second=curve.rate(now) if curve and status in ("running", "begun") else None,
        )  # fmt: skip

    def _take_record(self, one: _Watched) -> None:
        """What the record says, once; a curve that was watched is read to its end."""
        watched = one.now.status in ("running", "begun")
        if watched or self._curves > 0:
            one.read(self._folder(one.now.id), self.version, self._clock(), self._drawn)
            self._curves -= not watched
        try:
            record = self.ledger[one.now.id]
        except (KeyError, Refusal) as error:
            said = error.faults[0] if isinstance(error, Refusal) else "its record is gone"
            way_out = "`scaling verify` checks the whole folder"
            self._set(one, status="failed", reason=said, way_out=way_out, host="")
            return
        one.recorded = True
        self._set(
            one, status=record.status, step=record.tokens // one.now.batch_tokens, loss=record.loss, host="",
            reason=record.reason, way_out="", train_loss=None,
            tokens_per_second=record.clock.tokens_per_second if record.clock else None,
        )  # fmt: skip
        if one.followed:
            self._over.append(one)
        while len(self._over) > (MOST_CURVES if self._drawn else 0):  # a long watch of many runs fits the memory
            self._over.popleft().followed = None

    def _check_again(self) -> None:
        """Some of the recorded runs, in turn: a supervisor may have reopened one."""
        recorded = [one for one in self._watched.values() if one.recorded]
        most = STORE_CHECKED if on_store(self.ledger.folder) else CHECKED
        for _ in range(min(most, len(recorded))):
            self._next_checked = (self._next_checked + 1) % len(recorded)
            one = recorded[self._next_checked]
            one.recorded = (self._folder(one.now.id) / "record.json").exists()

    def _set(self, one: _Watched, **values: Any) -> None:
        if any(getattr(one.now, name) != value for name, value in values.items()):
            one.now, one.changed = replace(one.now, **values), self.version

    def _waits_for(self, trunk: str) -> str:
        found = self._watched.get(trunk)
        if found is None or found.now.status == "finished":
            return ""
        return f"its trunk {trunk} {'diverged' if found.now.status == 'diverged' else f'is {found.now.status}'}"

    def _failure(self, run_id: str) -> Failure | None:
        try:
            return self.ledger.failure(run_id)
        except Refusal as refusal:
            return Failure(kind="error", reason=refusal.faults[0], attempts=1)

    def _see_participants(self) -> None:
        found = []
        for name in self._observer.names():
            live, said = self._observer.live(name), self._observer.sighting(name)
            if said:
                left = (*(i for i in said.runs if i in self._watched and not self._watched[i].recorded),)
                found.append(Participant(name=name, host=said.host, job=said.job, live=live, runs=left))
        self.participants = (*found,)
        self._somebody = self._somebody or self.at_work


def _watched(planned: Mapping[str, Any], sizes: dict[str, int]) -> _Watched:
    """`sizes` are the parameters of the models so far: made of plain values, since a plan may hold 100,000 runs."""
    try:
        run, branch = planned["run"], planned["run"].get("branch")
        model = json.dumps(run["model"])
        if model not in sizes:
            sizes[model] = count_params(from_json(ModelSpec, run["model"])).matmul
        now = RunNow(
            id=planned["id"], group=planned["group"], role=planned["role"], n=sizes[model], steps=run["steps"],
            batch_tokens=int(run["batch"] * run["model"]["context"]), begins=int(branch["step"]) if branch else 0,
        )  # fmt: skip
        return _Watched(now, branch["trunk"] if branch else "")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"run {planned['id']}: is not what a run is ({error!r})") from error


def _names(folder: Path) -> set[str]:
    """What is in a folder; nothing where there is none, or none that answers."""
    try:
        return set(names(folder))
    except OSError:
        return set()


def by_interest(runs: Sequence[RunNow]) -> list[RunNow]:
    """Live ones first, finished ones last, else in the order of the plan."""
    return sorted(runs, key=lambda run: STATUSES.index(run.status))
