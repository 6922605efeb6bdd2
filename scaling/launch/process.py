"""One worker process, as its supervisor sees it."""

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue as Queue
from typing import IO, Any

from scaling.launch.worker import STOPPED
from scaling.machine import cores_are_ours, given_cores
from scaling.plan.plan import Planned
from scaling.record.claims import Claim
from scaling.spec import to_json

PATIENCE_SECONDS = 60.0  # of silence in training until a worker is taken to hang
LONGER = {"train": 1, "evaluate": 2}  # times that patience, by phase
LONGEST = 15  # times, in a phase that says nothing while it lasts: start, compilation, a trial of sizes
PACE = 10  # times the usual silence of this job, where that is longer
MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
OTHERS_SECONDS = 5.0  # that the processes which a worker leads have to end after it


def _cores_in_words(alone: bool, sharers: int = 1) -> dict[str, str]:
    """What a worker's environment says of its cores: NPROC, which XLA reads, bounds its threads."""
    if alone or sharers > 1:
        each = "1" if alone else str(max(1, given_cores() // sharers))
        return {"NPROC": each, "SCALING_CORES": each}
    return {} if cores_are_ours() else {"NPROC": str(given_cores())}


def _memory_in_words(sharers: int) -> dict[str, str]:
    """What a worker's environment says of an accelerator's memory, of which JAX takes three quarters if not told."""
    if sharers < 2 or MEMORY_SHARE in os.environ:
        return {}
    return {MEMORY_SHARE: f"{0.9 / sharers:.3f}"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a worker said, or what befell it or a run."""

    kind: str  # ready | progress | done | failed | lost | stopped | gone | elsewhere
    worker: int  # -1 for what no worker of ours did
    run_id: str = ""
    values: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A process that serves `scaling.launch.worker`, and the thread that listens to it.

    `core` pins it to one core, with one thread, so that results are the same bits on any number of cores; `alone` is
    one thread without a core of its own. `inherited` are open files that it keeps, a participant's lock among them.
    `others` are the commands of further processes, which it leads (`scaling.launch.team`); they share its cores.
    `sharers` workers share the memory of the accelerators, equally.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        core: int | None,
        log: Path,
        said: "Queue[Event]",
        *,
        alone: bool = False,
        inherited: Collection[int] = (),
        others: Sequence[Sequence[str]] = (),
        sharers: int = 1,
    ):
        self.number, self.log = number, log
        self.jobs: dict[str, Planned] = {}  # by id: one run, or a population of them
        self.last: Planned | None = None  # whose program it has at hand
        self.ready = False  # it has said so
        self.ending = False  # told to end
        self.left = False  # ending by itself
        self.hung = False  # killed, for it was silent
        self._heard, self._phase, self._silences = time.monotonic(), "", []
        environment = dict(os.environ) | _cores_in_words(alone or core is not None, 1 + len(others))
        environment |= _memory_in_words(sharers)
        with open_log(log) as log_file:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=environment,
                text=True,
                pass_fds=tuple(inherited),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )
            self._others = [
                subprocess.Popen(
                    list(words), stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment,
                    start_new_session=True,
                )
                for words in others
            ]  # fmt: skip
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {core})
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()
        for other in self._others:
            threading.Thread(target=self._outlive, args=(other,), daemon=True).start()

    def _outlive(self, other: "subprocess.Popen[bytes]") -> None:
        """A team that has lost one of its processes cannot go on, nor begin."""
        if other.wait() != 0:
            self.process.kill()

    def _listen(self, said: "Queue[Event]") -> None:
        assert self.process.stdout
        with self.process.stdout:
            for line in self.process.stdout:
                if event := _heard(line, self.number):
                    said.put(event)
        status = self.process.wait()
        for other in self._others:
            try:
                other.wait(OTHERS_SECONDS if status in (0, STOPPED) else 0)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()
        said.put(Event(kind="gone", worker=self.number, values={"status": status}))

    def hear(self, event: Event) -> None:
        """A sign of life."""
        now, phase = time.monotonic(), event.values.get("phase", self._phase)
        if phase == self._phase == "train":
            self._silences.append(now - self._heard)
        self._heard, self._phase, self.ready = now, phase, True

    def excuse(self) -> None:
        """Its silence is the supervisor's own, which was stopped for a while."""
        self._heard = time.monotonic()

    def hangs(self, patience: float) -> bool:
        """Whether it has been silent for longer than its phase, and its pace so far, explain."""
        usual = statistics.median(self._silences[-100:]) if self._silences else 0.0
        silence = time.monotonic() - self._heard
        return silence > max(patience * LONGER.get(self._phase, LONGEST), PACE * usual)

    def has_nothing_to_save(self) -> bool:
        """Whether it starts or compiles: that can take long, and what it stands on is saved."""
        return not self.ready or (bool(self.jobs) and self._phase in ("", "compile", "trial"))

    def kill(self) -> None:
        for process in (self.process, *self._others):
            process.kill()

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

    def start(
        self, jobs: Sequence[Planned], branch_steps: tuple[int, ...], claims: Mapping[str, Claim] | None = None
    ) -> None:
        self.jobs, self.last = {job.run.id: job for job in jobs}, jobs[0]
        self._heard, self._phase, self._silences = time.monotonic(), "", []
        held = [(claim.run_id, claim.token, claim.holder) for claim in (claims or {}).values()]
        self.tell(do="run", runs=[to_json(job.run) for job in jobs], branch_steps=branch_steps, claims=held)

    def last_words(self) -> str:
        """The end of its log, for a reason."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return "without a word"
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "without a word")


def open_log(path: Path) -> IO[str]:
    """To be appended to; never by way of a link, which a folder from a stranger may hold."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a")


def _heard(line: str, worker: int) -> Event | None:
    """The event that a line says; None for another line, as a library may print, and for one cut short by a death."""
    try:
        values = json.loads(line)
        return Event(kind=values.pop("event"), worker=worker, run_id=values.pop("id", ""), values=values)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None


def ended(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"status {status}"
    return f"signal {-status}" + (", as when memory runs out" if status == -9 else "")
