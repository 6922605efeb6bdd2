"""Participants of a sweep as tasks of a Ray cluster (extra: ray).

One task a run, a branch after its trunk: `scaling work DIR --only ID` on whatever node has the room. Nothing but the
exit status comes back through Ray; results are in the folder, which every node sees. A task whose node or process died
is tried again elsewhere and goes on from the run's checkpoint.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.launch.participant import OVER, Participant
from scaling.launch.process import open_log
from scaling.launch.worker import STOPPED
from scaling.plan.clock import seconds
from scaling.plan.plan import Plan, Planned
from scaling.spec import Refusal

TRIES = 5  # of a task again, when its node or process died
INSTALL = "pip install -e '.[ray]'"


class ParticipantLost(Exception):
    """A participant ended as none should; Ray tries its task again."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What each run needs of a node."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0.0  # 0: not counted
    address: str = "auto"  # of the cluster; auto: the one that this machine belongs to; local: started here, for us

    def resources(self) -> dict[str, float]:
        memory = {"memory": self.memory_gb * 2**30} if self.memory_gb else {}
        return {"num_cpus": float(self.cpus), "num_gpus": float(self.gpus)} | memory


def missing() -> list[str]:
    try:
        import ray  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        return [f"--on ray: needs ray: {INSTALL}"]
    return []


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run as a task of Ray."""

    planned: Planned
    after: str  # id of the run whose task comes first, or ""
    command: Sequence[str]


def tasks(plan: Plan, pending: Plan, command: Callable[[Sequence[str]], Sequence[str]]) -> list[Task]:
    """A task for each pending run, the longest chain of trunk and branches first. `command(ids)` is of a participant.

    A branch's participant may make its trunk too: one whose weights were lost is made again.
    """
    waiting = {p.run.id: p for p in pending.runs}

    def chain(planned: Planned) -> str:
        return planned.run.branch.trunk if planned.run.branch else planned.run.id

    length: dict[str, float] = {}
    for planned in pending.runs:
        length[chain(planned)] = length.get(chain(planned), 0.0) + seconds(planned)
    known = {p.run.id for p in plan.runs}
    made = []
    for planned in sorted(pending.runs, key=lambda p: (-length[chain(p)], chain(p), p.run.branch is not None)):
        trunk = chain(planned) if planned.run.branch and chain(planned) in known else ""
        ids = [trunk, planned.run.id] if trunk else [planned.run.id]
        made.append(Task(planned=planned, after=trunk if trunk in waiting else "", command=command(ids)))
    return made


def participate(command: Sequence[str], log: str, cpus: int, gpus: int, _after: object = None) -> int:
    """What Ray calls on a node. Without a GPU of its own it computes on the CPU, whatever the node has."""
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_log(path) as file:
        participant = Participant(command, granted=cpus, platform="" if gpus else "cpu", log=file)
        try:
            status = participant.wait()
        finally:  # Ray cancels by an exception in this very thread
            participant.stop()
    if status not in OVER or status == STOPPED:
        raise ParticipantLost(f"the participant ended with status {status}")
    return status


class RaySweep:
    """A sweep on a Ray cluster; `with` connects and disconnects. Raises `Refusal` where there is no cluster."""

    def __init__(self, request: Request, folder: Path):
        self._request, self._folder = request, folder
        self.failed: dict[str, str] = {}  # id -> why Ray gave its task up

    def __enter__(self) -> "RaySweep":
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # pyright: ignore[reportMissingImports]

        self._ray: Any = ray
        where = {} if self._request.address == "local" else {"address": self._request.address}
        how = {"address": "local", "include_dashboard": False} | where
        try:
            self._ray.init(log_to_driver=False, logging_level="warning", **how)
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = (f"{error}".splitlines() or [type(error).__name__])[0]
            raise Refusal(
                f"--address = {self._request.address}: no Ray cluster ({said}); `ray start --head` makes one, "
                "--address local one for this sweep alone"
            ) from error
        if fault := self._too_large():
            self._ray.shutdown()
            raise Refusal(fault)
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def _too_large(self) -> str:
        """A task that fits no node would wait for ever."""
        need = {"CPU": self._request.cpus, "GPU": self._request.gpus, "memory": self._request.memory_gb * 2**30}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in need.items()) for node in nodes):
            return ""
        largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in need}
        return (
            f"--cpus = {need['CPU']}, --gpus = {need['GPU']}: no node of the cluster has as much; the most are "
            f"{largest['CPU']:g} CPUs, {largest['GPU']:g} GPUs, {math.floor(largest['memory'] / 2**30)} GiB"
        )

    def run(self, tasks: Sequence[Task], stop: threading.Event, seen: Callable[[], None]) -> None:
        """Run tasks; returns when all are over, or are stopped. `seen` is called every few seconds."""
        ray, request = self._ray, self._request
        remote = ray.remote(participate)
        names: dict[Any, str] = {}
        of: dict[str, Any] = {}
        for task in tasks:
            run_id = task.planned.run.id
            log = str(self._folder.absolute() / "logs" / "ray" / f"{run_id}.log")
            how = remote.options(
                **request.resources(), max_retries=TRIES, retry_exceptions=[ParticipantLost], name=run_id
            )
            of[run_id] = how.remote(list(task.command), log, request.cpus, request.gpus, of.get(task.after))
            names[of[run_id]] = run_id
        waiting = list(names)
        while waiting and not stop.is_set():
            over, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            for ref in over:
                self._note(names[ref], ref)
            seen()
        for ref in waiting:
            ray.cancel(ref)
        while waiting:  # those that run save first
            over, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)

    def _note(self, run_id: str, ref: Any) -> None:
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            said = [line for line in str(error).splitlines() if line.strip()] or [""]
            self.failed[run_id] = f"Ray gave its task up: {type(error).__name__}: {said[-1].strip()[:200]}"
