"""What is compiled for an accelerator, on a machine that has none."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from scaling.train.attention import attention_here, causal_attention, fused_attention
from scaling.train.placement import MESH_AXES

CHIP = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


def slice_of(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, MESH_AXES, (AxisType.Auto,) * 4, abstract_device=CHIP)


def test_attention_is_that_of_the_mesh_and_not_of_the_machine():
    assert attention_here() is causal_attention
    with jax.sharding.use_abstract_mesh(slice_of(1, 8, 1, 1)):
        assert attention_here() is fused_attention
    q = jnp.ones((1, 2, 64, 16), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(slice_of(1, 8, 1, 1)):
        text = jax.jit(lambda q: attention_here()(q, q, q)).trace(q).lower(lowering_platforms=("tpu",)).as_text()
    assert "tensor<1x2x16x16xf32>" in text  # whole squares, where a CPU has blocks
