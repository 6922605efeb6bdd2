"""What accelerators can do by their vendors' word, with where it is said. Nothing here needs JAX.

Peaks are of dense matrix products; vendors' headlines with sparsity are twice as high. What is not known for certain is
left out: the trainer measures it (`scaling.train.peak`).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chip:
    peaks: Mapping[str, float]  # compute type -> FLOP/s of one device; bfloat16 accumulates in float32
    source: str
    devices: int = 1  # as JAX counts them, in one chip


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
