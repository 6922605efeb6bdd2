"""How the processes of a team find each other, and how its lead tells the others what it does.

A team is several processes, here or on several nodes, that train one run together as one JAX program. The lead serves a
supervisor as any worker does; what it calls on its devices the others are told, and call too (`scaling.train.follow`).
They meet through a file in the results folder, or are told by JAX where to (`scaling.launch.hosts`), and connect to the
lead. A team ends as a whole: whose connection closes while it is needed ends at once, as a worker does whose supervisor
is gone. Whoever of them is asked to stop tells the lead, which saves and ends them all.

    teams/<name>    where the lead waits for the others, readable by its owner alone; or that no lead will come again
"""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from scaling.launch.worker import STOPPED

MEET_SECONDS = 600.0  # that a process waits for its lead: nodes of one job need not start at once
LOOK_SECONDS = 0.2
PAUSE_SECONDS = 1.0  # before a process is started again, which may not even start
LINGER_SECONDS = 5.0  # of a process with an error of its own, in which the lead may have more to say of it
NO_LEAD = 3  # exit status of a process that waited for so long
HERE = "127.0.0.1"  # of a team whose processes are all on this machine
ANYWHERE = "0.0.0.0"
OVER = {"over": True}
STOP = b"stop"  # what a process says that was asked to
CONNECT_SECONDS = 10.0  # that one address of the lead is tried for
PROCESS = re.compile(rb"process ([0-9]{1,6})")


class Over(Exception):
    """No lead will come again."""


class Peer:
    """The other end of a connection. When it closes before `leave`, this process ends with status 75. A stop that the
    other end was asked for is asked of this process, by the signal that it would hear of itself."""

    def __init__(self, connection: Connection, who: str):
        self._connection, self._who, self._leaving = connection, who, False
        self._heard: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # An engine's tasks have it blocked (`scaling.launch.participant`), and so what they start.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = self._connection.recv_bytes()
                if message == STOP:
                    print(f"{self._who} was asked to stop", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    self._heard.put(message)
        if not self._leaving:
            print(f"{self._who} is gone, and with it the team", file=sys.stderr, flush=True)
            os._exit(STOPPED)

    def send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # its end is the listener's to tell
            self._connection.send_bytes(message)

    def receive(self) -> bytes:
        """The next message; waits for it."""
        return self._heard.get()

    def leave(self) -> None:
        """From now on it may go."""
        self._leaving = True


def gather(folder: Path, name: str, processes: int, host: str) -> tuple[list[Peer], str]:
    """The lead's part: wait for the others, which find this machine as `host`. Returns them, and the address of JAX's
    coordinator, which is free here."""
    path, coordinator = folder / "teams" / name, f"{host}:{_free_port()}"

    def tell(door: dict[str, Any]) -> None:
        _put(path, json.dumps(door | {"coordinator": coordinator}))

    try:
        return admit(processes, [host], tell), coordinator
    finally:
        path.unlink(missing_ok=True)


def admit(processes: int, hosts: Sequence[str], tell: Callable[[dict[str, Any]], object]) -> list[Peer]:
    """The lead's part: `tell` the others the names of this machine, a port and a key, and wait until all are there."""
    key, bound = secrets.token_hex(), HERE if hosts == [HERE] else ANYWHERE
    with Listener((bound, 0), backlog=processes, authkey=key.encode()) as listener:
        tell({"hosts": [*hosts], "port": int(listener.address[1]), "key": key})
        there: dict[int, Connection] = {}
        while len(there) < processes - 1:
            try:
                connection = listener.accept()
                said = PROCESS.fullmatch(connection.recv_bytes(64))
            except (OSError, EOFError, AuthenticationError):
                continue  # not one of ours, or gone again
            if said and 0 < int(said[1]) < processes:
                there[int(said[1])] = connection
    return [Peer(connection, f"process {k}") for k, connection in there.items()]


def enter(door: dict[str, Any], process: int) -> Peer:
    """The part of process 1, 2, ...: connect to the lead by the first of its names that leads there. Raises OSError."""
    for name in door["hosts"]:
        try:
            socket.create_connection((name, door["port"]), CONNECT_SECONDS).close()
            connection = Client((name, door["port"]), authkey=door["key"].encode())
        except (OSError, EOFError, AuthenticationError):
            continue
        connection.send_bytes(b"process %d" % process)
        return Peer(connection, "the lead")
    raise OSError(f"no lead at {', '.join(door['hosts'])}, port {door['port']}")


def join(folder: Path, name: str, process: int) -> tuple[Peer, str]:
    """The part of process 1, 2, ...: find the lead. Raises TimeoutError where there is none for ten minutes."""
    path, end = folder / "teams" / name, time.monotonic() + MEET_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(path.read_text(encoding="utf-8"))
            if said == OVER:
                raise Over
            return enter(said, process), said["coordinator"]
        time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"{path}: no lead for {MEET_SECONDS:g} seconds")


def attend(command: Sequence[str], folder: Path, name: str, patience: float) -> int:
    """Start one of the other processes, and start it again with every new lead, until no more will come. Interrupted,
    it has the lead save and end, for `patience` seconds."""
    while True:
        with subprocess.Popen(list(command), stdin=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                process.kill()
                raise
        if is_over(folder, name):
            return 0
        if status == NO_LEAD:
            return status
        time.sleep(PAUSE_SECONDS)


def is_over(folder: Path, name: str) -> bool:
    try:
        return json.loads((folder / "teams" / name).read_text(encoding="utf-8")) == OVER
    except (OSError, ValueError):
        return False


def close(folder: Path, name: str) -> None:
    """No lead will come again."""
    with contextlib.suppress(OSError):
        _put(folder / "teams" / name, json.dumps(OVER))


def serve_lead(lead: Peer, follow: Callable[[Callable[[], bytes], Callable[[bytes], None]], int]) -> int:
    """Do as the lead says until it ends; returns the exit status that it says. A signal to stop is told the lead."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: lead.send(STOP))
    try:
        status = follow(lead.receive, lead.send)
    except Exception:
        import traceback

        traceback.print_exc()
        time.sleep(LINGER_SECONDS)
        return 1
    lead.leave()
    return status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _put(path: Path, text: str) -> None:
    """Of an earlier lead of this name it takes the place."""
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.part")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)
