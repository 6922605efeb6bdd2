"""`scaling doctor`: versions, devices, and what is missing for what. Asks a child process for the devices, so that a
broken accelerator stack is reported and not suffered."""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys

from rich.console import Console

from scaling import machine
from scaling.cli.exits import DONE, FAILED
from scaling.cli.options import json_option
from scaling.launch.local import default_workers
from scaling.launch.provenance import code, devices

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas", "matplotlib", "rich")
EXTRAS = {
    "gpu": ("jax_cuda12_plugin", "training on NVIDIA GPUs"),
    "tpu": ("libtpu", "training on TPUs"),
    "dev": ("pytest", "./check"),
    "slurm": ("submitit", "sweeps on SLURM"),
    "ray": ("ray", "sweeps on Ray"),
    "tensorboard": ("tensorboardX", "curves to TensorBoard"),
    "wandb": ("wandb", "curves to Weights & Biases"),
    "hf": ("tokenizers", "training a tokenizer"),
    "tables": ("pyarrow", "Parquet tables"),
    "gcs": ("gcsfs", "results in gs:// buckets"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    found = examine()
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        show(found, Console())
    return FAILED if found["problems"] else DONE


def examine() -> dict:
    versions = {name: _version(name) for name in CORE}
    problems = [
        f"{name} is not installed: pip install -e '.[cpu]'" for name, version in versions.items() if not version
    ]
    seen = devices(sys.executable)
    if "error" in seen:
        problems.append(f"jax sees no device: {seen['error']}")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(machine.cores()),
        "workers": default_workers(),
        "versions": versions,
        "code": code(),
        "devices": seen,
        "extras": {name: importlib.util.find_spec(module) is not None for name, (module, _) in EXTRAS.items()},
        "caches": caches(),
        "problems": problems,
    }


def caches() -> dict:
    """Where compiled programs and measured speeds are, and what of this machine is there."""
    entry, fault = machine.measured()
    return {
        "programs": str(machine.programs_folder()),
        "programs_bytes": sum(p.stat().st_size for p in machine.programs_folder().rglob("*") if p.is_file()),
        "table": str(machine.table_path()),
        "shapes": len(entry.speeds) if entry else 0,
        "measured": max((speed.date for speed in entry.speeds), default="") if entry else "",
        "fault": fault,
    }


def _code(said: dict[str, str]) -> str:
    """The commit, and how this environment stands to the lock."""
    dirty = {"yes": " with changes", "unknown": ", unknown changes"}.get(said.get("dirty", ""), "")
    where = f"commit {said['commit'][:12]}{dirty}" if "commit" in said else "not in a git checkout"
    if "lock" not in said:
        return where
    differs = said.get("lock_differs")
    return f"{where}, " + (f"other than the lock {said['lock']} (have/pinned): {differs}" if differs else "as locked")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def show(found: dict, console: Console) -> None:
    console.print(
        f"Python {found['python']} on {found['system']}, {found['cores']} cores", highlight=False, soft_wrap=True
    )
    console.print(
        ", ".join(f"{name} {version or 'missing'}" for name, version in found["versions"].items()),
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"code: {_code(found['code'])}", highlight=False, soft_wrap=True)
    if "error" not in found["devices"]:
        console.print(
            f"devices: {found['devices']['count']} x {found['devices']['kind']} ({found['devices']['backend']}); "
            f"a sweep uses {found['workers']} worker{'s' * (found['workers'] > 1)}",
            highlight=False,
            soft_wrap=True,
        )
    for name, there in found["extras"].items():
        console.print(
            f"  {name:<6} {'installed' if there else 'not installed':<14} {EXTRAS[name][1]}",
            highlight=False,
            soft_wrap=True,
        )
    kept = found["caches"]
    console.print(
        f"compiled programs: {kept['programs']} ({kept['programs_bytes'] / 1e6:.0f} MB)",
        highlight=False,
        soft_wrap=True,
    )
    measured = (
        f"{kept['shapes']} shapes, last on {kept['measured']}" if kept["shapes"] else "none; `scaling bench` makes them"
    )
    console.print(f"measured speeds: {kept['fault'] or measured}", highlight=False, soft_wrap=True)
    for problem in found["problems"]:
        console.print(f"[red]{problem}[/red]", highlight=False, soft_wrap=True)
