"""The transformer, in Flax NNX.

Suffixes: B batch, L length, T = B * L tokens, D d_model, H heads, K d_head, F d_ff, V vocabulary.
Activations are [D, T], tokens last, and two-dimensional in every dense product: the long axis is then the last one of
all products, reductions and copies, which XLA:CPU runs up to four times as fast as a short one (benchmarks/README.md).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.attention import causal_attention, rotate
from scaling.train.parametrization import Role, init_std, output_multiplier


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
            self.head_VxD = weight((V, D), ("vocab", "embed"), "head")

    def __call__(self, token_BxL: jax.Array, *, remat: bool = False) -> jax.Array:
        """Logits [V, B * L], float32. With `remat` the backward pass computes the inside of each block again."""
        B, L = token_BxL.shape
        x_DxT = self.embed_VxD[...][token_BxL.reshape(B * L)].T
        if self.spec.positions == "learned":
            x_DxT += jnp.tile(self.position_LxD[...][:L].T, (1, B))
        x_DxT = x_DxT.astype(self.spec.compute_dtype)
        for block in self.blocks:
            x_DxT = jax.checkpoint(block, static_argnums=1)(x_DxT, B) if remat else block(x_DxT, B)
        x_DxT = _rms_norm(x_DxT, self.norm_D[...])
        head_VxD = self.embed_VxD if self.spec.tied else self.head_VxD
        logit_VxT = jnp.dot(head_VxD[...].astype(x_DxT.dtype), x_DxT, preferred_element_type=jnp.float32)
        return logit_VxT * self.logit_scale


class Block(nnx.Module):
    """Attention, then an MLP, each added to the residual stream."""

    def __init__(self, spec: ModelSpec, weight):
        self.spec = spec
        D, H, K, F = spec.d_model, spec.n_heads, spec.d_head, spec.d_ff
        if spec.attention == "causal":
            self.attention_norm_D = weight((D,), ("embed",), "gain")
            # Heads come first, so that they can be cut over devices without moving query, key and value apart. In two
            # dimensions, since loops over a last axis as short as a head are slow on a CPU.
            self.qkv_DxH3K = weight((D, H * 3 * K), ("embed", "heads"), "hidden")
            self.out_HKxD = weight((D, D), ("heads", "embed"), "residual_out")
        self.mlp_norm_D = weight((D,), ("embed",), "gain")
        self.up_DxF = weight((D, F), ("embed", "ff"), "hidden")
        if spec.mlp == "swiglu":
            self.gate_DxF = weight((D, F), ("embed", "ff"), "hidden")
        self.down_FxD = weight((F, D), ("ff", "embed"), "residual_out")

    def __call__(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        if self.spec.attention == "causal":
            x_DxT += self._attend(_rms_norm(x_DxT, self.attention_norm_D[...]), batch)
        return x_DxT + self._mlp(_rms_norm(x_DxT, self.mlp_norm_D[...]))

    def _attend(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        D, T = x_DxT.shape
        H, K = self.spec.n_heads, self.spec.d_head
        qkv_H3KxT = _product(self.qkv_DxH3K[...], x_DxT)
        q, k, v = qkv_H3KxT.reshape(H, 3, K, batch, T // batch).transpose(1, 3, 0, 2, 4)
        if self.spec.positions == "rotary":
            q, k = rotate(q), rotate(k)
        y_BxHxKxL = causal_attention(q, k, v)
        return _product(self.out_HKxD[...], y_BxHxKxL.transpose(1, 2, 0, 3).reshape(D, T))

    def _mlp(self, x_DxT: jax.Array) -> jax.Array:
        up_FxT = _product(self.up_DxF[...], x_DxT)
        if self.spec.mlp == "swiglu":
            up_FxT = jax.nn.silu(_product(self.gate_DxF[...], x_DxT)) * up_FxT
        else:
            up_FxT = jax.nn.gelu(up_FxT)
        return _product(self.down_FxD[...], up_FxT)


def _weight(
    spec: ModelSpec, rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], role: Role
) -> nnx.Param:
    """One float32 tensor with its logical axes beside its shape."""
    if role == "gain":
        value = jnp.ones(shape, jnp.float32)
    else:
        value = jax.random.normal(rngs.params(), shape, jnp.float32) * init_std(role, shape[0], spec.n_layers)
    return nnx.Param(value, axes=axes, role=role)


def _product(weight_IxO: jax.Array, x_IxT: jax.Array) -> jax.Array:
    """[O, T], in the type of the activations."""
    return weight_IxO.astype(x_IxT.dtype).T @ x_IxT


def _rms_norm(x_DxT: jax.Array, gain_D: jax.Array) -> jax.Array:
    x32_DxT = x_DxT.astype(jnp.float32)  # squares need the range
    scale_1xT = jax.lax.rsqrt(jnp.mean(jnp.square(x32_DxT), axis=0, keepdims=True) + 1e-6)
    return (x32_DxT * scale_1xT * gain_D[:, None]).astype(x_DxT.dtype)
