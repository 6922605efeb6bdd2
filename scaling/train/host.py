"""The process and the devices that a run executes on."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from scaling import machine

CACHE_BYTES = 2 << 30  # of compiled programs on disk, those of older versions and other processors included
_MISS = "/jax/compilation_cache/cache_misses"


class _Kept(NamedTuple):
    """Where this process keeps compiled programs."""

    folder: Path  # of its own key
    home: Path  # of all keys
    limit: int  # bytes of `home`


_kept: list[_Kept] = []  # the last one counts


def keep_compiled_programs(home: Path, limit: int = CACHE_BYTES) -> None:
    """Compile each program once per machine: later processes read it back from `home`.

    Each jaxlib and processor has a folder of its own there: what XLA compiles for one processor can crash on another,
    and a home folder may be shared. When it is opened, and whenever something is added, the entries that were not used
    for longest (by the file system's times of access, which most keep to a day) are deleted down to `limit` bytes.
    """
    folder = home / machine.program_key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"{folder}: {error.strerror}; compiled programs are not kept", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if not _kept:
        jax.monitoring.register_event_listener(_bound_on_a_miss)
    _kept.append(_Kept(folder, home, limit))
    bound(home, limit)


def _bound_on_a_miss(event: str, **_: object) -> None:
    if event == _MISS and _kept:
        bound(_kept[-1].home, _kept[-1].limit)


def bound(home: Path, limit: int) -> None:
    """Delete the files below `home` that were not used for longest, until the rest have at most `limit` bytes.

    JAX's own bound (`jax_compilation_cache_max_size`) needs the package filelock and sees one folder alone.
    """
    found = []
    for path in home.rglob("*"):
        with contextlib.suppress(OSError):  # another process was first
            stat = path.stat()
            if path.is_file():
                found.append((max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


@contextlib.contextmanager
def compiled_once(*what: object) -> Iterator[None]:
    """While a process compiles `what`, others that want the same wait, and then find it in the cache."""
    if not _kept:
        yield
        return
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    folder = _kept[-1].folder
    folder.mkdir(parents=True, exist_ok=True)  # who likes may delete it at any time
    with open(folder / f"{name}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go of when this process ends, however it does
        yield


def use_every_core() -> None:
    """One JAX device for each core that this process was given, where the devices are CPUs. Before any other call."""
    jax.config.update("jax_num_cpu_devices", machine.given_cores())


def memory_limit() -> int:
    """Bytes that one device may hold: what the accelerator says, else the machine's memory shared by its cores."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole * machine.given_cores() // (os.cpu_count() or 1) // jax.local_device_count()


def describe() -> dict[str, str]:
    """Device, versions and processor, for the record."""
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    }
    device, processes = jax.devices()[0], jax.process_count()
    return (
        {
            "device": device.device_kind,
            "backend": jax.default_backend(),
            "devices": str(jax.device_count()),
            "cores": str(machine.given_cores()),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        }
        | ({"processes": str(processes)} if processes > 1 else {})
        | versions
    )
