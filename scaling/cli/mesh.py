"""`--placement` and `--mesh`: how a run lies on the devices, checked as far as that goes without JAX."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scaling.launch.local import devices_of_a_worker
from scaling.plan import Plan
from scaling.spec import RunSpec

AXES = ("member", "data", "fsdp", "tensor")  # of the mesh; with the two below the fields of `scaling.train.Placement`
SIZES = (*AXES, "microbatches")
REMAT = ("none", "dots", "blocks")
PLACEMENTS = ("auto", "data", "fsdp")


def mesh_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--placement", metavar="HOW",
        help="of a run on the devices: auto (default), by the rule of docs/training.md; data, whole copies of the "
        "weights; fsdp, the state cut over all of them",
    )  # fmt: skip
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...",
        help="one placement outright, e.g. data=8,fsdp=4; also tensor=, member= (of a --population), microbatches=, "
        "remat=dots or remat=blocks",
    )  # fmt: skip


def words(arguments: argparse.Namespace) -> list[str]:
    """The same options for another process."""
    asked = {"--placement": arguments.placement, "--mesh": arguments.mesh}
    return [word for option, value in asked.items() if value is not None for word in (option, value)]


def sizes(mesh: str) -> dict[str, Any]:
    """The fields of a sound --mesh."""
    pairs = (pair.partition("=") for pair in mesh.split(","))
    return {name: value if name == "remat" else int(value) for name, _, value in pairs}


def unfit(arguments: argparse.Namespace, runs: Iterable[RunSpec]) -> list[str]:
    """What is wrong with the options themselves, and with them for any of these runs."""
    placement, mesh = arguments.placement, arguments.mesh
    faults = []
    if placement is not None and placement not in PLACEMENTS:
        faults.append(f"--placement = {placement}: must be auto, data or fsdp; --mesh gives sizes")
    if placement is not None and mesh is not None:
        faults.append(f"--mesh = {mesh}: is a placement of its own; leave --placement {placement} out")
    if mesh is None:
        return faults
    if wrong := malformed(mesh):
        return faults + wrong
    size = dict.fromkeys(SIZES, 1) | sizes(mesh)
    population = getattr(arguments, "population", "1")
    if size["member"] > 1 and not (population.isdecimal() and int(population) % size["member"] == 0 < int(population)):
        faults.append(
            f"--mesh member={size['member']}: deals out the runs of a population, and --population = {population}; "
            f"give --population N, a multiple of {size['member']}"
        )
    return faults + _uneven(size, [*runs])


def unfit_devices(arguments: argparse.Namespace, plan: Plan, workers: int, processes: int = 1) -> list[str]:
    """More devices than a worker will have, where that is known: on a CPU, or as an engine was asked for them."""
    if arguments.mesh is None or malformed(arguments.mesh):
        return []
    size = dict.fromkeys(AXES, 1) | sizes(arguments.mesh)
    needed = size["member"] * size["data"] * size["fsdp"] * size["tensor"]
    engine = getattr(arguments, "on", "local")
    if engine == "local":
        there, way_out = devices_of_a_worker(plan, workers, processes), "give smaller sizes"
        if there == 1:
            way_out = "with --workers 1 it has every core"
    else:
        gpus, nodes = arguments.gpus or 0, getattr(arguments, "nodes", None) or 1
        elsewhere = any("gpu" in word or "gres" in word for word in getattr(arguments, "slurm", None) or ())
        there = gpus * nodes if gpus else None if elsewhere or nodes > 1 else 1  # without, a worker has one core
        way_out = "give more --gpus" + (" or --nodes" if engine == "slurm" else "")
    if there is None or needed <= there:
        return []
    said = f"needs {needed} devices, and a worker has {there}"
    return [f"--mesh = {arguments.mesh}: {said}; {way_out}, or leave it to --placement auto"]


def malformed(mesh: str) -> list[str]:
    """What in it is no size of an axis."""
    faults, seen = [], set()
    for pair in mesh.split(","):
        name, _, value = pair.partition("=")
        if name not in (*SIZES, "remat"):
            faults.append(f"--mesh {pair}: no such axis; there are {', '.join(SIZES)} and remat, as in data=8,fsdp=4")
        elif name in seen:
            faults.append(f"--mesh {pair}: {name} is given twice")
        elif name == "remat" and value not in REMAT:
            faults.append(f"--mesh {pair}: must be {', '.join(REMAT[:-1])} or {REMAT[-1]}")
        elif name != "remat" and not (value.isdecimal() and value.isascii() and 0 < int(value) < 1 << 31):
            faults.append(f"--mesh {pair}: must be a positive whole number")
        seen.add(name)
    return faults


def _uneven(size: dict[str, int], runs: Sequence[RunSpec]) -> list[str]:
    """One line for each number that a mesh of these sizes does not divide, with a run that has it."""
    shares, tensor = size["data"] * size["fsdp"], size["tensor"]
    rules: list[tuple[str, int, str, Callable[[RunSpec], int | None]]] = [
        ("data * fsdp", shares, "batch", lambda run: run.batch),
        ("data * fsdp * microbatches", shares * size["microbatches"], "batch", lambda run: run.batch),
        ("fsdp", size["fsdp"], "model.d_model", lambda run: run.model.d_model),
        ("tensor", tensor, "heads", heads),
        ("tensor", tensor, "model.d_ff", lambda run: run.model.d_ff),
        ("tensor", tensor, "model.vocab_size", lambda run: run.model.vocab_size),
    ]
    faults = []
    for axes, ways, name, of in rules:
        uneven = [(run, value) for run in runs if (value := of(run)) is not None and value % ways]
        if not uneven or (axes.endswith("microbatches") and any(line.startswith("--mesh data * f") for line in faults)):
            continue
        run, value = uneven[0]
        faults.append(
            f"--mesh {axes} = {ways}: must divide {name} of every run that is left, and does not with {len(uneven)} of "
            f"them, e.g. {run.id}: {name} = {value}"
        )
    return faults


def heads(run: RunSpec) -> int | None:
    """What is cut by heads: those of keys and values, which are the fewest."""
    m = run.model
    return m.kv_heads if m.attention == "causal" else m.d_model if m.attention == "mean" else None
