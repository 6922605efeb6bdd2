"""What accelerators can do by their vendors' word, with where it is said. Nothing here needs JAX.

Peaks are of dense matrix products; vendors' headlines with sparsity are twice as high. What is not known for certain is
left out: the trainer measures it (`scaling.train.peak`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scaling.spec import Refusal


@dataclass(frozen=True, kw_only=True)
class Chip:
    peaks: Mapping[str, float]  # compute type -> FLOP/s of one device; bfloat16 accumulates in float32
    source: str
    devices: int = 1  # as JAX counts them, in one chip


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generation of TPUs: memory, and what joins its chips. Links are counted in one direction, as bytes are sent."""

    kind: str  # in CHIPS
    hbm: int  # bytes of one chip
    hbm_bandwidth: float  # bytes/s of one chip
    link: float  # bytes/s of one link between neighbours, one direction of two; a chip has two links for each axis
    axes: int  # of the torus
    ring_of: int  # an axis closes to a ring where its length is a multiple of this; else it is a line
    dcn: float | None  # bytes/s of one chip to other slices, one direction
    topologies: tuple[str, ...]  # that are offered, up to 512 chips
    source: str
    config: str = "default"  # of the chip, by libtpu's name: megacore makes one device of two cores


@dataclass(frozen=True, kw_only=True)
class Topology:
    """One or more slices of a generation, alike."""

    generation: str  # in GENERATIONS
    shape: tuple[int, ...]  # chips along each axis of a slice
    slices: int = 1

    @property
    def name(self) -> str:
        """v5e:4x4; slices are said apart."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def of(self) -> Generation:
        return GENERATIONS[self.generation]

    @property
    def chip(self) -> "Chip":
        return CHIPS[self.of.kind]

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """As JAX counts them, of all slices."""
        return self.chips * self.chip.devices

    @property
    def device_hbm(self) -> int:
        """Bytes of one device, as documented; the compiler keeps a little of it for itself."""
        return self.of.hbm // self.chip.devices

    @property
    def hosts(self) -> int:
        """Processes that JAX counts: one a host of a 2x2 block of chips."""
        return self.slices * -(-math.prod(self.shape) // CHIPS_PER_HOST)

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips of one host along each axis, for libtpu: a slice smaller than a host has to say so."""
        return (1, 1, 1) if math.prod(self.shape) == 1 else (2, 2, 1)

    def closes(self, axis: int) -> bool:
        """Whether the last chip of an axis has a link to the first. Small slices of a cube-based torus are open."""
        if self.of.axes == 3 and any(size % self.of.ring_of for size in self.shape):
            return False
        return self.shape[axis] % self.of.ring_of == 0


def topology(name: str, slices: int = 1) -> Topology:
    """What `v5e:16x16` means. Raises `Refusal` with the names that are known."""
    faults = [f"--slices = {slices}: must be at least 1"] if slices < 1 else []
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)+)", name)
    generation = found[1] if found else name.partition(":")[0]
    if generation not in GENERATIONS:
        known = ", ".join(f"{one}:{of.topologies[-1]}" for one, of in GENERATIONS.items())
        faults.append(f"--topology = {name}: must be GENERATION:SHAPE of a TPU slice, e.g. {known}")
    elif not found or found[2] not in GENERATIONS[generation].topologies:
        shapes = ", ".join(GENERATIONS[generation].topologies)
        faults.append(f"--topology = {name}: {generation} is offered as {shapes}")
    if faults or not found:
        raise Refusal(faults)
    return Topology(generation=generation, shape=tuple(map(int, found[2].split("x"))), slices=slices)


_H100 = "NVIDIA H100 white paper, table 2"
_A100 = Chip(peaks={"bfloat16": 312e12, "float32": 19.5e12}, source="NVIDIA A100 data sheet, every variant")
_V100 = "NVIDIA V100 data sheet; it has no bfloat16"
_TPU = "cloud.google.com/tpu/docs/system-architecture"

CHIPS: dict[str, Chip] = {  # by JAX's device_kind
    "NVIDIA H100 80GB HBM3": Chip(peaks={"bfloat16": 989.4e12, "float32": 66.9e12}, source=_H100),
    "NVIDIA H100 PCIe": Chip(peaks={"bfloat16": 756e12, "float32": 51.2e12}, source=_H100),
    "NVIDIA H100 NVL": Chip(peaks={"bfloat16": 835.5e12}, source="NVIDIA H100 NVL data sheet, 1,671 sparse"),
    "NVIDIA H200": Chip(peaks={"bfloat16": 989.4e12, "float32": 66.9e12}, source="NVIDIA H200 SXM data sheet"),
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA B200": Chip(peaks={"bfloat16": 2.25e15}, source="NVIDIA HGX B200 data sheet, 36 PFLOPS sparse of 8"),
    "NVIDIA L4": Chip(peaks={"bfloat16": 121e12, "float32": 30.3e12}, source="NVIDIA L4 data sheet, 242 sparse"),
    "NVIDIA GeForce RTX 4090": Chip(
        peaks={"bfloat16": 165.2e12, "float32": 82.6e12}, source="NVIDIA Ada white paper, appendix A"
    ),
    "Tesla V100-SXM2-16GB": Chip(peaks={"float32": 15.7e12}, source=_V100),
    "Tesla V100-SXM2-32GB": Chip(peaks={"float32": 15.7e12}, source=_V100),
    "Tesla V100-PCIE-16GB": Chip(peaks={"float32": 14e12}, source=_V100),
    "Tesla V100-PCIE-32GB": Chip(peaks={"float32": 14e12}, source=_V100),
    "TPU v2": Chip(peaks={"bfloat16": 23e12}, source=_TPU, devices=2),
    "TPU v3": Chip(peaks={"bfloat16": 61.5e12}, source=_TPU, devices=2),
    "TPU v4": Chip(peaks={"bfloat16": 275e12}, source=_TPU),
    "TPU v5 lite": Chip(peaks={"bfloat16": 197e12}, source=_TPU),
    "TPU v5e": Chip(peaks={"bfloat16": 197e12}, source=_TPU),
    "TPU v5": Chip(peaks={"bfloat16": 459e12}, source=_TPU),
    "TPU v5p": Chip(peaks={"bfloat16": 459e12}, source=_TPU),
    "TPU v6 lite": Chip(peaks={"bfloat16": 918e12}, source=_TPU),
    "TPU v6e": Chip(peaks={"bfloat16": 918e12}, source=_TPU),
    "TPU7x": Chip(peaks={"bfloat16": 1153.5e12}, source=f"{_TPU}, 2,307 a chip", devices=2),
}

CHIPS_PER_HOST = (
    4  # of every slice of several hosts; v5e and v6e have single hosts of 8 beside (cloud.google.com/tpu/docs)
)
_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_BOOK = "jax-ml.github.io/scaling-book/tpus"
_DOCS = "cloud.google.com/tpu/docs"

# What each page says of both directions of all links of a chip is divided by 2 and by the links; of a pod's network of
# the data center, by its chips. Bits are turned into bytes.
GENERATIONS: dict[str, Generation] = {
    "v4": Generation(
        kind="TPU v4", hbm=32 << 30, hbm_bandwidth=1200e9, link=50e9, axes=3, ring_of=4, dcn=None,
        topologies=_CUBES, config="megacore",
        source=f"{_DOCS}/v4; links: arXiv:2304.01433, table 4 ({_BOOK} has 45e9)",
    ),
    "v5e": Generation(
        kind="TPU v5e", hbm=16 << 30, hbm_bandwidth=819e9, link=50e9, axes=2, ring_of=16, dcn=3.125e9,
        topologies=_PLANE, source=f"{_DOCS}/v5e: 400 GB/s a chip, 6.4 Tbit/s a pod; {_BOOK}",
    ),
    "v5p": Generation(
        kind="TPU v5p", hbm=95 << 30, hbm_bandwidth=2765e9, link=100e9, axes=3, ring_of=4, dcn=6.25e9,
        topologies=_CUBES, config="megacore",
        source=f"{_DOCS}/v5p and tpu7x: 1200 GB/s and 50 Gbit/s a chip; {_BOOK}",
    ),
    "v6e": Generation(
        kind="TPU v6e", hbm=32 << 30, hbm_bandwidth=1638e9, link=100e9, axes=2, ring_of=16, dcn=12.5e9,
        topologies=_PLANE,
        source=f"{_DOCS}/v6e and tpu7x: 800 GB/s and 100 Gbit/s a chip; {_BOOK}",
    ),
    "tpu7x": Generation(
        kind="TPU7x", hbm=192 << 30, hbm_bandwidth=7380e9, link=100e9, axes=3, ring_of=4, dcn=12.5e9,
        topologies=_CUBES, source=f"{_DOCS}/tpu7x: 1200 GB/s and 100 Gbit/s a chip, which is two devices",
    ),
}  # fmt: skip
