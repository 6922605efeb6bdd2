"""This machine: where its caches are, and the table of what `scaling bench` measured on it. Nothing here needs JAX.

    $XDG_CACHE_HOME/scaling/programs/KEY/   compiled programs, a folder for each jaxlib and processor
    $XDG_CACHE_HOME/scaling/machine.json    speeds and ceilings, an entry for each machine that shares the home folder
    $XDG_CACHE_HOME/scaling/indexes/         of results folders (scaling.record.index)

All may be deleted at any time. $XDG_CACHE_HOME is ~/.cache by default.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scaling.record.files import commit_json
from scaling.spec import ModelSpec, Refusal, RunSpec, from_json, ill_typed, to_json

VERSION = 1  # of machine.json


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a run decides how fast it goes."""

    model: ModelSpec
    batch: int
    optimizer: str
    averaged: bool  # an average of the weights is kept

    @classmethod
    def of(cls, run: RunSpec) -> "Shape":
        return cls(model=run.model, batch=run.batch, optimizer=run.optim.name, averaged=run.optim.average > 0)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one shape takes, by worker, while `workers` of them do the same side by side. Medians, in seconds."""

    shape: Shape
    workers: int
    train: float  # per trained token
    spread: float  # of `train`: half the distance of its quartiles over its median
    evaluate: float  # per evaluated token
    compile_cold: float  # with nothing in the cache
    compile_cached: float  # with everything there
    per_run: float  # folders, weights and records of a run, whatever its length
    memory: int  # bytes a device that a training step needs
    date: str  # ISO day
    largest_batch: int | None = None  # whose step fits into a device; None: not asked


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One machine's entry in the table."""

    device: str = ""  # as JAX names it
    start: float = 0.0  # seconds from starting a worker process to its first run, imports and text included
    speeds: tuple[Speed, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)  # `ceiling_key` -> FLOP/s of its best product


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaling"


def programs_folder() -> Path:
    """Where compiled programs are kept, for all keys."""
    return cache_folder() / "programs"


def indexes_folder() -> Path:
    """Where the indexes of results folders are kept."""
    return cache_folder() / "indexes"


def table_path() -> Path:
    return cache_folder() / "machine.json"


def cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def given_cores() -> int:
    """The number of cores that a batch system gave this job, where it says so without binding the job to them.

    SCALING_CORES is how we say it ourselves: to a task of an engine that has no such variable, to a worker of several.
    """
    for name in ("SCALING_CORES", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if (said := os.environ.get(name, "")).isdecimal() and int(said):
            return min(int(said), len(cores()))
    return len(cores())


def cores_are_ours() -> bool:
    """Whether processes may be pinned to `cores()`: others may have been given the same ones otherwise."""
    return given_cores() == len(cores())


@functools.cache
def processor() -> tuple[str, str]:
    """The processor's name, and a digest of its model and features: what is compiled for one may not run on another."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        first = ""
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    name = said.get("model name") or platform.processor() or platform.machine()
    known = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
    text = "\n".join([name, platform.machine(), *(said.get(field, "") for field in known)])
    return name, hashlib.sha256(text.encode()).hexdigest()[:8]


def program_key() -> str:
    """The name of the folder that compiled programs of this jaxlib on this processor lie in."""
    system = f"{platform.system()}-{platform.machine()}".lower()
    return f"jaxlib-{importlib.metadata.version('jaxlib')}-{system}-{processor()[1]}"


def key() -> str:
    """This machine, as far as speed goes. All its cores count, so that a pinned worker finds the same entry."""
    name, digest = processor()
    return f"{name} ({digest}), {os.cpu_count()} cores, {accelerators()}, jax {importlib.metadata.version('jax')}"


def ceiling_key(dtype: str, devices: int) -> str:
    """Of a process: its cores limit a CPU, its devices an accelerator."""
    return f"{dtype}, {given_cores()} cores, {devices} devices"


def accelerators() -> str:
    """What beside the processor may do the work, by what the system shows of it."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return "CPU"
    models = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = path.read_text(errors="replace").splitlines()
        models += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    models += [path.name for pattern in ("accel[0-9]*", "vfio/[0-9]*", "kfd") for path in Path("/dev").glob(pattern)]
    names = ("CUDA_VISIBLE_DEVICES", "TPU_ACCELERATOR_TYPE", "TPU_VISIBLE_CHIPS", "HIP_VISIBLE_DEVICES")
    chosen = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return " ".join([*(f"{models.count(model)} x {model}" for model in dict.fromkeys(models)), *chosen]) or "CPU"


def measured() -> tuple[Measured | None, str]:
    """This machine's entry, or None where there is none; and what is wrong with the table, which is then ignored."""
    if not table_path().exists():
        return None, ""
    entries, fault = _read(table_path())
    return entries.get(key()), fault


def stamp() -> tuple[str, int, int] | None:
    """What tells one state of the table from another; None where there is none."""
    try:
        stat = table_path().stat()
    except OSError:
        return None
    return str(table_path()), stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> tuple[dict[str, Measured], str]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        if text["version"] != VERSION:
            raise ValueError(f"version {text['version']}, not {VERSION}")
        return {name: _entry(values) for name, values in text["machines"].items()}, ""
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return {}, f"{path}: not a table of measured speeds ({said}); it is ignored, and `scaling bench` makes it again"


def _entry(values: Mapping[str, Any]) -> Measured:
    speeds = []
    for row in values["speeds"]:
        shape = row["shape"] | {"model": from_json(ModelSpec, row["shape"]["model"])}
        speeds.append(Speed(**(row | {"shape": Shape(**shape)})))
    entry = Measured(**{**values, "speeds": tuple(speeds)})
    if faults := [fault for speed in speeds for fault in (*_unfit(speed), *ill_typed(speed.shape.model))]:
        raise Refusal(faults)
    return entry


def _unfit(speed: Speed) -> list[str]:
    times = ("train", "evaluate", "compile_cold", "compile_cached", "per_run")
    return [f"{name} = {getattr(speed, name)!r}" for name in times if not 0 <= getattr(speed, name) < float("inf")]


def change(how: Callable[[Measured], Measured]) -> str:
    """Replace this machine's entry by `how` of it; returns what was wrong with the table before, empty where nothing.

    A table that cannot be read is kept beside the new one. Raises OSError where the folder cannot be written to.
    """
    path = table_path()
    with _locked(path.with_name(".machine.lock")):
        entries, fault = _read(path) if path.exists() else ({}, "")
        if fault:
            kept = path.with_name("machine.unread.json")
            path.replace(kept)
            fault += f"; the old one is {kept}"
        entries = entries | {key(): how(entries.get(key(), Measured()))}
        machines = {name: _to_json(entry) for name, entry in entries.items()}
        commit_json(path, {"version": VERSION, "machines": machines})
    return fault


def keep(device: str, start: float, speeds: list[Speed]) -> str:
    """Put measured speeds into the table, in the place of older ones of the same shape and number of workers."""

    def added(entry: Measured) -> Measured:
        new = {(speed.shape, speed.workers) for speed in speeds}
        old = tuple(speed for speed in entry.speeds if (speed.shape, speed.workers) not in new)
        return replace(entry, device=device, start=start, speeds=(*old, *speeds))

    return change(added)


def keep_ceiling(name: str, flops_per_second: float) -> float:
    """Put down the speed of a process's best product. The best that was ever seen is the ceiling, and is returned."""
    best = flops_per_second

    def raised(entry: Measured) -> Measured:
        nonlocal best
        best = max(flops_per_second, entry.ceilings.get(name, 0.0))
        return replace(entry, ceilings={**entry.ceilings, name: best})

    change(raised)
    return best


def _to_json(entry: Measured) -> dict[str, Any]:
    speeds = [
        dataclasses.asdict(speed) | {"shape": dataclasses.asdict(speed.shape) | {"model": to_json(speed.shape.model)}}
        for speed in entry.speeds
    ]
    return dataclasses.asdict(entry) | {"speeds": speeds, "ceilings": dict(entry.ceilings)}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
