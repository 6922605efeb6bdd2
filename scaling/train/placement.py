"""Where a run executes. Changes the clock, and the curve by the rounding of sums in another order alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from scaling.cost import count_params
from scaling.spec import RunSpec
from scaling.train.host import memory_limit

# Tokens that one core takes through the model at a time: their activations stay in its cache, which at 1M parameters
# makes a step of 8192 tokens 1.4 times as fast (benchmarks/README.md).
CPU_PART_TOKENS = 512

TENSOR_UNITS = 128  # of an MLP that a device keeps at least where they are cut: the width of a chip's matrix unit
# float32 tensors for each weight: itself, its gradient, the optimizer's own; of Muon's two kinds the thriftier
STATE_TENSORS = {"adamw": 4, "sgd": 3, "muon": 3, "schedule_free": 5}

# The most layers that have tensors of their own. More are a stack, which an accelerator goes through in one loop: forty
# layers then compile as one does. A loop makes a CPU's step slower, so there each is compiled by itself all the same.
APART = 8

MESH_AXES = ("member", "data", "fsdp", "tensor")

How = Literal["auto", "data", "fsdp"]  # a placement that is looked for, and among which

# Logical axis of a tensor -> mesh axes that split it. The only such table.
RULES: Mapping[str | None, str | tuple[str, ...] | None] = {
    "member": "member",
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "ff": "tensor",
    "vocab": "tensor",
    "positions": None,
    "layers": None,
    None: None,
}

Remat = Literal["none", "dots", "blocks"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Sizes of the mesh axes, and how much of a batch is in memory at once; a laptop is (1, 1, 1, 1)."""

    member: int = 1  # runs of a population are dealt out over it
    data: int = 1  # copies of the weights, each with its share of the batch
    fsdp: int = 1  # weights and optimizer state are cut along d_model, the batch too
    tensor: int = 1  # heads, MLP hidden units and vocabulary are cut
    microbatches: int = 0  # equal parts of a device's rows, in turn; 0: on a CPU as many as its cache wants, else 1
    # What the backward pass computes again, so as not to keep it: all of a block but its dense products (dots: and on a
    # TPU its attention), or all of it (blocks).
    remat: Remat = "none"

    @property
    def devices(self) -> int:
        return self.member * self.data * self.fsdp * self.tensor

    @property
    def shares(self) -> int:
        """Equal parts that a batch is cut into, over data and fsdp."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        """As `scaling run --mesh` takes it: what differs from one device."""
        said = [f"{f.name}={getattr(self, f.name)}".lower() for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(said) or "data=1"

    def of(self, members: int) -> "Placement":
        """For a population of another size: over as many of the devices of `member` as share its runs evenly."""
        return replace(self, member=math.gcd(self.member, members))

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The first member * data * fsdp * tensor devices, of every process equally many where that can be; raises
        ValueError when there are fewer. `devices` are those here, or those of a slice that is not."""
        sizes = (self.member, self.data, self.fsdp, self.tensor)
        devices = jax.devices() if devices is None else devices
        processes = len({device.process_index for device in devices})
        if self.devices > len(devices):
            raise ValueError(
                f"--mesh {self}: needs {self.devices} devices, and there are {len(devices)}; give sizes whose product "
                f"is at most {len(devices)}, or --placement auto"
            )
        each, rest = divmod(self.devices, processes)
        if not rest:
            devices = [d for k in range(processes) for d in _of_process(devices, k)[:each]]
        grid = np.array(devices[: self.devices]).reshape(sizes)
        # Auto on purpose: with explicit axes each contraction over a split dimension would have to name its result.
        return Mesh(grid, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))

    def part_rows(self, batch: int, context: int, platform: str) -> int:
        """The most rows of a batch that a device takes at once; raises ValueError where microbatches do not divide."""
        rows = batch // self.shares
        if self.microbatches:
            if rows % self.microbatches:
                raise ValueError(f"microbatches = {self.microbatches}: must divide the {rows} rows of a device")
            return rows // self.microbatches
        return max(1, CPU_PART_TOKENS // context) if platform == "cpu" else rows


def platform_of(mesh: Mesh | AbstractMesh) -> str:
    """cpu, gpu or tpu: what a step on this mesh is compiled for, whatever devices this process has."""
    device = mesh.devices.flat[0] if isinstance(mesh, Mesh) else mesh.abstract_device
    return device.platform


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a placement is chosen for; those of this process, or of a slice that is not here."""

    count: int  # over all processes
    memory: int  # bytes of each
    platform: str  # cpu, gpu, tpu
    processes: int = 1

    @classmethod
    def here(cls) -> "Devices":
        return cls(
            count=jax.device_count(), memory=memory_limit(), platform=jax.default_backend(),
            processes=jax.process_count(),
        )  # fmt: skip


def auto(run: RunSpec, devices: Devices, members: int = 1, how: How = "auto") -> tuple[Placement, ...]:
    """Placements for a run, or for `members` of its shape in one program, the best first. The first one of them whose
    compiled program asks for no more memory than a device has is to be taken (`program.roomy`).

    1. A population is dealt out: `member` is the most devices that share its runs evenly.
    2. Whole copies come first, `data`: they meet once a step and in nothing but gradients. As many as share the batch
       evenly; on a CPU with a full part (CPU_PART_TOKENS) for each.
    3. Where `least_bytes` of a copy does not fit, not even with a row at a time and rematerialised, the state is cut:
       `fsdp` is the smallest divisor of the devices, of d_model and of the batch with which it does, since weights that
       are cut have to be gathered in every pass; copies share the rest. So data * fsdp stays, and only memory moves.
    4. `tensor` comes last, for it exchanges activations twice a block and waits for them: where the batch has fewer
       rows than there are devices, as many as find one (not on a CPU, whose cores share one memory), or where no fsdp
       is enough, as for a block, a table or a single row that is too large. It divides the heads, d_ff and the
       vocabulary, and leaves a device TENSOR_UNITS hidden units at least.
    5. Within each of them: the whole batch at once, then twice the microbatches and so on to a row at a time, and at
       last rematerialisation: dots, which computes little again, then blocks, which costs a third more compute. Where
       layers are a loop on a GPU, dots from the start: what a loop keeps of each turn is written to memory and read
       back, and on an H100 twelve layers go 1.46 times as fast without (benchmarks/remat.py).

    On a TPU a placement takes every device of its slice where one does: v5e and v6e compile nothing for fewer.

    What `least_bytes` rules out is left out; where that is all, the thriftiest is given. `how` = data is rules 2 and 5
    alone; fsdp is the largest fsdp of rule 3 at once. Raises ValueError where several processes cannot share the batch.
    """
    if members > 1:
        most = max(n for n in range(1, devices.count + 1) if members % n == 0)
        cuts = [Placement(member=most)]
    else:
        cuts = _cuts(run, devices, how)
    found = [finer for cut in cuts for finer in _by_parts(run, cut, devices.platform)]
    needs = [least_bytes(run, placement, devices.platform, members) for placement in found]
    fit = tuple(placement for placement, need in zip(found, needs, strict=True) if need <= devices.memory)
    return fit or (found[needs.index(min(needs))],)


def first(run: RunSpec, members: int = 1, how: Placement | How = "auto") -> Placement:
    """The one that is given, or the best of `auto` for the devices here, whether it fits or not."""
    return how.of(members) if isinstance(how, Placement) else auto(run, Devices.here(), members, how)[0]


def least_bytes(run: RunSpec, placement: Placement, platform: str, members: int = 1) -> float:
    """What a step holds in a device at the very least:

        state   4 N s / (fsdp tensor)           N parameters in float32, each with its gradient and what the optimizer
                                                keeps of it: s tensors (STATE_TENSORS)
        layer   b max(N_block, V D) / tensor    where fsdp cuts: the largest of what is whole while it is used
        stream  b D per token and block         of a microbatch; without rematerialisation the inside of each block
                                                too, b (2 D + (H + 2 G) K / tensor + F / tensor), with dots b D less
        logits  8 V / tensor per token          and their gradient

    b bytes of the compute type. What a compiler adds (workspace, collectives in flight, scores of attention where its
    kernel keeps them) is its own to say, so nothing that fits is ruled out.
    """
    m, cut = run.model, placement.tensor
    N, V, D = count_params(m).total, m.vocab_size, m.d_model
    width = 2 if m.compute_dtype == "bfloat16" else 4
    state = 4 * N * (STATE_TENSORS[run.optim.name] + (run.optim.average > 0)) / (placement.fsdp * cut)
    block = (count_params(m).kaplan) / m.n_layers
    layer = width * max(block, V * D) / cut if placement.fsdp > 1 else 0
    products = ((m.n_heads + 2 * m.kv_heads) * m.d_head + m.d_ff) / cut
    inside = {"none": 2 * D + products, "dots": D + products, "blocks": 0}[placement.remat]
    rows = placement.part_rows(run.batch, m.context, platform)
    tokens = min(rows, run.batch // placement.shares) * m.context
    here = -(-members // placement.member)
    return here * (state + layer + tokens * (width * m.n_layers * (D + inside) + 8 * V / cut))


def _cuts(run: RunSpec, devices: Devices, how: How) -> list[Placement]:
    """By rules 2 to 4, each with the fewest microbatches."""
    found = []
    for tensor in _tensors(run, devices) if how == "auto" else [1]:
        sharing = devices.count // tensor
        fsdps = [f for f in range(1, sharing + 1) if sharing % f == run.model.d_model % f == run.batch % f == 0]
        for fsdp in {"auto": fsdps, "data": [1], "fsdp": fsdps[::-1]}[how]:
            most = sharing // fsdp
            if devices.platform == "cpu" and how != "fsdp":
                most = max(1, devices.processes // fsdp, min(most, run.batch_tokens // CPU_PART_TOKENS // fsdp))
            data = [
                n for n in range(1, most + 1)
                if run.batch % (n * fsdp) == 0 and n * fsdp * tensor % devices.processes == 0
            ]  # fmt: skip
            found += [Placement(data=max(data), fsdp=fsdp, tensor=tensor)] if data else []
    if devices.platform == "tpu":
        found = [cut for cut in found if cut.devices == devices.count] or found
    if not found:
        raise ValueError(f"batch = {run.batch}: must be a multiple of the {devices.processes} processes that share it")
    return found


def _tensors(run: RunSpec, devices: Devices) -> list[int]:
    """Sizes of tensor by rule 4, the smallest first."""
    m = run.model
    whole = [m.d_ff // TENSOR_UNITS, m.vocab_size, devices.count]
    cut = [m.d_ff, m.vocab_size, devices.count, *([m.kv_heads, m.n_heads] if m.attention == "causal" else [m.d_model])]
    sizes = [n for n in range(1, max(1, min(whole)) + 1) if all(size % n == 0 for size in cut)]
    if devices.platform == "cpu" or run.batch >= devices.count:
        return sizes
    return [n for n in sizes if n * run.batch >= devices.count] or sizes[-1:]


def _by_parts(run: RunSpec, cut: Placement, platform: str) -> list[Placement]:
    """Rule 5."""
    looped = platform == "gpu" and run.model.n_layers > APART
    cut = replace(cut, remat="dots") if looped else cut
    rows = run.batch // cut.shares
    at_first = -(-rows // cut.part_rows(run.batch, run.model.context, platform))
    counts = [n for n in range(at_first + 1, rows + 1) if rows % n == 0]
    doubled: list[int] = []
    for n in counts:
        if n == counts[-1] or n >= 2 * (doubled[-1] if doubled else at_first):
            doubled.append(n)
    finer = [cut, *(replace(cut, microbatches=n) for n in doubled)]
    return [*finer, *(replace(finer[-1], remat=remat) for remat in (("blocks",) if looped else ("dots", "blocks")))]


def _of_process(devices: Sequence[Any], process: int) -> list[Any]:
    return [device for device in devices if device.process_index == process]


def sharding(mesh: Mesh | AbstractMesh, *axes: str | None) -> NamedSharding:
    """How a tensor with these logical axes lies on the mesh; `sharding(mesh)` is a copy on every device."""
    return NamedSharding(mesh, PartitionSpec(*(RULES[axis] for axis in axes)))


def laid(x: jax.Array, *axes: str | None, rows: int = 0) -> jax.Array:
    """The same tensor, held to lie on the mesh that is set as its logical axes say, where a step leaves the rest to the
    compiler. An axis that the mesh cannot cut evenly is left to it too; one of `rows` whole rows is cut between them.

    Without it the compiler takes the stream for another matrix: of weights that are cut along d_model it then gathers
    and sums activations, which are many, in the place of weights (docs/training.md).
    """
    mesh = jax.sharding.get_abstract_mesh()
    left_to_us = {name: mesh.shape[name] for name in MESH_AXES if name in mesh.auto_axes and name != "member"}
    if math.prod(left_to_us.values()) == 1:
        return x

    def cut(axis: str | None, size: int) -> Any:
        named = RULES[axis] or ()
        names = tuple(name for name in ((named,) if isinstance(named, str) else named) if name in left_to_us)
        parts = math.prod(left_to_us[name] for name in names)
        return names if (rows if axis == "batch" and rows else size) % parts == 0 else PartitionSpec.UNCONSTRAINED

    spec = PartitionSpec(*(cut(axis, size) for axis, size in zip(axes, x.shape, strict=True)))
    return jax.lax.with_sharding_constraint(x, spec)


def fitting(mesh: Mesh | AbstractMesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """`sharding`, with the dimensions that the mesh cannot cut evenly left whole."""

    def cut(axis: str | None, size: int) -> Any:
        names = RULES[axis]
        parts = math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names or ()))
        return names if size % parts == 0 else None

    return NamedSharding(mesh, PartitionSpec(*(cut(axis, size) for axis, size in zip(axes, shape, strict=True))))
