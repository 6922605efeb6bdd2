"""Causal softmax attention with rotary positions: laid out for XLA:CPU, or the accelerator's own kernel.

Suffixes: B batch, L length, H heads of queries, G heads of key and value, K d_head, Q queries of a block, E the keys
that the block meets.
Positions lie last, as in all of `scaling.train.model`, and scores are [keys, queries]: the softmax then reduces over
rows, and every product that meets the scores, forwards and backwards, has a long last axis (benchmarks/README.md).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.train.placement import fitting

# Queries of one block meet the keys up to its end; what lies above the diagonal beyond the block is never computed.
# With n blocks and a rest of r, one head meets CAUSAL_BLOCK^2 n (n + 1) / 2 + r L pairs of the causal L (L + 1) / 2.
CAUSAL_BLOCK = 64

# Of the kernel on a TPU, whose tiles are 128 wide: the largest block that divides the context, and the smallest head
# that is not mostly padding.
TILES = (512, 256, 128)
LEAST_TILED_HEAD = 64

KEPT = "attention"  # the name of the kernel's results, for rematerialisation that keeps them (`model.KEPT`)


def attend(q_BxHxKxL: jax.Array, k_BxGxKxL: jax.Array, v_BxGxKxL: jax.Array) -> jax.Array:
    """`causal_attention` by what serves the devices that the program is traced for.

    Itself on a CPU, a kernel on a TPU or a GPU for the shapes that it takes, and else `jax.nn.dot_product_attention`.
    """
    device, (K, L) = device_here(), q_BxHxKxL.shape[2:]
    if device.platform == "tpu" and K >= LEAST_TILED_HEAD and L % TILES[-1] == 0:
        return splash_attention(q_BxHxKxL, k_BxGxKxL, v_BxGxKxL)
    if device.platform == "cpu":
        return causal_attention(q_BxHxKxL, k_BxGxKxL, v_BxGxKxL)
    half = q_BxHxKxL.dtype == jnp.bfloat16 and K in range(8, 129, 8)
    # Before Ampere cuDNN has no such kernel.
    cudnn = device.platform == "gpu" and half and float(getattr(device, "compute_capability", 0)) >= 8.0
    q, k, v = (x.transpose(0, 3, 1, 2) for x in (q_BxHxKxL, k_BxGxKxL, v_BxGxKxL))
    out_BxLxHxK = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn" if cudnn else "xla")
    return out_BxLxHxK.transpose(0, 2, 3, 1)


def device_here() -> Any:
    """What the program is traced for: the devices of the mesh that is set (`jax.set_mesh`), or where none is, of this
    process. Platform and kind, and more where it is a device of this process."""
    described = jax.sharding.get_abstract_mesh().abstract_device
    here = jax.devices()[0]
    return here if described is None or described.device_kind == here.device_kind else described


def splash_attention(
    q_BxHxKxL: jax.Array, k_BxGxKxL: jax.Array, v_BxGxKxL: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`causal_attention` by the TPU kernel of JAX, which leaves out blocks above the diagonal and keeps no scores.

    The context has to be a multiple of 128. No compiler cuts a kernel: on a mesh each device takes its rows and heads.
    """
    H, K = q_BxHxKxL.shape[1:3]
    mesh = jax.sharding.get_abstract_mesh()
    q, k, v = (x.swapaxes(2, 3) for x in (q_BxHxKxL * K**-0.5, k_BxGxKxL, v_BxGxKxL))
    alone = mesh.size <= 1 or mesh.are_all_axes_manual  # as within the copies of `step.summed_gradients`
    if not alone and k.shape[1] % mesh.shape["tensor"]:
        k, v = (jnp.repeat(x, H // x.shape[1], axis=1) for x in (k, v))  # a device has the keys of its own queries
    one = functools.partial(_splash, interpret=interpret)
    if alone:
        return one(q, k, v).swapaxes(2, 3)
    spec = fitting(mesh, ("batch", "heads", None, None), q.shape).spec
    return jax.shard_map(one, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)(q, k, v).swapaxes(2, 3)


def _splash(q_BxHxLxK: jax.Array, k_BxGxLxK: jax.Array, v_BxGxLxK: jax.Array, *, interpret: bool) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # a second, for those who have no TPU

    H, L = q_BxHxLxK.shape[1:3]
    tile = next(tile for tile in TILES if L % tile == 0)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((L, L))] * H),
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, tile)),
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    return jax.vmap(kernel)(q_BxHxLxK, k_BxGxLxK, v_BxGxLxK)  # type: ignore[return-value]


def causal_attention(q_BxHxKxL: jax.Array, k_BxGxKxL: jax.Array, v_BxGxKxL: jax.Array) -> jax.Array:
    """softmax(k^T q / sqrt(K)) over the keys up to each query, times v: [B, H, K, L] (arXiv:1706.03762, eq. 1).

    Each of the G heads of key and value serves H / G neighbouring heads of queries (arXiv:2305.13245). Scores and sums
    are float32 whatever the inputs; the quotient is taken after the product with v, on K rows and not on L of them.
    """
    (H, K, L), G = q_BxHxKxL.shape[1:], k_BxGxKxL.shape[1]
    k_BxHxKxL, v_BxHxKxL = k_BxGxKxL, v_BxGxKxL
    if G != H:
        k_BxHxKxL, v_BxHxKxL = (jnp.repeat(x, H // G, axis=1) for x in (k_BxGxKxL, v_BxGxKxL))
    q_BxHxKxL = q_BxHxKxL * K**-0.5
    outs = []
    for start in range(0, L, CAUSAL_BLOCK):
        end = min(start + CAUSAL_BLOCK, L)
        score_BxHxExQ = jnp.einsum(
            "BHKE,BHKQ->BHEQ", k_BxHxKxL[..., :end], q_BxHxKxL[..., start:end], preferred_element_type=jnp.float32
        )
        seen_ExQ = np.arange(end)[:, None] <= np.arange(start, end)[None]
        score_BxHxExQ = jnp.where(seen_ExQ[None, None], score_BxHxExQ, -jnp.inf)
        # The shift cancels in the quotient, so no gradient goes through it.
        weight_BxHxExQ = jnp.exp(score_BxHxExQ - jax.lax.stop_gradient(score_BxHxExQ.max(2, keepdims=True)))
        sum_BxHx1xQ = weight_BxHxExQ.sum(2, keepdims=True)
        out_BxHxKxQ = jnp.einsum(
            "BHKE,BHEQ->BHKQ",
            v_BxHxKxL[..., :end],
            weight_BxHxExQ.astype(v_BxHxKxL.dtype),
            preferred_element_type=jnp.float32,
        )
        outs.append((out_BxHxKxQ / sum_BxHx1xQ).astype(v_BxHxKxL.dtype))
    return jnp.concatenate(outs, axis=3) if len(outs) > 1 else outs[0]


def rotate(x_BxHxKxL: jax.Array) -> jax.Array:
    """Rotary positions (arXiv:2104.09864, section 3.2.2), base 10^4: feature i turns with feature i + K / 2."""
    K, L = x_BxHxKxL.shape[2:]
    angle_PxL = np.outer(1e4 ** (-np.arange(K // 2) * 2.0 / K), np.arange(L))
    cos_PxL, sin_PxL = (jnp.asarray(f(angle_PxL), jnp.float32)[None, None] for f in (np.cos, np.sin))
    a, b = jnp.split(x_BxHxKxL, 2, axis=2)
    turned_BxHxKxL = jnp.concatenate([a * cos_PxL - b * sin_PxL, b * cos_PxL + a * sin_PxL], axis=2)
    return turned_BxHxKxL.astype(x_BxHxKxL.dtype)
