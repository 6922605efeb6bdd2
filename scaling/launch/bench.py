"""Measuring shapes in the way that a sweep runs: worker processes, pinned to cores on a CPU, all busy at once."""

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue as Queue
from typing import Any

from scaling.launch.local import GRACE_SECONDS
from scaling.launch.process import Event, Worker, ended
from scaling.machine import cores
from scaling.plan import Planned
from scaling.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the workers measured of one shape."""

    run: RunSpec
    by_worker: tuple[dict[str, Any], ...]  # what `scaling.train.bench.measure` returned; empty where one failed
    reason: str = ""  # of a failure

    def middle(self, name: str) -> float:
        return statistics.median(found[name] for found in self.by_worker)


class Team:
    """Workers that measure one shape after another, each shape on all of them at once; `with` ends them.

    `command(number)` starts a worker that serves `scaling.launch.worker` and whose only progress of a run is what it
    measured.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], workers: int, folder: Path):
        self.start = 0.0  # seconds until a worker was ready, the median of the first team
        self._command, self._workers, self._folder = command, workers, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._cores = cores() if workers > 1 else [None]
        self._said: Queue[Event] = Queue()
        self._team: dict[int, Worker] = {}

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._team.values():
            worker.tell(do="stop")
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._team.values():
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()

    def measure(self, run: RunSpec) -> Found:
        """Of a shape that fails on any worker there is a reason and no number; a worker that ended is replaced."""
        reason = self._complete()
        if reason:
            return Found(run=run, by_worker=(), reason=reason)
        for worker in self._team.values():
            worker.start([Planned(run=run, group="bench", role="compare")], ())
        waiting, found = {*self._team}, {}
        while waiting:
            event = self._said.get()
            if event.kind == "progress":
                found[event.worker] = event.values
            elif event.kind == "failed":
                reason = event.values["reason"]
            elif event.kind == "stopped":
                reason = "it was stopped by a signal"
            elif event.kind == "gone":
                reason = self._gone(event)
            if event.kind in ("done", "failed", "stopped", "gone"):
                waiting.discard(event.worker)
        return Found(run=run, by_worker=() if reason else tuple(found[n] for n in sorted(found)), reason=reason)

    def _complete(self) -> str:
        """Start the workers that are missing, all at once as a sweep does; why one cannot, or nothing."""
        missing = [number for number in range(self._workers) if number not in self._team]
        began, waits = time.monotonic(), []
        for number in missing:
            log, core = self._folder / f"worker-{number}.log", self._cores[number % len(self._cores)]
            self._team[number] = Worker(number, self._command(number), core, log, self._said)
        while len(waits) < len(missing):
            event = self._said.get()
            if event.kind == "gone":
                return self._gone(event)
            waits.append(time.monotonic() - began)
        self.start = self.start or statistics.median(waits or [0.0])
        return ""

    def _gone(self, event: Event) -> str:
        """Take leave of a worker that ended; the last words of its log are the reason."""
        worker = self._team.pop(event.worker)
        worker.close()
        return f"its worker ended with {ended(event.values['status'])}: {worker.last_words()}"
