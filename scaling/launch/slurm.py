"""Participants of a sweep as an array of SLURM jobs, through submitit (extra: slurm).

Every task of the array is `scaling work DIR`, and claims in the folder decide who trains what. A task that is
preempted, or at its time limit, saves its runs and is queued again; so is what was on a node that died.
"""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.launch.participant import OVER, Participant
from scaling.launch.worker import STOPPED
from scaling.machine import given_cores
from scaling.spec import Refusal

LIMITS = 50  # how often one task may meet its time limit and be queued again
NOTICE_SECONDS = 60  # before the time limit; `scaling work` needs 15, and SLURM may be late by that much
SHORTEST_HOURS = 0.1  # of a task: SLURM may give notice two minutes before the end

# What the states of squeue that end a job are; a job in any other is still to be reckoned with.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
OURS = {
    "partition": "--partition", "time": "--hours", "account": "--account", "qos": "--qos", "constraint": "--constraint",
    "nodes": "--nodes", "cpus-per-task": "--cpus", "gpus-per-node": "--gpus", "mem": "--memory-gb",
}  # fmt: skip
FIXED = ("array", "error", "job-name", "ntasks-per-node", "open-mode", "output", "requeue", "signal")
INSTALL = "pip install -e '.[slurm]'"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of SLURM for each task of the array."""

    hours: float
    nodes: int = 1  # of a task, which then trains one run at a time on all of them
    cpus: int = 1  # of a node of it, as the rest
    gpus: int = 0
    memory_gb: float = 0.0  # 0: the partition's default
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)  # of sbatch, without dashes; "" for one without a value
    setup: Sequence[str] = ()  # shell lines before the participant

    def faults(self, folder: Path) -> list[str]:
        lines = []
        if not self.hours >= SHORTEST_HOURS:
            lines.append(f"--hours = {self.hours:g}: must be at least {SHORTEST_HOURS}; a task starts and saves in it")
        if self.hours > 24 * 365:
            lines.append(f"--hours = {self.hours:g}: must be at most a year")
        for name in ("partition", "account", "qos", "constraint"):
            if not getattr(self, name).isprintable():
                lines.append(f"--{name} = {getattr(self, name)!r}: must have no line breaks")
        for name, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                lines.append(f"--slurm {name!r}: must be KEY=VALUE, KEY a long option of sbatch without its dashes")
            elif name in OURS:
                lines.append(f"--slurm {name}: has an option of its own, {OURS[name]}")
            elif name in FIXED:
                lines.append(f"--slurm {name}: is set by scaling and cannot be changed")
            if not value.isprintable():
                lines.append(f"--slurm {name} = {value!r}: must have no line breaks")
        path = str(folder.absolute())
        if not path.isprintable() or set(path) & set("%\\"):
            lines.append(
                f"--out = {path!r}: SLURM cannot name files in a folder with '%', '\\' or line breaks in its path; "
                "give another --out"
            )
        return lines


def missing(*, to_submit: bool) -> list[str]:
    """What this machine lacks, to submit or only to say what would be."""
    lines = _without_submitit()
    if to_submit and not all(shutil.which(name) for name in ("sbatch", "srun", "squeue")):
        lines.append("--on slurm: there is no sbatch, srun or squeue here; run this on a login node of the cluster")
    return lines


def _without_submitit() -> list[str]:
    try:
        import submitit  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        return [f"--on slurm: needs submitit: {INSTALL}"]
    return []


class Task:
    """What submitit calls on a node, and what it tells of a preemption or a time limit. Pickled by its name."""

    _participant: Participant | None = None

    def __init__(self, command: Sequence[str]):
        self.command = tuple(command)

    def __call__(self) -> int:
        told: list[int] = []

        def ask(number: int, _: object) -> None:
            told.append(number)
            participant.ask()

        team = _team()
        participant = self._participant = Participant([*self.command, *team], granted=given_cores())
        signal.signal(signal.SIGTERM, ask)  # submitit lets it pass; a node that is led tells the one that leads
        status = participant.wait()
        if status not in OVER:
            raise RuntimeError(f"the participant ended with status {status}")
        if status == STOPPED and (told or team) and _rank() == 0 and _state() == "RUNNING":
            # Neither cancelled nor queued again: SLURM announced a preemption, and takes a task that ends for done.
            signal.raise_signal(_notice())
        return status

    def checkpoint(self) -> Any:
        """Called by submitit at the signal before a preemption or the time limit; it then asks for a requeue."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        if self._participant:
            self._participant.stop()
        return DelayedSubmission(Task(self.command))


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))


def _team() -> list[str]:
    """What makes participants on several nodes one (`scaling.launch.team`): a name that is new at each start."""
    nodes = int(os.environ.get("SLURM_NTASKS", "1"))
    if nodes == 1:
        return []
    name = f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return ["--workers", "1", "--processes", str(nodes), "--team", name, "--process", str(_rank())]


def _state() -> str:
    """Of this very job, as SLURM sees it; "" where it does not say."""
    done = _squeue("--jobs", os.environ.get("SLURM_JOB_ID", ""), "--format", "%T")
    return done.stdout.strip() if done.returncode == 0 else ""


def _notice() -> signal.Signals:
    import submitit  # pyright: ignore[reportMissingImports]

    return submitit.JobEnvironment._usr_sig()


def script(request: Request, name: str, folder: Path, tasks: int) -> str:
    """The file that `submit` gives to sbatch for so many tasks, to the letter. What a task runs is in files beside."""
    if faults := _without_submitit():
        raise Refusal(faults)
    executor = _executor(request, name, folder, tasks)
    if tasks > 1:
        executor.parameters["map_count"] = tasks  # as submitit does for an array
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit(request: Request, name: str, folder: Path, commands: Sequence[Sequence[str]]) -> str:
    """Submit an array with a task for each command; returns its job id. Raises `Refusal` with sbatch's own words."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError  # pyright: ignore[reportMissingImports]

    try:
        jobs = _executor(request, name, folder, len(commands)).submit_array([Task(words) for words in commands])
    except (FailedJobError, FailedSubmissionError) as error:
        raise Refusal([line for line in str(error).splitlines() if line.strip()] or "sbatch: failed") from error
    return jobs[0].job_id.partition("_")[0]


def logs(folder: Path) -> Path:
    """Where submitit keeps what it submitted, and the tasks what they said."""
    return folder.absolute() / "logs" / "slurm"


def _executor(request: Request, name: str, folder: Path, tasks: int) -> Any:
    import submitit  # pyright: ignore[reportMissingImports]

    class Executor(submitit.SlurmExecutor):
        """Also where SLURM is not: its file can be written there."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    executor = Executor(logs(folder), max_num_timeout=LIMITS)
    options = {key: value or True for key, value in request.options.items()}
    executor.update_parameters(
        job_name=f"scaling-{name}",
        time=-(-round(request.hours * 3600) // 60),
        nodes=request.nodes,
        ntasks_per_node=1,
        cpus_per_task=request.cpus,
        gpus_per_node=request.gpus or None,
        mem=f"{round(request.memory_gb * 1024)}M" if request.memory_gb else None,
        partition=request.partition or None,
        account=request.account or None,
        qos=request.qos or None,
        constraint=request.constraint or None,
        wckey=None,
        signal_delay_s=NOTICE_SECONDS,
        array_parallelism=tasks,
        setup=list(request.setup) or None,
        # srun no longer takes the cores of its task from the job (SLURM 22.05).
        srun_args=[f"--cpus-per-task={request.cpus}", *(["--kill-on-bad-exit=1"] if request.nodes > 1 else [])],
        additional_parameters={"requeue": True} | options,
    )
    return executor


def states(job_id: str) -> Counter[tuple[str, str]]:
    """(state, reason) of the tasks that are not over. Raises `Refusal` where squeue does not answer."""
    done = _squeue("--jobs", job_id, "--array", "--states=all", "--format=%T|%r")
    if done.returncode:
        said = done.stderr.strip()
        if "Invalid job id" in said:  # forgotten, some minutes after its end
            return Counter()
        raise Refusal(f"squeue: {(said or 'failed').splitlines()[0]}")
    rows = [line.partition("|") for line in done.stdout.splitlines()]
    return Counter((state, reason) for state, _, reason in rows if state not in ENDED)


def _squeue(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(["squeue", "--noheader", *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess([], 1, "", str(error))


def last_words(folder: Path, job_id: str) -> list[tuple[Path, str]]:
    """What each task of a job said last, and where."""
    found = []
    for path in sorted([*logs(folder).glob(f"{job_id}_*.err"), *logs(folder).glob(f"{job_id}_*.out")]):
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if lines and (path.suffix == ".err" or not path.with_suffix(".err").is_file()):
            found.append((path, lines[-1].strip()[:200]))
    return found
