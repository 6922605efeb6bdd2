"""Who works on which run, where any number of processes on any number of machines share a results folder.

    holders/<name>          one participant: who it is, a counter that grows while it lives, the runs in its hands
    runs/<id>/claim.<token> who may write into the run's folder: the file with the highest token counts

A claim is made by exclusive create, so one participant wins. It holds as long as its holder is seen alive: on the same
machine by a lock that the kernel drops with the last of the holder's processes, elsewhere by its counter, which has to
change within LEASE_SECONDS of the watcher's own monotonic clock. No wall clock is compared with another. Whoever takes
a run over makes the next token; a holder that comes back from the dead finds it before it replaces a file (`held`), and
a record is made by exclusive create, so no run ever gets two.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.record.files import beside, commit_text, create_text, flush_folder, kernel, names, on_store, read_bytes
from scaling.record.ledger import Ledger
from scaling.spec import Refusal

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0  # without a change of the counter, as a watcher sees it
STORE_BEAT_SECONDS, STORE_LEASE_SECONDS = 20.0, 120.0  # in a bucket, where every write is paid for
NAME, CLAIM = re.compile(r"[0-9a-f]{12}"), re.compile(r"claim\.(\d{6,9})")  # of a holder; of its claim to a run
MOST_CLAIM, MOST_HOLDER = 2**10, 2**24  # bytes of such a file
STORE_PAUSE_SECONDS = 1.5  # between two writes of one object, which a store refuses when they come faster


class ClaimLost(Exception):
    """Another participant has taken the run over; this one must not write into its folder any more."""


@dataclass(frozen=True)
class Claim:
    run_id: str
    token: int
    holder: str

    def held(self, folder: Path) -> bool:
        """Whether it still is the one that counts, in the results folder."""
        return standing(folder, self.run_id) == self

    def check(self, folder: Path) -> None:
        """Raises `ClaimLost` when it is not."""
        if not self.held(folder):
            raise ClaimLost(f"run {self.run_id} was taken over by another participant")


def standing(folder: Path, run_id: str) -> Claim | None:
    """The claim to a run that counts, if there is any."""
    home = Ledger(folder).run_folder(run_id)
    for token, name in reversed(_claims(home)):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            try:
                holder = read_bytes(home / name, most=MOST_CLAIM).decode(errors="replace").strip()
            except ValueError:
                holder = ""  # damaged: nobody's, and its token is used
            return Claim(run_id, token, holder)
    return None


def _claims(home: Path) -> list[tuple[int, str]]:
    """(token, file name) of every claim in a run's folder, in order."""
    return sorted((int(found[1]), found[0]) for name in names(home) if (found := CLAIM.fullmatch(name)))


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A participant as its file in holders/ says."""

    name: str
    beat: int
    host: str
    kernel: str  # of the boot of the machine; "" where it cannot be told
    locks: bool  # whether it holds a lock that the kernel drops when it ends
    pid: int
    runs: tuple[str, ...]  # in its hands
    job: str = ""  # of the cluster's scheduler


class Observer:
    """Watches the participants of a results folder. A participant is alive until this observer has seen it dead."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._seen: dict[str, tuple[int, float]] = {}  # name -> (beat, when it was first seen, monotonic)
        self._beating: set[str] = set()  # whose counter was seen to change

    def names(self) -> list[str]:
        return [name for name in names(self._folder / "holders") if NAME.fullmatch(name)]

    def sighting(self, name: str) -> Sighting | None:
        """What a participant says; None when it is gone, is just writing, or its file was damaged."""
        try:
            text = read_bytes(self._folder / "holders" / name, most=MOST_HOLDER).decode()
            values = json.loads(text.partition("\n")[0])
            said = Sighting(name=name, **values | {"runs": tuple(values["runs"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        kinds = {str: (said.host, said.kernel, said.job, *said.runs), bool: (said.locks,), int: (said.beat, said.pid)}
        return said if all(type(value) is kind for kind, values in kinds.items() for value in values) else None

    def live(self, name: str) -> bool:
        """Whether a participant may be at work still."""
        path = self._folder / "holders" / name
        if not NAME.fullmatch(name) or not path.is_file():
            return False
        said = self.sighting(name)
        if said and said.locks and said.kernel and said.kernel == kernel() and _unlocked(path):
            return False
        before, since = self._seen.get(name, (None, 0.0))
        beat = said.beat if said else -1  # a file that nobody can read is the same at each look, and runs out
        if beat != before:
            if name in self._seen:
                self._beating.add(name)
            self._seen[name] = (beat, time.monotonic())
            return True
        return time.monotonic() - since <= (STORE_LEASE_SECONDS if on_store(path) else LEASE_SECONDS)

    def seen_alive(self, name: str) -> bool:
        """Whether a participant is known to live, and not only not known to be dead."""
        said = self.sighting(name)
        here = bool(said and said.locks and said.kernel and said.kernel == kernel())
        return self.live(name) and (here or name in self._beating)

    def working(self) -> list[Sighting]:
        """The participants that may be at work."""
        return [said for name in self.names() if self.live(name) and (said := self.sighting(name))]


class Holder:
    """This process as a participant in the sweep of a results folder; `with` ends it, and its claims with it.

    Child processes that inherit `files` are part of it: the participant lives until the last of them has ended. In a
    bucket there are no locks: it lives as long as its counter changes.
    """

    def __init__(self, folder: Path):
        self.name, self.observer = uuid.uuid4().hex[:12], Observer(folder)
        self._folder, self._path = folder, folder / "holders" / self.name
        self._claims: dict[str, Claim] = {}
        self._beat, self._writing, self._end = 0, threading.Lock(), threading.Event()
        self._file, self._locks = None, False
        if on_store(folder):
            try:
                self._say()
            except OSError as error:
                raise Refusal(f"{folder}: cannot be written to ({error})") from error
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
        threading.Thread(target=self._live, daemon=True).start()

    def _lock(self) -> None:
        """Make its file, locked before anybody sees it."""
        aside = beside(self._path)
        opened = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locks = True
        except OSError:  # a file system without locks: its counter alone says that it lives
            pass
        with self._writing:
            before, self._file = self._file, opened
        self._say()
        os.fsync(opened)  # a claim that is on the disk names a file that is
        os.rename(aside, self._path)
        flush_folder(self._path.parent)
        if before is not None:
            os.close(before)

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for run_id in [*self._claims]:
            self.release(run_id)
        with contextlib.suppress(OSError), self._writing:
            self._path.unlink()
        if self._file is not None:
            os.close(self._file)

    @property
    def files(self) -> tuple[int, ...]:
        """Open ones, for child processes to inherit."""
        return () if self._file is None else (self._file,)

    def others(self) -> list[Sighting]:
        """The other participants that may be at work; files of those that are seen dead are removed."""
        for name in self.observer.names():
            if name != self.name and not self.observer.live(name):
                with contextlib.suppress(OSError):
                    (self._folder / "holders" / name).unlink()
        return [said for said in self.observer.working() if said.name != self.name]

    def claim(self, run_id: str) -> Claim | None:
        """The claim to a run, new or held already; None while another participant holds it."""
        now = standing(self._folder, run_id)
        if now and now.holder == self.name:
            self._claims[run_id] = now  # where its making was answered too late to be heard
            return now
        if now and self.observer.live(now.holder):
            return None
        mine = Claim(run_id, now.token + 1 if now else 1, self.name)
        if not create_text(self._file_of(mine), self.name + "\n"):
            return None
        self._claims[run_id] = mine
        self._tell()
        return mine

    def release(self, run_id: str) -> None:
        """Give a claim up: the run is over, or somebody else may go on with it."""
        mine = self._claims.pop(run_id, None)
        if mine is None:
            return
        with contextlib.suppress(OSError):  # a claim that stays ends with its holder
            if mine.held(self._folder):
                home = self._file_of(mine).parent
                for token, name in _claims(home):  # the lower ones first, so that none of them counts in between
                    if token <= mine.token:
                        (home / name).unlink()
        self._tell()

    def lost(self) -> str:
        """Why nothing more can come of this participation, or nothing: the folder was deleted, or moved away."""
        # Not by its own file: of a holder that was silent for long others delete that, and it makes it again.
        gone = not (self._folder / ("study.json" if on_store(self._folder) else "holders")).exists()
        return f"{self._folder}: the results folder was deleted, moved or unmounted" if gone else ""

    def _file_of(self, claim: Claim) -> Path:
        return Ledger(self._folder).run_folder(claim.run_id) / f"claim.{claim.token:06d}"

    def _live(self) -> None:
        said, at = self._runs(), time.monotonic()
        while not self._end.wait(STORE_PAUSE_SECONDS if self._file is None else BEAT_SECONDS):
            runs, now = self._runs(), time.monotonic()
            if self._file is not None or runs != said or now - at >= STORE_BEAT_SECONDS:
                said, at = runs, now
                with contextlib.suppress(OSError):  # a store, or a disk, that is away for a while
                    if self._file is not None and not self._path.exists():
                        self._lock()  # it was taken for dead, and is not
                    self._say()

    def _runs(self) -> list[str]:
        return sorted([*self._claims])

    def _tell(self) -> None:
        """At once, that its runs are others; in a bucket the next look of `_live` does."""
        if self._file is not None and not self._end.is_set():
            self._say()

    def _say(self) -> None:
        """On a disk in place, so that who shares it sees it without looking the name up again."""
        with self._writing:
            if self._end.is_set():
                return
            self._beat += 1
            values: dict[str, Any] = {
                "beat": self._beat, "host": platform.node(), "kernel": "" if self._file is None else kernel(),
                "locks": self._locks, "pid": os.getpid(), "runs": self._runs(),
                "job": os.environ.get("SLURM_JOB_ID", ""),
            }  # fmt: skip
            if self._file is None:
                return commit_text(self._path, json.dumps(values) + "\n")
            text = (json.dumps(values) + "\n").encode()
            with contextlib.suppress(OSError):  # a full disk stops no sweep; a silent one is taken for dead
                os.pwrite(self._file, text, 0)
                os.ftruncate(self._file, len(text))


def _opened(path: Path) -> int:
    """To be locked: over NFS a file that is open for reading alone cannot be (flock(2))."""
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _unlocked(path: Path) -> bool:
    """Whether no living process holds the lock on the file."""
    try:
        opened = _opened(path)
    except OSError:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(opened)
