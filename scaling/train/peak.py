"""The most FLOP/s that devices can do, which MFU is measured against: documented by device kind, else measured.

A documented peak is of dense matrix products (vendors' headlines with sparsity are twice as high), for one device as
JAX counts them. float32 is multiplied as float32 (`program`), so its peak is that of the ordinary cores and not TF32's.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling import machine

# device_kind -> FLOP/s by compute type. What is not known for certain is left out, and is measured.
# NVIDIA: architecture white papers and data sheets; bfloat16 by tensor cores, dense, with float32 accumulation.
_H100_SXM = {"bfloat16": 989.4e12, "float32": 66.9e12}  # NVIDIA H100 white paper, table 2; H200 is the same chip
_A100 = {"bfloat16": 312e12, "float32": 19.5e12}  # NVIDIA A100 data sheet, every variant
# Google: cloud.google.com/tpu/docs/system-architecture, bfloat16 of a chip. A device is one of the two cores of a v2,
# v3 or TPU7x chip, and a whole chip of the others.
PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 51.2e12},  # the same white paper
    "NVIDIA H100 NVL": {"bfloat16": 835.5e12},  # data sheet of H100 NVL: 1,671 sparse
    "NVIDIA H200": _H100_SXM,  # data sheet of H200 SXM
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA B200": {"bfloat16": 2.25e15},  # data sheet of HGX B200: 36 PFLOPS sparse, of 8
    "NVIDIA L4": {"bfloat16": 121e12, "float32": 30.3e12},  # data sheet of L4: 242 sparse
    "NVIDIA GeForce RTX 4090": {"bfloat16": 165.2e12, "float32": 82.6e12},  # Ada white paper, appendix A
    "Tesla V100-SXM2-16GB": {"float32": 15.7e12},  # data sheet of V100, which has no bfloat16
    "Tesla V100-SXM2-32GB": {"float32": 15.7e12},
    "Tesla V100-PCIE-16GB": {"float32": 14e12},
    "Tesla V100-PCIE-32GB": {"float32": 14e12},
    "TPU v2": {"bfloat16": 23e12},
    "TPU v3": {"bfloat16": 61.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5e": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "TPU v6e": {"bfloat16": 918e12},
    "TPU7x": {"bfloat16": 1153.5e12},  # 2,307 a chip
}

# (rows, inner, columns) of the products that the ceiling is the best of: square, and tall as a layer's are.
CPU_PRODUCTS = ((512, 512, 512), (1024, 1024, 1024), (128, 128, 512), (1024, 256, 512), (256, 1024, 512))
ACCELERATOR_PRODUCTS = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 2048, 8192))
SECONDS_A_PRODUCT = 0.12  # of repeating it, after one call that compiles


class Peak(NamedTuple):
    flops_per_second: float  # of all devices that JAX sees
    source: str  # documented | measured


@functools.cache
def peak(dtype: str) -> Peak:
    """Of this process's devices in one compute type, times the processes, taken to be alike. A measured ceiling is
    taken from this machine's table where it has one, and put there where it has not, so that a machine is measured
    once."""
    devices, processes = jax.local_devices(), jax.process_count()
    documented = PEAKS.get(devices[0].device_kind, {}).get(dtype)
    if documented:
        return Peak(documented * len(devices) * processes, "documented")
    name = machine.ceiling_key(dtype, len(devices))
    entry, _ = machine.measured()
    known = entry.ceilings.get(name) if entry else None
    return Peak((known or keep_ceiling(dtype)) * processes, "measured")


def keep_ceiling(dtype: str) -> float:
    """Measure the ceiling now and put it down where it is the highest so far; returns the highest, FLOP/s."""
    found = measured_ceiling(dtype)
    try:
        return machine.keep_ceiling(machine.ceiling_key(dtype, jax.local_device_count()), found)
    except OSError:  # a home that cannot be written to: this process knows it, the next one measures again
        return found


def measured_ceiling(dtype: str) -> float:
    """FLOP/s of the fastest of a few matrix products, each on every device of this process at once; about a second."""
    products = CPU_PRODUCTS if jax.default_backend() == "cpu" else ACCELERATOR_PRODUCTS
    return max(_speed(*shape, dtype) for shape in products)


def _speed(rows: int, inner: int, columns: int, dtype: str) -> float:
    devices = np.array(jax.local_devices())
    mesh = jax.sharding.Mesh(devices, ("each",), axis_types=(jax.sharding.AxisType.Auto,))
    own = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("each"))
    a_GxMxK = jax.device_put(jnp.ones((len(devices), rows, inner), dtype), own)
    b_GxKxN = jax.device_put(jnp.ones((len(devices), inner, columns), dtype), own)
    precision = None if jax.default_backend() == "cpu" or dtype != "float32" else "float32"
    multiply = jax.jit(
        lambda a_GxMxK, b_GxKxN: jnp.einsum("gmk,gkn->gmn", a_GxMxK, b_GxKxN, precision=precision), out_shardings=own
    )
    multiply(a_GxMxK, b_GxKxN).block_until_ready()
    best, end = float("inf"), time.perf_counter() + SECONDS_A_PRODUCT
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        multiply(a_GxMxK, b_GxKxN).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * rows * inner * columns * len(devices) / best
