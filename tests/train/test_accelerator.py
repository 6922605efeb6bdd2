"""What is compiled for an accelerator, on a machine that has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from scaling.train.attention import attend, causal_attention, splash_attention
from scaling.train.placement import MESH_AXES

CHIP = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


def slice_of(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, MESH_AXES, (AxisType.Auto,) * 4, abstract_device=CHIP)


def text_for_a_tpu(mesh: AbstractMesh, *shape: int, groups: int | None = None) -> str:
    """Of the gradient of attention."""
    q = jnp.zeros(shape, jnp.bfloat16)
    k = q[:, : groups or shape[1]]

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v).astype(jnp.float32).sum()

    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k).lower(lowering_platforms=("tpu",)).as_text()


def test_attention_is_that_of_the_mesh_and_not_of_the_machine():
    assert text_for_a_tpu(slice_of(1, 1, 1, 1), 2, 2, 64, 256).count("tpu_custom_call") == 3


@pytest.mark.parametrize("shape", [(2, 2, 64, 200), (2, 2, 32, 256)])
def test_shapes_that_the_kernel_does_not_take_are_left_to_xla(shape: tuple[int, ...]):
    text = text_for_a_tpu(slice_of(1, 1, 1, 1), *shape)
    assert "tpu_custom_call" not in text and f"tensor<2x2x{shape[3]}x{shape[3]}xf32>" in text  # whole squares


@pytest.mark.parametrize("groups, keys", [(8, "2x2x256x64"), (2, "2x2x256x64"), (4, "2x1x256x64")])
def test_each_device_has_its_rows_and_heads(groups: int, keys: str):
    text = text_for_a_tpu(slice_of(1, 2, 2, 4), 8, 8, 64, 256, groups=groups)
    calls = [line for line in text.splitlines() if "tpu_custom_call" in line]
    assert len(calls) == 3 and all("tensor<2x2x256x64xbf16>" in line and keys in line for line in calls)


def test_the_kernel_computes_causal_attention_of_grouped_heads():
    rng = np.random.default_rng(0)
    q, k, v, out = (jnp.asarray(rng.standard_normal((1, h, 64, 384)), jnp.float32) for h in (2, 1, 1, 2))
    theirs, pull = jax.vjp(lambda *x: splash_attention(*x, interpret=True), q, k, v)
    ours, pull_ours = jax.vjp(causal_attention, q, k, v)
    np.testing.assert_allclose(theirs, ours, atol=2e-6)
    for got, wanted in zip(pull(out), pull_ours(out), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
