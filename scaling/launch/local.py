"""A sweep on this machine: supervised worker processes, one pinned to each core on a CPU.

A supervisor is one participant in a results folder that others may share (`scaling.record.claims`). It holds the only
copy of its queue, and the folder holds everything else: kill it at any moment, start it again, and it goes on with what
has no record. A worker that dies or hangs takes down its run, not the sweep.
"""

import functools
import itertools
import math
import os
import platform
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from queue import SimpleQueue as Queue

from scaling.launch.hosts import Member
from scaling.launch.process import PATIENCE_SECONDS, Event, Worker, ended
from scaling.launch.team import HERE
from scaling.machine import cache_folder, cores, cores_are_ours, given_cores
from scaling.plan.clock import AT_HAND_SECONDS, seconds
from scaling.plan.plan import Plan, Planned
from scaling.record import Failure, Ledger
from scaling.record.claims import Claim, Holder, standing
from scaling.record.failure import Kind
from scaling.record.files import FULL, on_store
from scaling.spec import Refusal, alike

ATTEMPTS = 3  # of a run whose worker died or hung; jaxlib is known to crash now and then (jax issue 39257)
EXIT_SECONDS = 15.0  # from asking a sweep to stop until it is gone
GRACE_SECONDS = 14.0  # from asking a worker to stop until it is killed: steps in flight, and a save for each member
LOOK_SECONDS = 1.0  # between looks at what other participants have done
STORE_LOOK_SECONDS = 10.0  # in a bucket, where every look is a request for every run
LOOK_RUNS = 1000  # looked at in one go, between which the supervisor hears its workers and its signals
LOOK_SHARE = 0.05  # of the time, at most, that looking takes
STALLED_SECONDS = 5.0  # of its own loop, after which a supervisor knows that it was stopped itself
FINAL = ("error", "out_of_memory")  # kinds of failure that trying again does not mend


@dataclass(kw_only=True)
class Outcome:
    """What became of a sweep; a run in neither list was recorded before."""

    recorded: dict[str, str] = field(default_factory=dict)  # id -> status of its record
    failed: dict[str, Failure] = field(default_factory=dict)  # without a record, so pending
    stopped: bool = False


class Stop:
    """Asks a sweep to end: once, and workers save first; twice, and they are killed."""

    def __init__(self) -> None:
        self._asked_at: float | None = None  # no Event: a signal may come while a lock of this thread is held
        self._hurry = False

    def ask(self) -> None:
        if self._asked_at is not None:
            self._hurry = True
        else:
            self._asked_at = time.monotonic()

    def asked(self) -> bool:
        return self._asked_at is not None

    def hurry(self) -> bool:
        return self._hurry

    def left(self) -> float:
        """Seconds until this process should be gone; infinite while nobody has asked."""
        if self._asked_at is None:
            return math.inf
        return 0.0 if self._hurry else self._asked_at + EXIT_SECONDS - time.monotonic()


def default_workers() -> int:
    """One a core on a CPU, where a second process buys more than a second thread; one on an accelerator."""
    return given_cores() if _on_cpu() else 1


def one_core_each(plan: Plan, workers: int) -> bool:
    """Whether workers have one thread: those of an accelerator have every core, as has a plan of one run, or a single
    worker."""
    return _on_cpu() and min(workers, len(plan)) > 1


def devices_of_a_worker(plan: Plan, workers: int, processes: int = 1) -> int | None:
    """On a CPU the cores that a worker, which may be several processes, has; elsewhere None: JAX alone knows."""
    if not _on_cpu():
        return None
    return 1 if processes == 1 and one_core_each(plan, workers) else given_cores() // processes * processes


def default_population() -> int:
    """The most runs of one shape that a worker is given at once: on an accelerator it tries what pays; on a CPU one
    worker a core pays more than any population (benchmarks/README.md)."""
    return 1 if _on_cpu() else 64


def _on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms.startswith("cpu") if platforms else not _has_accelerator()


def _has_accelerator() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0", "/dev/kfd"))


class LocalSweep:
    """One participant's supervisor.

    `command` starts a worker process, which serves `scaling.launch.worker`. `held_back` runs start only when every
    run of `plan` with the role `fitted` has a record and `release` has returned: their forecast is made in between.
    Up to `population` runs of one shape go to a worker together (`spec.alike`); it may train them in one program.
    `only` are the ids of the runs to make, by default all. With `linger` it stays while other participants have runs
    of the plan in their hands, to go on with them should these die; without, it ends as soon as nothing is left for it.
    `retry` tries again what failed for good before. `single` workers have a core and a thread each, others what there
    is; by default it is `one_core_each`. With several `processes` each worker is the lead of so many
    (`scaling.launch.team`), which are started here; the others of a `team` that has a name come from elsewhere. A
    `member` is the worker of several hosts, which is there already and stays: when it is lost, or one of its others is
    asked to stop, the sweep stops.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        *,
        command: Sequence[str],
        workers: int,
        holder: Holder,
        stop: Stop,
        population: int = 1,
        held_back: Collection[str] = (),
        release: Callable[[], None] = lambda: None,
        seen: Callable[[Event], None] = lambda event: None,
        only: Collection[str] | None = None,
        linger: bool = True,
        retry: bool = False,
        patience: float = PATIENCE_SECONDS,
        single: bool | None = None,
        processes: int = 1,
        team: str = "",
        member: Member | None = None,
    ):
        self._plan, self._ledger, self._command, self._holder = plan, ledger, command, holder
        self._held_back = {run_id for run_id in held_back if run_id not in ledger}
        self._awaited = [p.run.id for p in plan.runs if p.role == "fitted"]  # the last one is asked for
        self._release, self._seen, self._stop = release, seen, stop
        self._population, self._linger, self._patience = population, linger, patience
        self._processes, self._team, self._member = processes, team, member
        self._only = None if only is None else set(only)
        self._said: Queue[Event] = member.said if member else Queue()
        self._attempts: Counter[str] = Counter()
        self._workers: dict[int, Worker] = {}
        self._unready: Counter[int] = Counter()  # workers that ended before they were ready, by number
        self._elsewhere: dict[str, float] = {}  # run in other hands -> when to ask again
        self._lost_trunks: set[str] = set()  # recorded, and to be trained again
        self._next_look, self._to_look_at = 0.0, []
        self._in_store, self._next_round = on_store(ledger.folder), 0.0
        self._look_seconds = STORE_LOOK_SECONDS if self._in_store else LOOK_SECONDS
        # Nobody appends to a log in a bucket, so that of a worker stays with the machine.
        self._logs = cache_folder() / "logs" / ledger.folder.name if self._in_store else ledger.folder / "logs"
        if self._logs.is_symlink():
            raise Refusal(f"{self._logs}: is a link, and workers would write where it leads; move it away")
        self._logs.mkdir(parents=True, exist_ok=True)
        self._log_name = f"worker-{holder.name}" if holder.others() else "worker"
        # The plan decides and not what is pending: a sweep that was stopped goes on as it began, to the same bits.
        self._single = one_core_each(plan, workers) if single is None else single
        self._cores = cores() if self._single and cores_are_ours() else [None]
        self.outcome = Outcome()
        self._planned = {p.run.id: p for p in plan.runs}
        self._failures = self._earlier_failures(retry)
        self._queue = {p.run.id: p for p in self._pending()}
        self._branches: dict[str, list[Planned]] = {}  # of each trunk
        for p in plan.runs:
            if p.run.branch:
                self._branches.setdefault(p.run.branch.trunk, []).append(p)
        self._rank = functools.cache(self._ranked)  # by run: a queue may be long, and is gone through at each hand-out
        self._size = min(workers, max(1, len(self._queue)))

    def _earlier_failures(self, retry: bool) -> dict[str, Failure | None]:
        """The failure of each pending run as it stands now; those that trying again does not mend are taken over."""
        found = {p.run.id: self._ledger.failure(p.run.id) for p in self._plan.pending(self._ledger).runs}
        if not retry:
            self.outcome.failed |= {i: failure for i, failure in found.items() if failure and failure.kind in FINAL}
        return found

    def _pending(self) -> list[Planned]:
        """Every run without a record that may be tried, and every recorded trunk whose weights one of them misses."""
        pending = [
            p for p in self._plan.pending(self._ledger).runs
            if p.run.id not in self.outcome.failed and (self._only is None or p.run.id in self._only)
        ]  # fmt: skip
        # Of each trunk the branches that leave it at one step need the same.
        places = {p.run.branch: p for p in pending if p.run.branch}
        trunks = {branch.trunk for branch, p in places.items() if self._misses_its_weights(p)}
        return [*pending, *(p for p in self._plan.runs if p.run.id in trunks)]

    def _misses_its_weights(self, planned: Planned) -> bool:
        """Whether the trunk of a branch is recorded and has not the weights that the branch begins with."""
        branch = planned.run.branch
        if branch is None or branch.trunk not in self._ledger:
            return False
        if branch.step in self._ledger.checkpoint_steps(branch.trunk):
            return False
        trunk = self._ledger[branch.trunk]
        # One that diverged has the weights of the steps before.
        return trunk.status == "finished" or branch.step * trunk.run.batch_tokens < trunk.tokens

    def run(self) -> Outcome:
        """Make every pending run; returns when all are over, or all workers have stopped."""
        for number in range(self._size if self._queue else 0):
            self._open(number)
        asked_at, turned = None, time.monotonic()
        while True:
            if self._stop.asked() and asked_at is None:
                asked_at = time.monotonic()
                for worker in self._workers.values():
                    if worker.has_nothing_to_save():
                        worker.kill()
                    worker.tell(do="stop")
            if asked_at and (self._stop.hurry() or time.monotonic() - asked_at > GRACE_SECONDS):
                for worker in self._workers.values():
                    worker.kill()
            if asked_at is None:
                self._take_a_round()
            if not self._workers:
                break
            self._listen()
            now = time.monotonic()
            for worker in self._workers.values():
                if now - turned > STALLED_SECONDS:
                    worker.excuse()
                elif worker.hangs(self._patience) and (worker.jobs or not worker.ready) and not worker.hung:
                    worker.hung = True
                    worker.kill()
            turned = now
        self.outcome.stopped = self._stop.asked()
        if not self.outcome.stopped:
            self._say_what_is_left()
        return self.outcome

    def _listen(self) -> None:
        """Handle everything that was said, so that a worker is not taken for silent which is only not heard."""
        try:
            self._handle(self._said.get(timeout=0.1))
            while True:
                self._handle(self._said.get_nowait())
        except Empty:
            return

    def _take_a_round(self) -> None:
        """See what is new, and give it to workers; in a bucket when something happened here, else now and then."""
        if time.monotonic() < self._next_round:
            return
        try:
            self._release_held_out()
            self._look_around()
            self._hand_out()
        except OSError as error:
            if error.errno not in FULL:
                self._give_up_all("folder_lost", f"{self._ledger.folder}: {error}")
            elif any(worker.jobs for worker in self._workers.values()):
                self._next_round = time.monotonic() + self._look_seconds  # what is in hand may end, and make room
            else:
                self._give_up_all("disk_full", f"{self._ledger.folder}: {error}")
        if self._in_store:
            self._next_round = time.monotonic() + STORE_LOOK_SECONDS

    def _say_what_is_left(self) -> None:
        """Of a queue that nobody works on any more; who leaves while others are at work leaves the rest to them."""
        if not self._linger and self._holder.others():
            return
        for run_id, planned in self._queue.items():
            if run_id in self._elsewhere:
                continue  # in the hands of others, who may be at work for long
            branch = planned.run.branch
            if run_id in self._held_back:
                why = "it waits for fitted runs that have no record"
            elif branch and branch.trunk not in self._ledger:
                why = "its trunk was not trained"
            else:
                why = "no worker was left to train it"
            self.outcome.failed.setdefault(run_id, Failure(kind="blocked", reason=why))

    def _open(self, number: int) -> None:
        if self._member:
            self._workers[number] = self._member.worker
            return
        log = self._logs / f"{self._log_name}-{number}.log"
        core = self._cores[number % len(self._cores)]
        lead, others = self._command, []
        if self._processes > 1:
            team = self._team or uuid.uuid4().hex[:12]
            host = socket.gethostname() if self._team else HERE
            lead = [*self._command, "--team", team, "--processes", str(self._processes), "--host", host]
            others = [] if self._team else [[*lead, "--process", str(k)] for k in range(1, self._processes)]
        self._workers[number] = Worker(
            number, lead, core, log, self._said, alone=self._single, inherited=self._holder.files, others=others,
            sharers=1 if _on_cpu() else self._size,
        )  # fmt: skip

    def _release_held_out(self) -> None:
        """The forecast is made from all fitted runs or not at all."""
        if self._held_back and not self._stop.asked():
            while self._awaited and self._awaited[-1] in self._ledger:  # each is asked for once, and often
                self._awaited.pop()
            if self._awaited:
                return
            self._awaited = [p.run.id for p in self._plan.runs if p.role == "fitted" and p.run.id not in self._ledger]
            if not self._awaited:
                self._release()
                self._held_back.clear()

    def _look_around(self) -> None:
        """See what other participants have made, or given up."""
        began = time.monotonic()
        if began < self._next_look:
            return
        if not self._to_look_at:
            if lost := self._holder.lost():
                self._give_up_all("folder_lost", lost)
                return
            self._to_look_at = [*self._queue] if self._holder.others() or self._elsewhere else []
        for run_id in self._to_look_at[:LOOK_RUNS]:
            if run_id in self._queue:
                self._look_at(run_id)
        del self._to_look_at[:LOOK_RUNS]
        took = time.monotonic() - began
        self._next_look = began + max(0.0 if self._to_look_at else self._look_seconds, took / LOOK_SHARE)

    def _look_at(self, run_id: str) -> None:
        there = run_id in self._ledger
        if not there:
            self._lost_trunks.discard(run_id)  # whoever opened it again trains it
        if there and not self._is_to_be_reopened(self._queue[run_id]):
            self._made_elsewhere(run_id)
        elif not there and (failure := self._ledger.failure(run_id)) and failure != self._failures.get(run_id):
            del self._queue[run_id]
            self._elsewhere.pop(run_id, None)
            self.outcome.failed[run_id] = failure

    def _made_elsewhere(self, run_id: str) -> None:
        del self._queue[run_id]
        self._elsewhere.pop(run_id, None)
        status = self._ledger[run_id].status
        self.outcome.recorded[run_id] = status
        self._seen(Event(kind="elsewhere", worker=-1, run_id=run_id, values={"status": status}))

    def _is_to_be_reopened(self, planned: Planned) -> bool:
        """Whether a recorded run is in the queue for the weights, or the curve, that a branch needs."""
        if planned.run.id in self._lost_trunks:
            return True
        waiting = (p for p in self._branches.get(planned.run.id, ()) if p.run.id in self._queue)
        return any(self._misses_its_weights(p) for p in waiting)

    def _hand_out(self) -> None:
        for worker in list(self._workers.values()):
            if worker.jobs or not worker.ready or worker.ending or worker.left:
                continue
            jobs, claims = self._claimed_for(worker)
            if jobs:
                for member in jobs:
                    del self._queue[member.run.id]
                    self._attempts[member.run.id] += 1
                worker.start(jobs, self._branch_steps(jobs[0]), claims)
            elif not self._more_to_come() and self._member:
                del self._workers[worker.number]
            elif not self._more_to_come():
                worker.ending = True
                worker.tell(do="end")

    def _claimed_for(self, worker: Worker) -> tuple[list[Planned], dict[str, Claim]]:
        """The next runs for a worker, which are now ours; nothing where others hold all that is ready."""
        while (first := self._next_for(worker)) is not None:
            claims = {p.run.id: claim for p in self._together(first) if (claim := self._claim(p)) is not None}
            if first.run.id in claims:
                return [self._queue[run_id] for run_id in claims], claims
            for run_id in claims:
                self._holder.release(run_id)
        return [], {}

    def _claim(self, planned: Planned) -> Claim | None:
        """A claim to a run that still has to be made; None, and to be asked for again later, in others' hands."""
        run_id = planned.run.id
        claim = self._holder.claim(run_id)
        if claim is None:
            self._elsewhere[run_id] = time.monotonic() + self._look_seconds
            return None
        self._elsewhere.pop(run_id, None)
        if run_id in self._ledger:
            if not self._is_to_be_reopened(planned):
                self._holder.release(run_id)
                self._made_elsewhere(run_id)
                return None
            self._ledger.reopen(run_id)
        self._lost_trunks.discard(run_id)
        return claim

    def _more_to_come(self) -> bool:
        """Whether a worker that has nothing to do now may have later."""
        if not self._queue:
            return False
        if any(worker.jobs for worker in self._workers.values()):
            return True
        return any(self._linger or not self._in_living_hands(run_id) for run_id in self._elsewhere)

    def _in_living_hands(self, run_id: str) -> bool:
        """Of the dead on another machine it is known after a while only; then their runs are there to be taken."""
        claim = standing(self._ledger.folder, run_id)
        return claim is not None and self._holder.observer.seen_alive(claim.holder)

    def _next_for(self, worker: Worker) -> Planned | None:
        """Fitted runs first, since the forecast waits for them; then the held-out ones, which are the longest; then
        the longest chain of trunk and branches, so that the sweep does not end on one long run. A program that the
        worker has at hand is worth the time of reading another from the cache."""
        ready = self._ready()
        if not ready:
            return None
        last = worker.last.run.model if worker.last else None

        def order(planned: Planned) -> tuple[bool, bool, float]:
            fitted, held_out, chain = self._rank(planned.run.id)
            return fitted, held_out, chain + AT_HAND_SECONDS * (planned.run.model == last)

        return max(ready, key=order)

    def _ranked(self, run_id: str) -> tuple[bool, bool, float]:
        """Whether it is fitted or held out, or leads to such a run; seconds of it and all of its branches."""
        family = [self._planned[run_id], *self._branches.get(run_id, ())]
        roles = {p.role for p in family}
        return "fitted" in roles, "held_out" in roles, sum(map(seconds, family))

    def _ready(self) -> list[Planned]:
        now, there = time.monotonic(), functools.cache(self._trunk_is_there)
        return [
            p for i, p in self._queue.items()
            if i not in self._held_back and self._elsewhere.get(i, 0.0) <= now
            and (p.run.branch is None or there(p.run.branch.trunk))
        ]  # fmt: skip

    def _together(self, first: Planned) -> list[Planned]:
        """`first`, and what can be trained in one program with it. What has cost a worker its life is tried alone."""
        if self._population == 1 or self._attempts[first.run.id]:
            return [first]
        shape, steps = alike(first.run), self._branch_steps(first)
        others = (
            p for p in self._ready()
            if p is not first and p.run.steps == first.run.steps and p.run.model == first.run.model
            and not self._attempts[p.run.id] and alike(p.run) == shape and self._branch_steps(p) == steps
        )  # fmt: skip
        return [first, *itertools.islice(others, self._population - 1)]

    def _branch_steps(self, trunk: Planned) -> tuple[int, ...]:
        """The steps at which branches leave it, each once."""
        return tuple(sorted({p.run.branch.step for p in self._branches.get(trunk.run.id, ()) if p.run.branch}))

    def _trunk_is_there(self, trunk: str) -> bool:
        return trunk in self._ledger and trunk not in self._queue

    def _handle(self, event: Event) -> None:
        worker = self._workers[event.worker]
        if event.kind != "progress":
            self._next_round = 0.0
        if event.kind == "gone":
            del self._workers[event.worker]
            worker.close()
            if self._member and (worker.jobs or self._queue):
                self._stop.ask()
            if worker.jobs:
                event = self._died(worker, event.values["status"])
            elif self._queue and not worker.ending and not self._stop.asked():
                self._open_again(worker)
        else:
            worker.hear(event)
        if event.kind == "stopped":
            if self._member or self._team:  # who of the others was signalled does not come again
                self._stop.ask()
            if not self._stop.asked():  # somebody signalled it alone
                self._queue |= worker.jobs
                self._attempts.subtract([*worker.jobs])  # the runs are not to blame
                worker.left = True
            worker.jobs = {}
        elif event.kind in ("done", "failed", "lost") and (job := worker.jobs.pop(event.run_id, None)):
            self._over(job, event, worker)
        self._seen(event)

    def _over(self, job: Planned, event: Event, worker: Worker) -> None:
        """A worker is through with a run."""
        run_id = job.run.id
        if event.kind == "done":
            self.outcome.recorded[run_id] = event.values["status"]
        elif event.kind == "lost":  # whoever took it over makes it, or we later
            self._queue[run_id] = job
            self._elsewhere[run_id] = time.monotonic() + self._look_seconds
        elif event.values["kind"] == "trunk_lost" and self._attempts[run_id] < ATTEMPTS:
            assert job.run.branch
            trunk = self._planned[job.run.branch.trunk]
            self._queue[run_id] = job
            if not any(trunk.run.id in other.jobs for other in self._workers.values()):  # for another branch already
                self._queue[trunk.run.id] = trunk
                self._lost_trunks.add(trunk.run.id)
        else:
            kind, reason = event.values["kind"], event.values["reason"]
            self._give_up(run_id, Failure(
                kind=kind, reason=reason, attempts=self._attempts[run_id], log=self._log_of(worker)
            ))  # fmt: skip
        self._holder.release(run_id)

    def _died(self, worker: Worker, status: int) -> Event:
        """A worker ended in the middle of its runs: again on a new worker, and a few times later a run has failed."""
        run_ids = [*worker.jobs]
        if not self._stop.asked():
            kind = "hang" if worker.hung else "crash"
            how = "was killed, having been silent for too long" if worker.hung else f"ended with {ended(status)}"
            for run_id, job in worker.jobs.items():
                if self._attempts[run_id] < ATTEMPTS:
                    self._queue[run_id] = job
                else:
                    reason = f"its worker {how}, the last of {ATTEMPTS} that tried"
                    self._give_up(run_id, Failure(
                        kind=kind, reason=reason, attempts=self._attempts[run_id], log=self._log_of(worker)
                    ))  # fmt: skip
                    self._holder.release(run_id)
            if self._queue:
                self._open(worker.number)
        return Event(kind="gone", worker=worker.number, run_id=run_ids[0], values={"status": status})

    def _open_again(self, worker: Worker) -> None:
        """In the place of one that ended without a run in its hands: not for ever, where none can even start."""
        if not worker.ready:
            self._unready[worker.number] += 1
            if self._unready[worker.number] >= ATTEMPTS:
                if not self._workers:
                    self._give_up_all("crash", f"workers end before they are ready: {worker.last_words()}")
                return
        self._open(worker.number)

    def _give_up(self, run_id: str, failure: Failure) -> None:
        self.outcome.failed[run_id] = failure
        try:
            if not self._holder.lost():  # a folder that is gone is not made anew, under a mount point perhaps
                self._ledger.fail(run_id, failure)
        except OSError:  # a full disk, or a folder that is gone, cannot even say so
            return

    def _give_up_all(self, kind: Kind, reason: str) -> None:
        """Nothing more can come of this sweep."""
        for worker in self._workers.values():
            self._queue |= worker.jobs
            worker.jobs = {}
            worker.kill()
        for run_id in self._queue:
            self.outcome.failed[run_id] = Failure(kind=kind, reason=reason)
        self._queue.clear()

    def _log_of(self, worker: Worker) -> str:
        if not worker.log.is_relative_to(self._ledger.folder):
            return f"{platform.node()}:{worker.log}"
        return str(worker.log.relative_to(self._ledger.folder))
