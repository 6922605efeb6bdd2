"""The transformer, in Flax NNX.

Suffixes: B batch, L length, T = B * L tokens, D d_model, H heads, K d_head, F d_ff, V vocabulary.
Activations are [T, D] in every dense product: on XLA:CPU that makes a step 1.2-1.5 times as fast, all of it in the
backward pass, and costs nothing elsewhere.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.parametrization import Role, init_std, output_multiplier

# Queries of one block meet the keys up to its end; what lies above the diagonal beyond the block is never computed.
CAUSAL_BLOCK = 64


class Transformer(nnx.Module):
    """Logits of the next token. Each weight declares its logical axes and its role; nothing else knows the tensors."""

    def __init__(self, spec: ModelSpec, optim: OptimSpec, key: jax.Array):
        self.spec = spec
        self.logit_scale = output_multiplier(spec.d_model, optim)
        weight = functools.partial(_weight, spec, nnx.Rngs(params=key))
        D, V = spec.d_model, spec.vocab_size
        self.embed_VxD = weight((V, D), ("vocab", "embed"), "embedding")
        if spec.positions == "learned":
            self.position_LxD = weight((spec.context, D), ("positions", "embed"), "embedding")
        self.blocks = nnx.List([Block(spec, weight) for _ in range(spec.n_layers)])
        self.norm_D = weight((D,), ("embed",), "gain")
        if not spec.tied:
            self.head_DxV = weight((D, V), ("embed", "vocab"), "head")

    def __call__(self, token_BxL: jax.Array) -> jax.Array:
        """Logits [B, L, V], float32."""
        B, L = token_BxL.shape
        x_TxD = self.embed_VxD[...][token_BxL.reshape(B * L)]
        if self.spec.positions == "learned":
            x_TxD += jnp.tile(self.position_LxD[...][:L], (B, 1))
        x_TxD = x_TxD.astype(self.spec.compute_dtype)
        for block in self.blocks:
            x_TxD = block(x_TxD, B)
        x_TxD = _rms_norm(x_TxD, self.norm_D[...])
        head_DxV = self.embed_VxD[...].T if self.spec.tied else self.head_DxV[...]
        logit_TxV = jnp.dot(x_TxD, head_DxV.astype(x_TxD.dtype), preferred_element_type=jnp.float32)
        return (logit_TxV * self.logit_scale).reshape(B, L, -1)


class Block(nnx.Module):
    """Attention, then an MLP, each added to the residual stream."""

    def __init__(self, spec: ModelSpec, weight):
        self.spec = spec
        D, H, K, F = spec.d_model, spec.n_heads, spec.d_head, spec.d_ff
        if spec.attention == "causal":
            self.attention_norm_D = weight((D,), ("embed",), "gain")
            # Heads come first, so that they can be cut over devices without moving query, key and value apart.
            self.qkv_DxHx3xK = weight((D, H, 3, K), ("embed", "heads", None, None), "hidden")
            self.out_HKxD = weight((D, D), ("heads", "embed"), "residual_out")
        self.mlp_norm_D = weight((D,), ("embed",), "gain")
        self.up_DxF = weight((D, F), ("embed", "ff"), "hidden")
        if spec.mlp == "swiglu":
            self.gate_DxF = weight((D, F), ("embed", "ff"), "hidden")
        self.down_FxD = weight((F, D), ("ff", "embed"), "residual_out")

    def __call__(self, x_TxD: jax.Array, batch: int) -> jax.Array:
        if self.spec.attention == "causal":
            x_TxD += self._attend(_rms_norm(x_TxD, self.attention_norm_D[...]), batch)
        return x_TxD + self._mlp(_rms_norm(x_TxD, self.mlp_norm_D[...]))

    def _attend(self, x_TxD: jax.Array, batch: int) -> jax.Array:
        T, D = x_TxD.shape
        H, K = self.spec.n_heads, self.spec.d_head
        qkv_TxHx3xK = (x_TxD @ self.qkv_DxHx3xK[...].reshape(D, H * 3 * K).astype(x_TxD.dtype)).reshape(T, H, 3, K)
        qkv_3xBxHxLxK = qkv_TxHx3xK.reshape(batch, T // batch, H, 3, K).transpose(3, 0, 2, 1, 4)
        qk_2xBxHxLxK, v_BxHxLxK = qkv_3xBxHxLxK[:2], qkv_3xBxHxLxK[2]
        if self.spec.positions == "rotary":
            qk_2xBxHxLxK = _rotate(qk_2xBxHxLxK)
        y_BxHxLxK = _causal_attention(qk_2xBxHxLxK[0] * K**-0.5, qk_2xBxHxLxK[1], v_BxHxLxK)
        y_TxD = y_BxHxLxK.transpose(0, 2, 1, 3).reshape(T, D)
        return y_TxD @ self.out_HKxD[...].astype(x_TxD.dtype)

    def _mlp(self, x_TxD: jax.Array) -> jax.Array:
        up_TxF = x_TxD @ self.up_DxF[...].astype(x_TxD.dtype)
        if self.spec.mlp == "swiglu":
            up_TxF = jax.nn.silu(x_TxD @ self.gate_DxF[...].astype(x_TxD.dtype)) * up_TxF
        else:
            up_TxF = jax.nn.gelu(up_TxF)
        return up_TxF @ self.down_FxD[...].astype(x_TxD.dtype)


def _weight(
    spec: ModelSpec, rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], role: Role
) -> nnx.Param:
    """One float32 tensor with its logical axes beside its shape."""
    if role == "gain":
        value = jnp.ones(shape, jnp.float32)
    else:
        value = jax.random.normal(rngs.params(), shape, jnp.float32) * init_std(role, shape[0], spec.n_layers)
    return nnx.Param(value, axes=axes, role=role)


def _rms_norm(x_TxD: jax.Array, gain_D: jax.Array) -> jax.Array:
    x32_TxD = x_TxD.astype(jnp.float32)  # squares need the range
    scale_Tx1 = jax.lax.rsqrt(jnp.mean(jnp.square(x32_TxD), axis=-1, keepdims=True) + 1e-6)
    return (x32_TxD * scale_Tx1 * gain_D[None]).astype(x_TxD.dtype)


def _rotate(x_2xBxHxLxK: jax.Array) -> jax.Array:
    """Rotary positions (arXiv:2104.09864, section 3.2.2), base 10^4."""
    L, K = x_2xBxHxLxK.shape[-2:]
    angle_LxK = np.outer(np.arange(L), np.tile(1e4 ** (-np.arange(K // 2) * 2.0 / K), 2))
    cos_LxK, sin_LxK = (jnp.asarray(f(angle_LxK), jnp.float32)[None, None, None] for f in (np.cos, np.sin))
    a, b = jnp.split(x_2xBxHxLxK, 2, axis=-1)
    turned_2xBxHxLxK = jnp.concatenate([-b, a], axis=-1)
    return (x_2xBxHxLxK * cos_LxK + turned_2xBxHxLxK * sin_LxK).astype(x_2xBxHxLxK.dtype)


def _causal_attention(q_BxHxLxK: jax.Array, k_BxHxLxK: jax.Array, v_BxHxLxK: jax.Array) -> jax.Array:
    """Softmax attention in blocks of queries, each meeting only the keys that it may see."""
    L = q_BxHxLxK.shape[2]
    outs = []
    for start in range(0, L, CAUSAL_BLOCK):
        end = min(start + CAUSAL_BLOCK, L)
        score_BxHxQxE = jnp.einsum(
            "BHQK,BHEK->BHQE", q_BxHxLxK[:, :, start:end], k_BxHxLxK[:, :, :end], preferred_element_type=jnp.float32
        )
        seen_QxE = np.arange(start, end)[:, None] >= np.arange(end)[None]
        score_BxHxQxE = jnp.where(seen_QxE[None, None], score_BxHxQxE, -jnp.inf)
        prob_BxHxQxE = jax.nn.softmax(score_BxHxQxE).astype(v_BxHxLxK.dtype)
        outs.append(jnp.einsum("BHQE,BHEK->BHQK", prob_BxHxQxE, v_BxHxLxK[:, :, :end]))
    return jnp.concatenate(outs, axis=2) if len(outs) > 1 else outs[0]
