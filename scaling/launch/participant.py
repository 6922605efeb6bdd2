"""A participant of a sweep that another engine started: `scaling work DIR`, as a child process of the engine's task.

Engines say that time is up with signals to the task alone or to every process below it, and often with two of them;
but a second signal tells `scaling work` to drop what it is saving. So the child starts with their signals blocked, and
hears of a stop from its task alone, once, by the signal that no engine sends.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from scaling.launch.worker import STOPPED

OVER = (0, 1, STOPPED)  # statuses of one that ended as it should: done, some runs failed, stopped and resumable
GRACE_SECONDS = 22.0  # from asking to killing: `work` saves within 15, and SLURM by default kills 30 after it asked
ENGINES_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def work(folder: Path, *options: str) -> list[str]:
    """The command of a participant, with this interpreter."""
    return [sys.executable, "-m", "scaling", "work", str(folder.absolute()), *options]


class Participant:
    """A running `command`, on `granted` cores and the `platform` of JAX, if given; what it says goes to `log`, if any.

    No lock is taken where it waits, so that it may be stopped from a handler of a signal.
    """

    def __init__(self, command: Sequence[str], *, granted: int, platform: str = "", log: IO[str] | None = None):
        self.status: int | None = None  # as `subprocess` gives it; None while it runs
        self._kill_at: float | None = None
        environment = dict(os.environ) | {"SCALING_CORES": str(granted)}  # see machine.given_cores
        if platform:
            environment["JAX_PLATFORMS"] = platform
        before = signal.pthread_sigmask(signal.SIG_SETMASK, ENGINES_SIGNALS)  # a child inherits the mask
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        self.status = self._process.wait()

    def ask(self) -> None:
        """Have it save and end, or be killed when its time is up; asked twice is asked once."""
        if self._kill_at is None and self.status is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            os.kill(self._process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Its exit status, when it has one."""
        while self.status is None:
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                os.kill(self._process.pid, signal.SIGKILL)  # its workers end with it
                self._kill_at = float("inf")
            time.sleep(0.1)
        return self.status

    def stop(self) -> int:
        self.ask()
        return self.wait()
