"""The most FLOP/s that devices can do, which MFU is measured against: documented (`scaling.chips`), else measured.

float32 is multiplied as float32 (`program`), so its peak is that of the ordinary cores and not TF32's.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling import machine
from scaling.chips import CHIPS

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
    chip = CHIPS.get(devices[0].device_kind)
    documented = chip.peaks.get(dtype) if chip else None
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
