"""Slices of TPUs by the name that Google Cloud rents them under: chips, hosts, shape, software.

A host here is one TPU VM, or one node of GKE. Sources: https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e
(shapes and machines), https://cloud.google.com/tpu/docs/runtimes (software),
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (labels of nodes). Of three-dimensional tori only the
most common shapes are here; a size has one.
"""

import difflib
import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Slice:
    accelerator: str  # as --accelerator-type has it
    topology: str  # chips along each axis of the torus
    chips_of_host: int
    devices_of_chip: int = 1  # as JAX counts them
    runtime: str = ""  # version of the software of its TPU VMs; "" where none is documented
    gke: str = ""  # label of its nodes in GKE; "" where GKE has none

    @property
    def chips(self) -> int:
        return math.prod(int(n) for n in self.topology.split("x"))

    @property
    def devices(self) -> int:
        return self.chips * self.devices_of_chip

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chips_of_host)


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16", "16x16x24",
)  # fmt: skip
_V2 = ("2x2", "4x4", "8x8", "8x16", "16x16")


def _chips(topology: str) -> int:
    return math.prod(int(n) for n in topology.split("x"))


def _family(name: str, shapes: tuple[str, ...], *, cores: int, runtime: str = "", gke: str = "") -> list[Slice]:
    """`name` is followed by the number of TensorCores, `cores` a chip. Flat slices of up to 8 chips with one core each
    are one host; all others have hosts of 4 chips."""
    return [
        Slice(
            accelerator=f"{name}-{_chips(shape) * cores}",
            topology=shape,
            chips_of_host=_chips(shape) if cores == 1 and _chips(shape) <= 8 else 4,
            devices_of_chip=2 if name in ("v2", "v3", "tpu7x") else 1,
            runtime=runtime,
            gke=gke,
        )
        for shape in shapes
    ]


_OLD = "tpu-ubuntu2204-base"
SLICES: dict[str, Slice] = {
    found.accelerator: found
    for found in [
        *_family("v2", _V2, cores=2, runtime=_OLD),
        *_family("v3", (*_V2, "16x32", "32x32"), cores=2, runtime=_OLD),
        *_family("v4", _CUBES[:10], cores=2, runtime=_OLD, gke="tpu-v4-podslice"),
        *_family("v5litepod", _FLAT, cores=1, runtime="v2-alpha-tpuv5-lite", gke="tpu-v5-lite-podslice"),
        *_family("v5p", _CUBES, cores=2, runtime="v2-alpha-tpuv5", gke="tpu-v5p-slice"),
        *_family("v6e", _FLAT, cores=1, runtime="v2-alpha-tpuv6e", gke="tpu-v6e-slice"),
        *_family("tpu7x", _CUBES[:10], cores=2, gke="tpu7x"),
    ]
}
_ALSO = {"v5e": "v5litepod", "v5lite": "v5litepod", "v7x": "tpu7x", "v6litepod": "v6e"}  # names that people use


def fault(accelerator: str) -> str:
    """Why no slice has this name, and which might be meant; empty where one has."""
    if accelerator in SLICES:
        return ""
    name, _, size = accelerator.lower().rpartition("-")
    family = _ALSO.get(name, name)
    sizes = [known for known in SLICES if known.rpartition("-")[0] == family]
    if f"{family}-{size}" in SLICES:
        way = f"did you mean {family}-{size}?"
    elif sizes:
        way = f"there are {', '.join(sizes)}"
    else:
        near = difflib.get_close_matches(accelerator, SLICES, n=1)
        way = f"did you mean {near[0]}?" if near else "e.g. v5litepod-16, v6e-8, v5p-128, v4-8"
    return f"--accelerator = {accelerator}: no slice has this name; {way}"
