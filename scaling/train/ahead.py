"""The program of a run, compiled for a slice of TPUs that is not here: whether it fits, what it exchanges, how long a
step takes at least. Needs libtpu (the extra tpu) and no TPU.

What is compiled is what the run would execute, `program.traced`, for devices that libtpu describes instead of those of
this process.
"""

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jax.experimental import topologies

from scaling.chips import Topology
from scaling.cost import flops_per_token
from scaling.roofline import Cut, Estimate, Exchange, Place, estimate, expected
from scaling.spec import RunSpec, compiled_in
from scaling.train.collectives import Collective, collectives
from scaling.train.failures import out_of_memory
from scaling.train.hlo import splash_flops, work
from scaling.train.placement import Devices, Placement, auto
from scaling.train.program import traced

# Of a device's memory that a placement may need by `roofline.expected` to be worth compiling: the formula leaves out
# what a compiler adds.
HEADROOM = 0.85

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


def lowered_for_tpu(run: RunSpec, placement: Placement) -> str:
    """StableHLO of a run's step for a TPU, over a mesh of this process's devices: what of a compile is checked without
    libtpu, the kernels' own lowering included."""
    programs = traced(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement, 1, placement.mesh())
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


def by_rule(run: RunSpec, topology: Topology) -> list[Placement]:
    """What `--placement auto` would try on the slice, one after another, from the first that fits by formula."""
    found = auto(
        run,
        Devices(count=topology.devices, memory=topology.device_hbm, platform="tpu", processes=topology.hosts),
    )
    fit = [n for n, cut in enumerate(found) if expected(run, cut, topology).hbm <= HEADROOM * topology.device_hbm]
    return list(found[fit[0] if fit else -1 :])


def candidates(run: RunSpec, topology: Topology) -> list[Placement]:
    """Every placement on as many devices of a topology as can share the run, the best first by `roofline.expected`, of
    those that fit by it: each with the fewest microbatches that do, rematerialised and not. Where none does, the
    thriftiest."""
    model = run.model
    heads = (model.n_heads, model.kv_heads) if model.attention == "causal" else (model.d_model,)
    cuts = [
        (data, fsdp, tensor)
        for data, fsdp, tensor in itertools.product(_divisors(run.batch), _divisors(run.batch), _divisors(model.d_ff))
        if data * fsdp * tensor <= topology.devices and run.batch % (data * fsdp) == 0 == model.d_model % fsdp
        and all(size % tensor == 0 for size in (*heads, model.vocab_size))
    ]  # fmt: skip
    most = max(data * fsdp * tensor for data, fsdp, tensor in cuts)
    found, thrifty = [], []
    for data, fsdp, tensor in cuts:
        if data * fsdp * tensor < most:
            continue
        for remat in (False, True):
            whole = Placement(data=data, fsdp=fsdp, tensor=tensor, remat=remat)
            finer = [replace(whole, microbatches=n) for n in _divisors(run.batch // (data * fsdp)) if n > 1]
            needs = {cut: expected(run, cut, topology).hbm for cut in (whole, *finer)}
            fit = next((cut for cut in needs if needs[cut] <= HEADROOM * topology.device_hbm), None)
            if fit:
                found.append(fit)
            thrifty.append(min(needs, key=lambda cut: needs[cut]))
    if not found:
        return [min(thrifty, key=lambda cut: expected(run, cut, topology).hbm)]
    return sorted(found, key=lambda cut: _worth(run, cut, topology))


def formula(run: RunSpec, cut: Cut, topology: Topology) -> Estimate:
    """Of a step, before anything is compiled."""
    of = expected(run, cut, topology)
    return estimate(topology, run.model.compute_dtype, of.flops, of.memory, of.exchanges)


def exact_flops(run: RunSpec) -> float:
    """Of a step, by our count, over all devices."""
    return run.batch_tokens * flops_per_token(run.model, "exact")


def _worth(run: RunSpec, cut: Placement, topology: Topology) -> tuple[float, float]:
    found = formula(run, cut, topology)
    return found.seconds, found.seconds_in_turn


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def seen() -> bool:
    """Whether libtpu can describe a slice on this machine."""
    try:
        devices(Topology(generation="v5e", shape=(2, 2)))
    except RuntimeError:
        return False
    return True


def versions() -> dict[str, str]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
