"""One command on every host of a slice or a job, `scaling run ... --distributed`: process 0 leads, the others follow.

On each host the command starts one worker, which joins the others through JAX and then says which process it is. Where
it is process 0 the runs are handed to it from here; elsewhere nothing is left to do but to wait, and to pass a signal
on. All hosts end with one status. When a process is lost they all end with 75, and the same command goes on.
"""

import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from queue import SimpleQueue as Queue

from scaling.launch.process import Event, Worker
from scaling.launch.worker import STOPPED
from scaling.spec import Refusal

AUTO = "auto"
FORM = re.compile(r"(?P<coordinator>.+:[0-9]{1,5}),(?P<processes>[0-9]{1,6}),(?P<process>[0-9]{1,6})")
STATUSES = (0, 1, 2, STOPPED)  # that all hosts end with
REFUSED = 2
END_SECONDS = 15.0  # from asking a process to end until it is gone


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the processes meet; as it is by default JAX finds that out, and which of them this is."""

    coordinator: str = ""  # HOST:PORT on the host of process 0
    processes: int = 0
    process: int = 0

    @classmethod
    def of(cls, text: str) -> "Meeting":
        """What `--distributed` says. Raises `Refusal`."""
        if text == AUTO:
            return cls()
        if not (found := FORM.fullmatch(text)):
            raise Refusal(
                f"--distributed = {text}: must be auto or HOST:PORT,PROCESSES,PROCESS, e.g. 10.0.0.2:8476,4,0 to lead"
            )
        made = cls(coordinator=found["coordinator"], processes=int(found["processes"]), process=int(found["process"]))
        if not made.process < made.processes:
            raise Refusal(f"--distributed = {text}: PROCESS must be from 0 to PROCESSES - 1 = {made.processes - 1}")
        return made

    def names(self) -> list[str]:
        """Under which the others may find this host, the likeliest first."""
        if self.coordinator:
            return [self.coordinator.rpartition(":")[0].strip("[]")]
        return [name for name in (_outward(), socket.getfqdn(), socket.gethostname()) if name]


def _outward() -> str:
    """The address that this host has for others; "" where it has none. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737): only the way there is looked up
            return probe.getsockname()[0]
    except OSError:
        return ""


class Member:
    """The worker of this host; `with` ends it, whatever happens."""

    def __init__(self, command: Sequence[str], log: Path):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.said: Queue[Event] = Queue()
        self.worker = Worker(0, command, None, log, self.said)
        self.process, self.processes = -1, 0

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.kill()
        self.worker.process.wait()
        self.worker.close()

    def join(self) -> None:
        """Wait until all processes are there. Raises `Refusal` where JAX finds no cluster here."""
        event = self.said.get()
        if event.kind == "gone":
            if event.values["status"] == REFUSED:
                raise Refusal(self.worker.last_words().removeprefix("scaling worker: "))
            raise Lost(f"the processes did not meet: {self.worker.last_words()}")
        self.process, self.processes = event.values["process"], event.values["processes"]

    def follow(self, signals: Sequence[signal.Signals]) -> int:
        """Wait for the end that the lead gives to all, and return its status; `signals` are passed on to the lead."""
        asked: list[float] = []

        def ask(*_: object) -> None:
            asked.append(time.monotonic())
            (self.worker.process.terminate if len(asked) == 1 else self.worker.process.kill)()

        before = {number: signal.signal(number, ask) for number in signals}
        try:
            status = self._status(asked)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if status not in STATUSES:
            print(f"process {self.process} ended: {self.worker.last_words()}", file=sys.stderr)
        return status if status in STATUSES else STOPPED

    def _status(self, asked: Sequence[float]) -> int:
        while True:
            try:
                event = self.said.get(timeout=0.2)
            except Empty:
                if asked and time.monotonic() - asked[0] > END_SECONDS:
                    self.worker.process.kill()
                continue
            if event.kind == "gone":
                return event.values["status"]

    def lost(self) -> str:
        """The last words of a worker that did not end as it should."""
        return self.worker.last_words() if self.worker.process.poll() not in (None, *STATUSES) else ""

    def end(self, status: int) -> None:
        """Of the lead: all hosts end with this status."""
        self.worker.tell(do="end", status=status)
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end:
            try:
                if self.said.get(timeout=0.2).kind == "gone":
                    return
            except Empty:
                continue


class Lost(Exception):
    """A process is missing; the same command may find it."""
