"""The worker's side of a local sweep: jobs in on stdin, events out on stdout, one JSON document a line.

A worker serves one supervisor. When the supervisor is gone, its end of stdin closes and the worker ends at once, so
that nobody writes into a run folder that a new sweep may be taking up.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Any

from scaling.record.claims import Claim, ClaimLost
from scaling.spec import RunSpec, from_json

STOPPED = 75  # exit status: interrupted, resumable (EX_TEMPFAIL)


class Stopped(Exception):
    """Raised by `make` when it was asked to stop and has saved its work."""


class Failed(Exception):
    """Raised by `make` for a run that cannot be made; `kind` as in `scaling.record.Failure`. Where it is `fatal`, the
    worker can make no other run either, and ends."""

    def __init__(self, kind: str, reason: str, *, fatal: bool = False):
        super().__init__(reason)
        self.kind, self.fatal = kind, fatal


@dataclass(frozen=True, kw_only=True)
class Job:
    """Runs to make, one or a population; `claims` say that they are ours to write."""

    runs: tuple[RunSpec, ...]
    branch_steps: tuple[int, ...] = ()
    claims: tuple[Claim, ...] = ()


# (job, progress, stop) -> (id, status) of each run as its record is committed
Make = Callable[[Job, Callable[[dict[str, Any]], None], Callable[[], bool]], Iterable[tuple[str, str]]]


class _Stop:
    """A flag without a lock: a signal may come while the handler of another sets it."""

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        self._asked = True

    def is_set(self) -> bool:
        return self._asked


def own_stdout() -> IO[str]:
    """Standard output for events alone: from now on whatever a library prints goes to the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def serve(make: Make, prepare: Callable[[], None] = lambda: None, events: IO[str] | None = None) -> int:
    """Make runs until told to stop: one at a time, or a population that `make` may train in one program. `prepare` is
    called before the worker says that it is ready, and may raise SystemExit. Returns the exit status, which it may be
    told with its end."""
    events = events or own_stdout()
    stop, jobs = _Stop(), SimpleQueue()

    def wind_up(*_: object) -> None:
        stop.set()
        jobs.put(None)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, wind_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    ending: list[int] = []
    threading.Thread(target=_listen, args=(jobs, stop, ending), daemon=True).start()
    prepare()
    say(event="ready")
    while not stop.is_set():
        message = jobs.get()
        if message is None:
            break
        todo = [_job(message)]
        while todo and not stop.is_set():
            job = todo.pop()
            left = {run.id: run for run in job.runs}

            def progress(values: dict[str, Any], ids: tuple[str, ...] = tuple(left)) -> None:
                say(event="progress", id=ids[0], ids=ids, **values)

            try:
                for run_id, status in make(job, progress, stop.is_set):
                    del left[run_id]
                    say(event="done", id=run_id, status=status)
            except Stopped:
                stop.set()
            except Exception as error:
                traceback.print_exc()
                if len(left) > 1:  # whichever was at fault, it stops no other
                    todo += [Job(runs=(r,), branch_steps=job.branch_steps, claims=job.claims) for r in left.values()]
                    continue
                for run_id in left:
                    say(id=run_id, **_what_befell(error))
                if isinstance(error, Failed) and error.fatal:
                    stop.set()
        if stop.is_set():
            say(event="stopped")
    return STOPPED if stop.is_set() else (*ending, 0)[0]


def _job(message: dict[str, Any]) -> Job:
    return Job(
        runs=tuple(from_json(RunSpec, values) for values in message["runs"]),
        branch_steps=tuple(message["branch_steps"]),
        claims=tuple(Claim(*values) for values in message["claims"]),
    )


def _what_befell(error: Exception) -> dict[str, str]:
    """The event that tells the supervisor."""
    said = (f"{error}".splitlines() or [""])[0]
    if isinstance(error, ClaimLost):
        return {"event": "lost", "reason": said}
    if isinstance(error, Failed):
        return {"event": "failed", "kind": error.kind, "reason": said}
    return {"event": "failed", "kind": "error", "reason": f"{type(error).__name__}: {said}"}


def _listen(jobs: "SimpleQueue[dict[str, Any] | None]", stop: _Stop, ending: list[int]) -> None:
    for line in sys.stdin:
        try:
            message = json.loads(line)
        except ValueError:
            break  # cut short by the supervisor's death
        if message["do"] == "run":
            jobs.put(message)
        else:  # "stop" saves and ends; "end" lets the run in hand finish
            if message["do"] == "stop":
                stop.set()
            ending.append(message.get("status", 0))
            jobs.put(None)
    if not stop.is_set():
        os._exit(STOPPED)
