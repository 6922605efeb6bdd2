"""The program of a run, compiled for a slice of TPUs that is not here: whether it fits, what it exchanges, how long a
step takes at least. Needs libtpu (the extra tpu) and no TPU.

What is compiled is what the run would execute, `program.traced`, for devices that libtpu describes instead of those of
this process.
"""

import importlib.metadata
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from scaling.chips import Topology
from scaling.cost import train_flops
from scaling.roofline import Estimate, Exchange, Place, estimate, mfu
from scaling.spec import Refusal, RunSpec, compiled_in
from scaling.train.collectives import Collective, collectives
from scaling.train.failures import out_of_memory
from scaling.train.hlo import splash_flops, work
from scaling.train.placement import MESH_AXES, How, Placement
from scaling.train.program import traced
from scaling.train.rank import by_rule, candidates

RULE_TRIES = 3  # placements of the rule that are compiled, until one fits

_NEEDED = (  # two places of the compiler say it
    re.compile(r"[Uu]sed ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])i?B? hbm"),
    re.compile(r"\(([\d.]+)([KMGT])i?B?\) exceeds available HBM \(([\d.]+)([KMGT])i?B?\)"),
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device, by the compiler's account. Where the program does not fit, what it needs at once is all that
    the compiler says."""

    fits: bool
    limit: int  # of the device; where it does not fit, what of it a program may use
    peak: int  # at once, of the steps or of the held-out loss
    argument: int | None = None  # state and tokens, whose places the results take
    output: int | None = None
    temporary: int | None = None
    code: int | None = None

    @property
    def over(self) -> int:
        """Bytes by which it does not fit; 0 where it does."""
        return 0 if self.fits else self.peak - self.limit


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one placement of a run comes to on a slice; `estimate` and its grounds are None where it does not fit."""

    placement: Placement
    memory: Memory
    seconds: float  # of tracing, lowering and compiling
    flops: float | None = None  # of products, of one device in a step
    kernel_flops: float | None = None  # of these, in kernels that XLA does not compile: by formula
    moved: float | None = None  # bytes to and from the memory of one device in a step
    exchanged: tuple[Collective, ...] = ()  # in a step
    estimate: Estimate | None = None

    def to_json(self, run: RunSpec, topology: Topology) -> dict[str, Any]:
        """In numbers: bytes of one device, FLOPs of all, seconds of a step."""
        said: dict[str, Any] = {
            "mesh": str(self.placement),
            "placement": asdict(self.placement),
            "devices": self.placement.devices,
            "fits": self.memory.fits,
            "over": self.memory.over,
            "hbm": {name: size for name, size in asdict(self.memory).items() if name != "fits"},
            "compile_seconds": round(self.seconds, 1),
        }
        if self.estimate is None or self.flops is None or self.kernel_flops is None:
            return said
        of, all_of = self.estimate, self.placement.devices
        return said | {
            "flops": {
                "compiled": self.flops * all_of,
                "kernels": self.kernel_flops * all_of,
                "ratio": self.flops * all_of / step_flops(run),
            },
            "hbm_traffic": self.moved,
            "collectives": self._by_kind(),
            "estimate": {
                **of.terms,
                "network": of.network,
                "bound": of.bound,
                "seconds": of.seconds,
                "seconds_in_turn": of.seconds_in_turn,
                "mfu": mfu(run, all_of, topology, of.seconds),
                "mfu_in_turn": mfu(run, all_of, topology, of.seconds_in_turn),
            },
        }

    def _by_kind(self) -> dict[str, dict[str, float]]:
        """Collectives of a step: how many operations, bytes of their tensors, bytes that a device sends for them."""
        kinds: dict[str, dict[str, float]] = {}
        for one in sorted(self.exchanged, key=lambda one: one.kind):
            of_kind = kinds.setdefault(one.kind, {"count": 0, "bytes": 0, "sent": 0.0})
            of_kind["bytes"] += one.bytes * one.times
            of_kind["sent"] += one.sent * one.times
        for kind, of_kind in kinds.items():
            of_kind["count"] = sum({one.name: one.times for one in self.exchanged if one.kind == kind}.values())
        return kinds


def devices(topology: Topology) -> list[Any]:
    """The devices of a topology, as JAX would count them there. Raises RuntimeError where there is no libtpu."""
    more = {"num_slices": topology.slices} if topology.slices > 1 else {}
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, chip_config_name=topology.of.config,
        chips_per_host_bounds=topology.host_bounds, **more,
    )  # fmt: skip
    return list(described.devices)


def compile_for(run: RunSpec, placement: Placement, topology: Topology) -> Compiled:
    """The program of `run` under a placement, compiled for a topology."""
    start = time.perf_counter()
    mesh = placement.mesh(devices(topology))
    programs = traced(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement, 1, mesh)
    try:
        steps = programs.steps.lower(lowering_platforms=("tpu",)).compile()
        losses = programs.losses.lower(lowering_platforms=("tpu",)).compile()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return Compiled(placement=placement, memory=_refused(f"{error}", topology), seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    text = steps.as_text()
    done, exchanged = work(text), tuple(_of_step(collectives(text)))
    kernels = sum(times * splash_flops(name, shapes) for name, shapes, times in done.kernels)
    at = [place(device) for device in mesh.devices.flat]
    found = [
        Exchange(kind=one.kind, bytes=one.bytes, group=tuple(at[i] for i in one.group), times=one.times)
        for one in exchanged
    ]
    return Compiled(
        placement=placement,
        memory=_memory(steps, losses, topology),
        seconds=seconds,
        flops=done.flops + kernels,
        kernel_flops=kernels,
        moved=done.memory,
        exchanged=exchanged,
        estimate=estimate(topology, run.model.compute_dtype, done.flops + kernels, done.memory, found),
    )


def judge(
    run: RunSpec, topology: Topology, how: Placement | How, tries: int, compiling: Callable[..., Any] = compile_for
) -> tuple[Compiled, list[Compiled]]:
    """(the placement asked for, what was compiled beside it). Where sizes are not given it is that of `by_rule`, the
    first that fits; beside it are up to `tries` others, the best by formula, of those that may fit. Raises `Refusal`
    where no placement takes all devices."""
    best = candidates(run, topology)
    if not best and not isinstance(how, Placement):
        m = run.model
        heads = f"{m.n_heads} heads, " if m.attention == "causal" else ""
        raise Refusal(
            f"{topology.slices} x {topology.name}: a run takes all {topology.devices} devices of its slices, and "
            f"{run.batch} rows, {heads}d_model = {m.d_model}, d_ff = {m.d_ff} cannot be dealt out so; take a smaller "
            f"slice, or a batch that is a multiple of {topology.devices}"
        )
    missed: list[Compiled] = []
    for placement in [how] if isinstance(how, Placement) else by_rule(run, topology, how) or best[:1]:
        first = compiling(run, placement, topology)
        if first.memory.fits or len(missed) == RULE_TRIES - 1:
            break
        missed.append(first)
    else:
        first = missed.pop()
    seen = {first.placement, *(one.placement for one in missed)}
    others = [one for one in best if one not in seen][:tries]
    return first, missed + [compiling(run, placement, topology) for placement in others]


def proposed(first: Compiled, others: list[Compiled]) -> Compiled | None:
    """The one with the best estimate among those that fit."""
    fit = [(one.estimate.seconds, one.estimate.seconds_in_turn, one) for one in (first, *others) if one.estimate]
    return min(fit, key=lambda of: of[:2])[2] if fit else None


def lowered(run: RunSpec, placement: Placement, topology: Topology) -> str:
    """StableHLO of a run's step for a topology: what can be checked of it without libtpu, the lowering of its kernels
    included."""
    sizes = (placement.member, placement.data, placement.fsdp, placement.tensor)
    chip = AbstractDevice(device_kind=topology.of.kind, num_cores=1, platform="tpu")
    mesh = AbstractMesh(sizes, MESH_AXES, (AxisType.Auto,) * len(sizes), abstract_device=chip)
    programs = traced(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement, 1, mesh)
    return programs.steps.lower(lowering_platforms=("tpu",)).as_text()


def place(device: Any) -> Place:
    """Where a device lies, as `roofline.places` says it."""
    return (getattr(device, "slice_index", 0) or 0, *device.coords, device.core_on_chip)


def _of_step(found: list[Collective]) -> Iterator[Collective]:
    """Those of every step. Of the loop over steps, and in it of no branch that most steps do not take."""
    return (one for one in found if one.in_loop and not one.sometimes)


def _memory(steps: Any, losses: Any, topology: Topology) -> Memory:
    sizes = steps.memory_analysis()
    return Memory(
        fits=True,
        limit=topology.device_hbm,
        peak=max(sizes.peak_memory_in_bytes, losses.memory_analysis().peak_memory_in_bytes),
        argument=sizes.argument_size_in_bytes,
        output=sizes.output_size_in_bytes,
        temporary=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
    )


def _refused(message: str, topology: Topology) -> Memory:
    """What a compiler that ran out of memory said of it."""
    said = next((found for one in _NEEDED if (found := one.search(message))), None)
    if not said:
        raise RuntimeError(f"the compiler ran out of memory and does not say by how much: {message[:200]}")
    used, limit = (round(float(said[i]) * _UNITS[said[i + 1]]) for i in (1, 3))
    return Memory(fits=False, limit=limit, peak=used)


def step_flops(run: RunSpec) -> float:
    """Of a step over all devices, by our exact count."""
    return train_flops(run) / run.steps


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
