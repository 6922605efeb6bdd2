"""One job on one slice, from asking for it to giving it back, whatever happens in between.

The hosts' command goes on from the bucket wherever it was: so a slice that was taken away is asked for again, and a
connection that broke is made again. What is rented is marked by a label, and nothing without it is touched.
"""

import fcntl
import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from scaling.launch.gcloud import ASK_SECONDS, TICK_SECONDS, GaveUp, Trouble, begin, call, kill
from scaling.launch.local import Stop
from scaling.launch.process import open_log
from scaling.launch.provenance import code
from scaling.launch.tpu_vm import HOST_SCRIPT, MARK, Request, ship, stage
from scaling.launch.worker import STOPPED
from scaling.spec import Refusal

POLL_SECONDS = 15.0  # between looks at a slice that is not there yet
PAUSE_SECONDS = 10.0  # before a command is tried again that a connection or a host broke
APPEAR_SECONDS = 120.0  # from asking for a slice until it is listed at the latest
QUICK_SECONDS = 600.0  # a command that ends sooner than that, and was not told to, has failed
TRIES = 3  # such failures in a row; and to set up, and to delete
REFUSED = 2  # exit status, as of scaling.cli.exits

# What the states of a queued resource mean.
STATES = {
    "CREATING": "is being entered",
    "ACCEPTED": "was accepted, and waits for its turn",
    "WAITING_FOR_RESOURCES": "waits until so many chips are free",
    "PROVISIONING": "has got its chips, and its hosts are starting",
    "ACTIVE": "is there, and costs money from now on",
    "FAILED": "could not be had",
    "SUSPENDING": "is being taken away",
    "SUSPENDED": "was taken away",
    "DELETING": "is being deleted",
}
UNKNOWN = "UNKNOWN"  # while gcloud cannot be asked
UP = ("READY", "CREATING", "STARTING", "RESTARTING", "REPAIRING")  # states of a node that is not lost


class Over(Exception):
    """The job cannot go on; says why."""


class Job:
    """`command` are the words that every host runs; `say` takes lines for the user, `look` is called several times a
    second while they run. `leave` has to be called in the end, whatever `run` raised."""

    def __init__(
        self,
        request: Request,
        experiment: Path,
        command: Sequence[str],
        *,
        say: Callable[[str], None],
        look: Callable[[], None],
        stop: Stop,
        log: Path,
    ):
        self._request, self._experiment, self._command = request, experiment, command
        self._say, self._look, self._stop, self.log = say, look, stop, log
        self._rented = self._started = False
        self._last = "without a word"  # that a host said

    def run(self) -> int:
        """The exit status of the command, 0 or 1. Raises `Refusal` while nothing is rented, else `Over`; `GaveUp` where
        it was asked to stop."""
        name, failures = self._request.name, 0
        try:
            while True:
                self._acquire()
                self._install()
                began = time.monotonic()
                status = self._attend()
                if status in (0, 1):
                    return status
                if status == REFUSED:
                    raise Over(f"the hosts refused to begin: {self._last}")
                if not self._standing():
                    self._say(f"{name} was taken away; it is asked for again, and goes on from the bucket")
                    continue
                if status is None:
                    self._say("the connection to the hosts broke, not what runs there; connecting again")
                else:
                    failures = failures + 1 if time.monotonic() - began < QUICK_SECONDS else 0
                    if failures == TRIES:
                        raise Over(f"the command ended with status {status} {TRIES} times in a row: {self._last}")
                    why = "was stopped there" if status == STOPPED else f"ended with status {status} ({self._last})"
                    self._say(f"the command {why}; started again, it goes on from the last checkpoint")
                self._pause(PAUSE_SECONDS)
        except Trouble as trouble:
            if self._rented:
                raise Over(str(trouble)) from trouble
            raise Refusal(str(trouble)) from trouble

    def leave(self, keep: bool) -> bool:
        """Have it save if it was asked to stop, and give the slice back, or say that it stays. False where it could not
        be deleted, which is said, too."""
        if not self._rented:
            return True
        name, by_hand = self._request.name, shlex.join(self._request.delete())
        try:
            if self._stop.asked() and self._started:
                self._say("stopping: the hosts save what they have")
                call(self._request.host("stop"), self._stop.hurry)
            if keep:
                self._say(f"{name} stays, and costs money until it is deleted: {by_hand}")
                return True
            self._say(f"deleting {name}")
            for again in range(TRIES):
                try:
                    self._delete()
                    self._say(f"{name} is deleted")
                    return True
                except Trouble as trouble:
                    self._say(str(trouble))
                    if trouble.kind != "network":
                        break
                    if again < TRIES - 1:
                        time.sleep(PAUSE_SECONDS)
        except GaveUp:
            pass
        self._say(f"{name} IS STILL THERE, AND COSTS MONEY UNTIL IT IS DELETED: {by_hand}")
        return False

    def _acquire(self) -> None:
        """Return when the slice is there, asking for it where it is not."""
        request, said, since = self._request, "", time.monotonic()
        while True:
            state, why = self._state()
            if state != said and state in STATES:
                self._say(f"{request.name} {STATES[state]}" + (f": {why}" if why else ""))
                said = state
            if state == "ACTIVE" and self._node_stands():
                return
            if state in ("ACTIVE", "SUSPENDED"):
                self._delete()
            elif state == "FAILED":
                raise Over(f"{request.name} could not be had" + (f": {why}" if why else "") + "; try another --zone")
            elif not state and not self._rented:
                self._rent()
                said, since = "", time.monotonic()
            elif not state and time.monotonic() - since > APPEAR_SECONDS:
                raise Over(f"{request.name} was deleted from elsewhere; the same command asks for it again")
            self._pause(POLL_SECONDS if self._rented else 0.0)

    def _rent(self) -> None:
        request = self._request
        self._rented = True  # until it is certain that it is not
        try:
            self._ask(request.create(), f"rent {request.name}")
        except Trouble as trouble:
            self._rented = trouble.kind in ("network", "")
            raise
        how = "spot, which may be taken away at any time" if request.spot else "on demand"
        hosts = f"{request.slice.hosts} host{'s' * (request.slice.hosts > 1)}"
        self._say(f"asked for {request.name}: {request.accelerator} in {request.zone}, {hosts}, {how}")

    def _state(self) -> tuple[str, str]:
        """The state of the queued resource, and why it is in it; ("", "") where there is none."""
        try:
            said = json.loads(self._ask(self._request.describe(), f"look for {self._request.name}"))
            state, failed = str(said["state"]["state"]), said["state"].get("failedData", {})
            node = next(iter(said.get("tpu", {}).get("nodeSpec", [])), {}).get("node", {})
            why = str(failed.get("error", {}).get("message", ""))[:300]
        except Trouble as trouble:
            if trouble.kind == "not_found" and "queuedResources/" in trouble.line:
                return "", ""
            if trouble.kind == "network" and self._rented:
                self._say(str(trouble))
                return UNKNOWN, ""
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Over(f"gcloud's words about {self._request.name} cannot be read ({type(error).__name__})") from error
        if not self._rented:
            self._take_over(node)
        return state, why

    def _take_over(self, node: Mapping) -> None:
        """What an earlier call rented; anything else of this name is left alone."""
        key, _, value = MARK.partition("=")
        fault = f"--name = {self._request.name}: there is such a slice,"
        if (node.get("labels") or {}).get(key) != value:
            raise Refusal(f"{fault} which scaling did not make; give another")
        if node.get("acceleratorType") != self._request.accelerator:
            raise Refusal(f"{fault} of {node.get('acceleratorType')}; give another, or that --accelerator")
        self._rented = True

    def _node_stands(self) -> bool:
        try:
            return self._ask(self._request.node(), f"look for the hosts of {self._request.name}").strip() in UP
        except Trouble as trouble:
            if trouble.kind not in ("network", "not_found"):
                raise
            return trouble.kind == "network"

    def _standing(self) -> bool:
        """Whether the slice is still ours."""
        state, _ = self._state()
        if not state:
            raise Over(f"{self._request.name} was deleted from elsewhere; the same command asks for it again")
        return state == UNKNOWN or (state == "ACTIVE" and self._node_stands())

    def _delete(self) -> None:
        try:
            self._ask(self._request.delete(), f"delete {self._request.name}")
        except Trouble as trouble:
            if trouble.kind != "not_found":
                raise
        self._rented = False

    def _install(self) -> None:
        folder, request, commit = stage(self._request.name), self._request, code()["commit"]
        for words in ship(folder, self._experiment):
            done = call(words, self._stop.asked)
            if done.returncode:
                raise Over(f"{shlex.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        self._say(f"{request.name} gets commit {commit[:12]} and its environment, some minutes")
        self._reach(request.copy(folder / "scaling.tgz", HOST_SCRIPT))
        self._reach(request.host("setup", commit, *request.setup))

    def _reach(self, words: Sequence[str]) -> None:
        """Do something on every host. Raises `Over` with a host's own words, and where none can be reached."""
        for again in range(TRIES):
            done = call(words, self._stop.asked, limit=float("inf"))
            if done.returncode == 0:
                return
            with open_log(self.log) as log:
                log.write(done.stdout + done.stderr)
            if said := re.findall(r"^w\d+ .*\S", done.stdout, re.MULTILINE):
                raise Over(f"{': '.join(said[-2:])}; all of it is in {self.log}")
            trouble = Trouble(done.stderr, f"reach the hosts of {self._request.name}")
            if again == TRIES - 1:
                raise Over(f"{trouble}; all of it is in {self.log}")
            self._say(str(trouble))
            self._pause(PAUSE_SECONDS)

    def _attend(self) -> int | None:
        """Run the command on all hosts; its exit status, or None where not all of them said theirs."""
        statuses: dict[str, int] = {}
        self._started, self._last = True, "without a word"

        def listen() -> None:
            assert process.stdout
            for line in process.stdout:
                log.write(line)
                log.flush()
                if over := re.fullmatch(r"w(\d+) ended with status (\d+)\s*", line):
                    statuses[over[1]] = int(over[2])
                elif said := re.match(r"w\d+ +(\S.*)", line):
                    self._last = said[1].strip()[:200]

        words = self._request.host("run", *self._command)
        with open_log(self.log) as log, begin(words, stderr=subprocess.STDOUT) as process:
            listener = threading.Thread(target=listen, daemon=True)
            listener.start()
            while process.poll() is None:
                if self._stop.asked():
                    kill(process)  # here, not there
                    raise GaveUp
                self._look()
                time.sleep(TICK_SECONDS)
            listener.join(ASK_SECONDS)
        worst = max(statuses.values(), default=0)
        if len(statuses) < self._request.slice.hosts and worst <= 1:
            return None
        return next((status for status in statuses.values() if status not in (0, 1, STOPPED)), worst)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop.asked() and time.monotonic() < end:
            time.sleep(min(TICK_SECONDS, seconds))
        if self._stop.asked():
            raise GaveUp

    def _ask(self, words: Sequence[str], doing: str) -> str:
        """An answer that is waited for even when asked to stop, once: what it changes has to be known."""
        done = call(words, self._stop.hurry)
        if done.returncode:
            raise Trouble(done.stderr, doing)
        return done.stdout


@contextmanager
def alone(name: str) -> Iterator[None]:
    """The only job of this name that this machine follows. Raises `Refusal` where there is another."""
    folder = stage(name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refusal(f"--name = {name}: another process here follows it; give another, or stop that one") from None
        yield
