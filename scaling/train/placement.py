"""Where a run executes. Changes the clock, and the curve by the rounding of sums in another order alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.spec import RunSpec

# Tokens that one core takes through the model at a time: their activations stay in its cache, which at 1M parameters
# makes a step of 8192 tokens 1.4 times as fast (benchmarks/README.md).
CPU_PART_TOKENS = 512

MESH_AXES = ("member", "data", "fsdp", "tensor")

# Logical axis of a tensor -> mesh axes that split it. The only such table.
RULES: Mapping[str | None, str | tuple[str, ...] | None] = {
    "member": "member",
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "ff": "tensor",
    "vocab": "tensor",
    "positions": None,
    None: None,
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Sizes of the mesh axes, and how much of a batch is in memory at once; a laptop is (1, 1, 1, 1)."""

    member: int = 1  # runs of a population are dealt out over it
    data: int = 1  # copies of the weights, each with its share of the batch
    fsdp: int = 1  # weights and optimizer state are cut along d_model, the batch too
    tensor: int = 1  # heads, MLP hidden units and vocabulary are cut
    microbatches: int = 0  # equal parts that a copy takes its rows in; 0: on a CPU as many as its cache wants, else 1
    remat: bool = False  # keep only the stream between blocks for the backward pass, and compute the rest again

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The first member * data * fsdp * tensor devices, of every process equally many where that can be; raises
        ValueError when there are fewer. `devices` are those here, or those of a slice that is not."""
        sizes = (self.member, self.data, self.fsdp, self.tensor)
        processes = jax.process_count() if devices is None else 1 + max(d.process_index for d in devices)
        devices = jax.devices() if devices is None else devices
        if math.prod(sizes) > len(devices):
            raise ValueError(f"placement {sizes} needs {math.prod(sizes)} devices, here are {len(devices)}")
        each, rest = divmod(math.prod(sizes), processes)
        if not rest:
            devices = [d for k in range(processes) for d in _of_process(devices, k)[:each]]
        grid = np.array(devices[: math.prod(sizes)]).reshape(sizes)
        # Auto on purpose: with explicit axes each contraction over a split dimension would have to name its result.
        return Mesh(grid, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))

    def part_rows(self, batch: int, context: int, platform: str) -> int:
        """The most rows of a batch that one copy takes at once; raises ValueError where microbatches do not divide."""
        rows = batch // self.data
        if self.microbatches:
            if rows % self.microbatches:
                raise ValueError(f"microbatches = {self.microbatches}: must divide the {rows} rows of a copy")
            return rows // self.microbatches
        return max(1, CPU_PART_TOKENS // context) if platform == "cpu" else rows


def platform_of(mesh: Mesh) -> str:
    """cpu, gpu or tpu: what a step on this mesh is compiled for, whatever devices this process has."""
    return mesh.devices.flat[0].platform


def copies(run: RunSpec, members: int = 1) -> Placement:
    """A copy of the weights on every device that the batch has work for: equal rows, and on a CPU a full part each.
    Of a population, equally many members on each. Of several processes, equally many devices of each.

    Raises ValueError where several processes cannot share the batch."""
    most, processes = jax.device_count(), jax.process_count()
    if members > 1:
        return Placement(member=max(n for n in range(1, most + 1) if members % n == 0))
    if jax.default_backend() == "cpu":
        most = max(processes, min(most, run.batch_tokens // CPU_PART_TOKENS))
    fit = [n for n in range(processes, most + 1, processes) if run.batch % n == 0]
    if processes > 1 and not fit:
        raise ValueError(f"batch = {run.batch}: must be a multiple of the {processes} processes that share it")
    return Placement(data=max(fit, default=1))


def _of_process(devices: Sequence[Any], process: int) -> list[Any]:
    return [device for device in devices if device.process_index == process]


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """How a tensor with these logical axes lies on the mesh; `sharding(mesh)` is a copy on every device."""
    return NamedSharding(mesh, PartitionSpec(*(RULES[axis] for axis in axes)))


def fitting(mesh: Mesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """`sharding`, with the dimensions that the mesh cannot cut evenly left whole."""

    def cut(axis: str | None, size: int) -> Any:
        names = RULES[axis]
        parts = math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names or ()))
        return names if size % parts == 0 else None

    return NamedSharding(mesh, PartitionSpec(*(cut(axis, size) for axis, size in zip(axes, shape, strict=True))))
