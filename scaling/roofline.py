"""How long a step would take if nothing but the documented rates of a chip held it up.

Three terms: FLOPs over peak FLOP/s, bytes of memory over its bandwidth, bytes sent over the links between chips. The
largest bounds the step from below, as if the others hid behind it completely; their sum is what it takes where nothing
hides. Neither knows of latency, of matrices too small for the units, or of a host that is late.

Collectives go by the model of the book "How to Scale Your Model" (jax-ml.github.io/scaling-book/sharding), for a tensor
of V bytes, as a device of the group sees it whole, and n devices that W bytes/s leave in one direction along an axis:
on a ring V (n - 1) / (n 2 W) for an all-gather and a reduce-scatter, both for an all-reduce, V n / 8 W for an
all-to-all of V bytes a device; on a line, without the link that closes it, twice that. A group that spans several axes
of the torus uses all of them at once. Groups that lie with gaps on one axis share its links.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from scaling.chips import Topology
from scaling.cost import count_flops, count_params
from scaling.spec import RunSpec

Place = tuple[int, ...]  # of a device: (slice, x, y, z, core)

# Of one chip, whose two devices share a package: as many links' worth (cloud.google.com/tpu/docs/tpu7x).
PACKAGE_LINKS = 6


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One tensor that a group of devices exchange in a step."""

    kind: str  # all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute, collective-broadcast
    bytes: (
        float  # of the whole tensor: the result, and of a reduce-scatter the operand; of one device for an all-to-all
    )
    group: tuple[Place, ...]
    times: int = 1  # a step


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of a step by what holds it up, on every device alike."""

    compute: float
    memory: float
    links: float  # within slices
    network: float | None  # between slices; None where its bandwidth is not documented

    @property
    def terms(self) -> dict[str, float]:
        return {
            "compute": self.compute,
            "memory": self.memory,
            "interconnect": self.links + (self.network or 0.0),
        }

    @property
    def bound(self) -> str:
        """The term that is largest."""
        return max(self.terms, key=lambda name: self.terms[name])

    @property
    def seconds(self) -> float:
        """At best: everything else hides behind the largest term."""
        return max(self.terms.values())

    @property
    def seconds_in_turn(self) -> float:
        """Where nothing hides behind anything."""
        return sum(self.terms.values())


def estimate(topology: Topology, dtype: str, flops: float, memory: float, exchanges: Iterable[Exchange]) -> Estimate:
    """Of a step in which each device executes `flops`, moves `memory` bytes to or from its memory, and takes part in
    `exchanges`. Matrix products are at the peak of bfloat16, which no other type of ours exceeds."""
    links = network = 0.0
    known = True
    for one in exchanges:
        within, between = exchange_seconds(one, topology)
        links += one.times * within
        network += one.times * (between or 0.0)
        known &= between is not None
    peaks = topology.chip.peaks
    return Estimate(
        compute=flops / peaks.get(dtype, peaks["bfloat16"]),
        memory=memory / (topology.of.hbm_bandwidth / topology.chip.devices),
        links=links,
        network=network if known else None,
    )


def exchange_seconds(one: Exchange, topology: Topology) -> tuple[float, float | None]:
    """(within slices, between them) of one exchange, once. Between slices each chip sends what is its own part of the
    tensor; None where the bandwidth is not documented."""
    slices = len({place[0] for place in one.group})
    inside = [place for place in one.group if place[0] == one.group[0][0]]
    within = 0.0
    if len(inside) > 1:
        rate = _rate(inside, topology)
        within = _turns(one.kind, len(inside)) * one.bytes / rate
    if slices == 1:
        return within, 0.0
    if topology.of.dcn is None:
        return within, None
    share = one.bytes if one.kind == "collective-permute" else one.bytes / len(inside)
    return within, _turns(one.kind, slices) * share / (topology.of.dcn / topology.chip.devices)


def _turns(kind: str, n: int) -> float:
    """Of the whole tensor, how much passes a device."""
    share = (n - 1) / n
    return {"all-reduce": 2 * share, "all-to-all": n / 4, "collective-permute": 1.0}.get(kind, share)


def _rate(group: Sequence[Place], topology: Topology) -> float:
    """Bytes/s at which each device of a group within a slice sends to the others, over all links that it can use."""
    link, rate = topology.of.link, 0.0
    for axis in range(len(topology.shape)):
        at = sorted({place[1 + axis] for place in group})
        if len(at) == 1:
            continue
        gap = min(b - a for a, b in itertools.pairwise(at))
        ring = topology.closes(axis) and len(at) * gap == topology.shape[axis]
        rate += link * (2 if ring else 1) / gap
    cores = len({place[-1] for place in group})
    if not rate:
        return link * PACKAGE_LINKS
    return rate * cores / topology.chip.devices


def places(topology: Topology) -> list[Place]:
    """Where the devices lie, in the order in which JAX counts them: slice by slice, host by host, core by core."""
    shape = (*topology.shape, *(1 for _ in range(3 - len(topology.shape))))
    blocks = [min(b, s) for b, s in zip(topology.host_bounds, shape, strict=True)]
    of_slice = []
    for host in itertools.product(*(range(0, s, b) for s, b in zip(shape[::-1], blocks[::-1], strict=True))):
        for chip in itertools.product(*(range(b) for b in blocks[::-1])):
            z, y, x = (a + b for a, b in zip(host, chip, strict=True))
            of_slice += [(x, y, z, core) for core in range(topology.chip.devices)]
    return [(number, *place) for number in range(topology.slices) for place in of_slice]


class Cut(Protocol):
    """What of a placement is read here (`scaling.train.Placement`)."""

    @property
    def data(self) -> int: ...
    @property
    def fsdp(self) -> int: ...
    @property
    def tensor(self) -> int: ...
    @property
    def microbatches(self) -> int: ...
    @property
    def remat(self) -> str: ...  # none, dots, blocks


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one device needs for a step, by formula and before anything is compiled: to choose what to compile."""

    hbm: float  # bytes in use at once
    flops: float
    memory: float  # bytes moved to and from it
    exchanges: tuple[Exchange, ...]


MOMENTS = {"adamw": 2, "sgd": 1, "muon": 2, "schedule_free": 3}  # beside the weights, of each parameter


def expected(run: RunSpec, cut: Cut, topology: Topology) -> Expected:
    """`Expected` of a run on the first data * fsdp * tensor devices of a slice.

    Weights, gradients and moments are float32 and lie on fsdp * tensor devices; activations are of the compute type.
    What a block keeps for the backward pass, and how often its values pass through memory, are counts of the formula:
    they rank placements, and a report takes what was compiled instead.
    """
    model, n = run.model, count_params(run.model).total
    of_state, parts = cut.fsdp * cut.tensor, max(1, cut.microbatches)
    tokens = run.batch_tokens / (cut.data * cut.fsdp)  # that a device sees in a step
    each = 2 if model.compute_dtype == "bfloat16" else 4
    D, F, layers = model.d_model, model.d_ff, model.n_layers
    vocab = model.vocab_size / cut.tensor

    flops = count_flops(model)
    blocks = flops.attention + flops.scores_causal + flops.mlp
    again = cut.remat == "blocks"
    executed = flops.exact + (blocks / 3 if again else 0)

    # Of a token in a block, for its backward pass: three float32 of each norm, and of the compute type what goes into
    # products and attention and six of each hidden unit; of it, the results of products and of attention.
    kept = 24 * D + each * (2 * D + (5 * D + 6 * F) / cut.tensor)
    products = each * (3 * D + (4 * D + F) / cut.tensor)
    held = {"none": kept, "dots": products, "blocks": each * D}[cut.remat]
    in_blocks = layers * held + (0 if cut.remat == "none" else kept)
    moments = MOMENTS[run.optim.name] + (run.optim.average > 0)
    gradients = 4 * n / of_state * (2 if parts > 1 else 1)
    state = (1 + moments) * 4 * n / of_state
    gathered = each * n / cut.tensor / layers if cut.fsdp > 1 else 0
    hbm = state + gradients + gathered + tokens / parts * (in_blocks + 10 * vocab)

    weights = parts * (3 if again else 2) * 4 * n / cut.tensor
    update = (3 + 2 * moments + 2) * 4 * n / of_state
    moved = weights + update + tokens * (layers * kept * (2 if again else 1.5) + 16 * vocab)

    return Expected(
        hbm=hbm,
        flops=executed * run.batch_tokens / (cut.data * cut.fsdp * cut.tensor),
        memory=moved,
        exchanges=tuple(_exchanges(run, cut, topology, n, tokens, each, parts)),
    )


def _exchanges(
    run: RunSpec, cut: Cut, topology: Topology, n: int, tokens: float, each: int, parts: int
) -> Iterable[Exchange]:
    """Gradients over data once a step; weights and gradients over fsdp in each part; the stream over tensor, twice a
    block and twice more backwards, and at the head."""
    at = places(topology)
    stride = {"tensor": 1, "fsdp": cut.tensor, "data": cut.tensor * cut.fsdp}

    def group(axis: str) -> tuple[Place, ...]:
        return tuple(at[i * stride[axis]] for i in range(getattr(cut, axis)))

    if cut.data > 1:
        yield Exchange(kind="all-reduce", bytes=4 * n / (cut.fsdp * cut.tensor), group=group("data"))
    if cut.fsdp > 1:
        gathers = (3 if cut.remat == "blocks" else 2) * parts
        yield Exchange(kind="all-gather", bytes=each * n / cut.tensor, group=group("fsdp"), times=gathers)
        yield Exchange(kind="reduce-scatter", bytes=4 * n / cut.tensor, group=group("fsdp"), times=parts)
    if cut.tensor > 1:
        stream = each * run.model.d_model * tokens
        times = (6 if cut.remat == "blocks" else 4) * run.model.n_layers + 2
        yield Exchange(kind="all-reduce", bytes=stream, group=group("tensor"), times=times)


def gib(size: float) -> str:
    """12.3 GiB; small ones in MiB or KiB."""
    power, unit = next(((p, u) for p, u in ((30, "GiB"), (20, "MiB")) if size >= 1 << p), (10, "KiB"))
    return f"{size / (1 << power):.3g} {unit}"


def mfu(run: RunSpec, devices: int, topology: Topology, seconds: float) -> float:
    """Exact training FLOPs a second over the peak of these devices."""
    peak = topology.chip.peaks.get(run.model.compute_dtype, topology.chip.peaks["bfloat16"])
    return count_flops(run.model).exact * run.batch_tokens / seconds / (devices * peak) if seconds else math.nan
