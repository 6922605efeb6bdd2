"""A sweep on this machine: supervised worker processes, one pinned to each core on a CPU.

The supervisor holds the only copy of the queue, and the results folder holds everything else: kill it at any moment,
start it again, and it goes on with what has no record. A worker that dies takes down its run, not the sweep.
"""

import fcntl
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from queue import SimpleQueue as Queue
from typing import Any

from scaling.machine import cores
from scaling.plan.clock import AT_HAND_SECONDS, seconds
from scaling.plan.plan import Plan, Planned, Role
from scaling.record import Ledger
from scaling.spec import Refusal, alike, to_json

ATTEMPTS = 2  # of a run whose worker died under it; jaxlib is known to crash now and then (jax issue 39257)
GRACE_SECONDS = 14.0  # from asking a worker to stop until it is killed: steps in flight, and a save for each member
TAKEOVER_SECONDS = 5.0  # for the workers of a killed supervisor to be gone


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a worker said, or what befell it."""

    kind: str  # ready | progress | done | failed | stopped | gone
    worker: int
    run_id: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Outcome:
    """What became of a sweep; a run in neither list was recorded before."""

    recorded: dict[str, str] = field(default_factory=dict)  # id -> status of its record
    failed: dict[str, str] = field(default_factory=dict)  # id -> reason; without a record, so pending
    stopped: bool = False


class FolderLock:
    """One sweep at a time in a results folder. Workers inherit the lock, so it outlives a killed supervisor until
    the last of them is gone."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / ".lock", "a+")
        deadline = time.monotonic() + TAKEOVER_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._file.close()
                    raise Refusal(
                        f"{folder}: another sweep is at work in this folder; wait for it, or give another --out"
                    ) from None
                time.sleep(0.1)

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def default_workers() -> int:
    """One a core on a CPU, where a second process buys more than a second thread; one on an accelerator."""
    return len(cores()) if _on_cpu() else 1


def default_population() -> int:
    """The most runs of one shape that a worker is given at once: on an accelerator it tries what pays; on a CPU one
    worker a core pays more than any population (benchmarks/README.md)."""
    return 1 if _on_cpu() else 64


def _on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms.startswith("cpu") if platforms else not _has_accelerator()


def _has_accelerator() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0", "/dev/kfd"))


class Worker:
    """One worker process and the thread that listens to it."""

    def __init__(self, number: int, command: Sequence[str], core: int | None, lock: FolderLock, log: Path, said: Queue):
        self.number = number
        self.jobs: dict[str, Planned] = {}  # by id: one run, or a population of them
        self.last: Planned | None = None  # whose program it has at hand
        self.ending = False  # told to end
        self.left = False  # ending by itself
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as log_file:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                # One thread, so that results are the same bits on any number of cores.
                env=dict(os.environ) | ({"NPROC": "1"} if core is not None else {}),
                text=True,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {core})
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: "Queue[Event]") -> None:
        assert self.process.stdout
        with self.process.stdout:
            for line in self.process.stdout:
                if not line.endswith("\n"):
                    break  # cut short by its death
                values = json.loads(line)
                kind, run_id = values.pop("event"), values.pop("id", "")
                said.put(Event(kind=kind, worker=self.number, run_id=run_id, values=values))
        status = self.process.wait()
        said.put(Event(kind="gone", worker=self.number, values={"status": status}))

    def tell(self, **message: Any) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is gone, and its listener says so

    def close(self) -> None:
        """Our end of a worker that is gone."""
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # a last word that nobody read

    def start(self, jobs: Sequence[Planned], branch_steps: tuple[int, ...]) -> None:
        self.jobs, self.last = {job.run.id: job for job in jobs}, jobs[0]
        self.tell(do="run", runs=[to_json(job.run) for job in jobs], branch_steps=branch_steps)


class LocalSweep:
    """The supervisor of one sweep.

    `command` starts a worker process, which serves `scaling.launch.worker`. `held_back` runs start only when every
    run of `plan` with the role `fitted` has a record and `release` has returned: their forecast is made in between.
    Up to `population` runs of one shape go to a worker together (`spec.alike`); it may train them in one program.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        *,
        command: Sequence[str],
        workers: int,
        lock: FolderLock,
        population: int = 1,
        held_back: Collection[str] = (),
        release: Callable[[], None] = lambda: None,
        seen: Callable[[Event], None] = lambda event: None,
        stop: threading.Event,
    ):
        self._plan, self._ledger, self._command, self._lock = plan, ledger, command, lock
        self._held_back, self._release, self._seen, self._stop = set(held_back), release, seen, stop
        self._population = population
        self._said: Queue[Event] = Queue()
        self._attempts: Counter[str] = Counter()
        self._workers: dict[int, Worker] = {}
        # A plan of one run has every core. The plan decides and not what is pending: a sweep that was stopped goes on
        # as it began, to the same bits.
        self._cores = cores() if min(workers, len(plan)) > 1 else [None]
        self.outcome = Outcome()
        self._queue = {p.run.id: p for p in self._pending()}
        self._branches: dict[str, list[Planned]] = {}  # of each trunk
        for p in plan.runs:
            if p.run.branch:
                self._branches.setdefault(p.run.branch.trunk, []).append(p)
        self._size = min(workers, max(1, len(self._queue)))

    def _pending(self) -> list[Planned]:
        """Every run without a record, and every recorded trunk whose weights a pending branch misses."""
        branches = [p.run.branch for p in self._plan.pending(self._ledger).runs if p.run.branch]
        for branch in branches:
            if branch.trunk in self._ledger and self._ledger[branch.trunk].status == "finished":
                if branch.step not in self._ledger.checkpoint_steps(branch.trunk):
                    self._ledger.reopen(branch.trunk)
        return list(self._plan.pending(self._ledger).runs)

    def run(self) -> Outcome:
        """Make every pending run; returns when all are over, or all workers have stopped."""
        for number in range(self._size if self._queue else 0):
            self._open(number)
        asked_at = None
        while True:
            if self._held_back and not self._stop.is_set() and not self._fitted_left():
                self._release()
                self._held_back.clear()
            if self._stop.is_set() and asked_at is None:
                asked_at = time.monotonic()
                for worker in self._workers.values():
                    worker.tell(do="stop")
            if asked_at and time.monotonic() - asked_at > GRACE_SECONDS:
                for worker in self._workers.values():
                    worker.process.kill()
            if asked_at is None:
                self._hand_out()
            if not self._workers:
                break
            try:
                self._handle(self._said.get(timeout=0.1))
            except Empty:
                continue
        self.outcome.stopped = self._stop.is_set()
        for run_id in self._queue if not self.outcome.stopped else ():
            why = (
                "it waits for fitted runs that have no record"
                if run_id in self._held_back
                else "its trunk was not trained"
            )
            self.outcome.failed.setdefault(run_id, why)
        return self.outcome

    def _open(self, number: int) -> None:
        log = self._ledger.folder / "logs" / f"worker-{number}.log"
        core = self._cores[number % len(self._cores)]
        self._workers[number] = Worker(number, self._command, core, self._lock, log, self._said)

    def _fitted_left(self) -> bool:
        """Whether a fitted run has no record yet: the forecast is made from all of them or not at all."""
        return any(p.role == "fitted" and p.run.id not in self._ledger for p in self._plan.runs)

    def _hand_out(self) -> None:
        for worker in list(self._workers.values()):
            if worker.jobs or worker.ending or worker.left:
                continue
            job = self._next_for(worker)
            if job is not None:
                jobs = self._together(job)
                for member in jobs:
                    del self._queue[member.run.id]
                    self._attempts[member.run.id] += 1
                worker.start(jobs, self._plan.branch_steps(job.run.id))
            elif not self._more_to_come():
                worker.ending = True
                worker.tell(do="end")

    def _more_to_come(self) -> bool:
        return bool(self._queue) and any(worker.jobs for worker in self._workers.values())

    def _next_for(self, worker: Worker) -> Planned | None:
        """Fitted runs first, since the forecast waits for them; then the held-out ones, which are the longest; then
        the longest chain of trunk and branches, so that the sweep does not end on one long run. A program that the
        worker has at hand is worth the time of reading another from the cache."""
        ready = self._ready()
        if not ready:
            return None
        last = worker.last.run.model if worker.last else None
        return max(
            ready,
            key=lambda p: (
                self._leads_to(p, "fitted"),
                self._leads_to(p, "held_out"),
                self._chain(p) + AT_HAND_SECONDS * (p.run.model == last),
            ),
        )

    def _ready(self) -> list[Planned]:
        return [p for i, p in self._queue.items() if i not in self._held_back and self._trunk_is_there(p)]

    def _together(self, first: Planned) -> list[Planned]:
        """`first`, and what can be trained in one program with it. What has cost a worker its life is tried alone."""
        if self._population == 1 or self._attempts[first.run.id]:
            return [first]
        shape, steps = alike(first.run), self._plan.branch_steps(first.run.id)
        others = [
            p for p in self._ready()
            if p is not first and not self._attempts[p.run.id] and alike(p.run) == shape
            and self._plan.branch_steps(p.run.id) == steps
        ]  # fmt: skip
        return [first, *others[: self._population - 1]]

    def _trunk_is_there(self, planned: Planned) -> bool:
        return planned.run.branch is None or planned.run.branch.trunk in self._ledger

    def _leads_to(self, planned: Planned, role: Role) -> bool:
        return any(p.role == role for p in self._family(planned))

    def _chain(self, planned: Planned) -> float:
        return sum(seconds(p) for p in self._family(planned))

    def _family(self, planned: Planned) -> list[Planned]:
        """The run and the queued branches that wait for it."""
        return [planned, *(p for p in self._branches.get(planned.run.id, ()) if p.run.id in self._queue)]

    def _handle(self, event: Event) -> None:
        worker = self._workers[event.worker]
        if event.kind == "gone":
            del self._workers[event.worker]
            worker.close()
            if worker.jobs:
                event = self._died(worker, event.values["status"])
            elif self._queue and not worker.ending and not self._stop.is_set():
                self._open(worker.number)
        elif event.kind == "stopped":
            if not self._stop.is_set():  # somebody signalled it alone
                self._queue |= worker.jobs
                self._attempts.subtract([*worker.jobs])  # the runs are not to blame
                worker.left = True
            worker.jobs = {}
        elif event.kind in ("done", "failed") and worker.jobs.pop(event.run_id, None):
            if event.kind == "done":
                self.outcome.recorded[event.run_id] = event.values["status"]
            else:
                self.outcome.failed[event.run_id] = event.values["reason"]
        self._seen(event)

    def _died(self, worker: Worker, status: int) -> Event:
        """A worker ended in the middle of its runs: once more on a new worker, then a run has failed."""
        if not self._stop.is_set():
            name = f"signal {-status}" if status < 0 else f"status {status}"
            for run_id, job in worker.jobs.items():
                if self._attempts[run_id] < ATTEMPTS:
                    self._queue[run_id] = job
                else:
                    log = f"logs/worker-{worker.number}.log"
                    self.outcome.failed[run_id] = f"its worker ended {ATTEMPTS} times, last with {name}; see {log}"
            if self._queue:
                self._open(worker.number)
        return Event(kind="gone", worker=worker.number, run_id=next(iter(worker.jobs)), values={"status": status})
