"""The process and the devices that a run executes on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax


def keep_compiled_programs(folder: Path) -> None:
    """Compile each program once per machine: later processes read it back from `folder`."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def use_every_core() -> None:
    """One JAX device for each core that this process may run on, where the devices are CPUs. Before any other call."""
    jax.config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, str]:
    """Device, versions and processor, for the record."""
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    }
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "backend": jax.default_backend(),
        "devices": str(jax.device_count()),
        "cores": str(_cores()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    } | versions
