"""The transformer, in Flax NNX.

Suffixes: B batch, L length, T = B * L tokens, D d_model, H heads, K d_head, F d_ff, V vocabulary.
Activations are [D, T], tokens last, and two-dimensional in every dense product: the long axis is then the last one of
all products, reductions and copies, which XLA:CPU runs up to four times as fast as a short one (benchmarks/README.md).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scaling.spec import ModelSpec, OptimSpec
from scaling.train import attention
from scaling.train.attention import attend, device_here, rotate
from scaling.train.parametrization import Role, init_std, output_multiplier, residual_multiplier
from scaling.train.placement import APART, Remat, laid

KEPT = ("product", attention.KEPT)  # what is not computed again where dense products are kept


class Transformer(nnx.Module):
    """Logits of the next token. Each weight declares its logical axes and its role; nothing else knows the tensors."""

    def __init__(self, spec: ModelSpec, optim: OptimSpec, key: jax.Array):
        self.spec = spec
        self.logit_scale = output_multiplier(spec.d_model, optim)
        weight = Weights(spec, optim, key)
        D, V = spec.d_model, spec.vocab_size
        self.embed_VxD = weight((V, D), ("vocab", "embed"), "embedding")
        if spec.positions == "learned":
            self.position_LxD = weight((spec.context, D), ("positions", "embed"), "embedding")
        block = functools.partial(Block, spec, optim)
        if spec.n_layers > APART:
            self.blocks = weight.stack(block, spec.n_layers)
        else:
            self.blocks = nnx.List([block(weight) for _ in range(spec.n_layers)])
        self.norm_D = weight((D,), ("embed",), "gain")
        if not spec.tied:
            self.head_VxD = weight((V, D), ("vocab", "embed"), "head")

    def __call__(self, token_BxL: jax.Array, *, remat: Remat = "none") -> jax.Array:
        """Logits [V, B * L], float32; `remat` as `Placement` says."""
        x_DxT = _rms_norm(self.stream(token_BxL, remat=remat), self.norm_D[...])
        head_VxD = self.embed_VxD if self.spec.tied else self.head_VxD
        if x_DxT.dtype != jnp.float32:
            return _half_product(head_VxD[...].T, x_DxT) * self.logit_scale
        return jnp.dot(head_VxD[...], x_DxT) * self.logit_scale

    def stream(self, token_BxL: jax.Array, *, remat: Remat = "none") -> jax.Array:
        """The residual stream after the last block, [D, B * L]."""
        B, L = token_BxL.shape
        x_DxT = laid(self.embed_VxD[...], "vocab", None)[token_BxL.reshape(B * L)].T
        if self.spec.positions == "learned":
            x_DxT += jnp.tile(self.position_LxD[...][:L].T, (1, B))
        x_DxT = x_DxT.astype(self.spec.compute_dtype)
        x_DxT = laid(x_DxT, None, "batch", rows=B)
        through = functools.partial(_through, batch=B, remat=remat)
        if isinstance(self.blocks, nnx.List):
            for block in self.blocks:
                x_DxT = through(block, x_DxT)
            return x_DxT
        graphdef, stack = nnx.split(self.blocks)
        looped = device_here().platform != "cpu"
        layer = functools.partial(through, looped=looped)
        turn = lambda x_DxT, of: (layer(nnx.merge(graphdef, of), x_DxT), None)  # noqa: E731
        return jax.lax.scan(turn, x_DxT, stack, unroll=1 if looped else self.spec.n_layers)[0]


def _through(block: "Block", x_DxT: jax.Array, *, batch: int, remat: Remat, looped: bool = False) -> jax.Array:
    def layer(x_DxT: jax.Array) -> jax.Array:
        return block(x_DxT, batch)

    if remat != "none":
        policy = jax.checkpoint_policies.save_only_these_names(*KEPT) if remat == "dots" else None
        # XLA would join what is computed again with what was computed before, where they are not in two loops.
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=not looped)
    return laid(layer(x_DxT), None, "batch", rows=batch)


class Block(nnx.Module):
    """Tokens meet, then an MLP takes each of them; both are added to the residual stream."""

    def __init__(self, spec: ModelSpec, optim: OptimSpec, weight):
        self.spec = spec
        self.scale = residual_multiplier(spec.n_layers, optim)
        D, K, F = spec.d_model, spec.d_head, spec.d_ff
        if spec.attention != "none":
            self.attention_norm_D = weight((D,), ("embed",), "gain")
        if spec.attention == "causal":
            # Groups of heads come first, so that they can be cut over devices without moving query, key and value
            # apart. In two dimensions, since loops over a last axis as short as a head are slow on a CPU.
            groups = spec.kv_heads
            self.qkv_DxH3K = weight((D, (spec.n_heads + 2 * groups) * K), ("embed", "heads"), "hidden")
            self.out_HKxD = weight((D, D), ("heads", "embed"), "residual_out")
        elif spec.attention == "mean":
            self.value_DxD = weight((D, D), ("embed", "heads"), "hidden")
            self.out_DxD = weight((D, D), ("heads", "embed"), "residual_out")
        elif spec.attention == "window":
            self.window_WDxD = weight((spec.window * D, D), (None, "embed"), "residual_out")
        elif spec.attention == "recurrent":
            self.input_DxG = weight((D, 3 * D), ("embed", None), "hidden")
            self.recurrent_DxG = weight((D, 3 * D), (None, None), "hidden")
            self.out_DxD = weight((D, D), (None, "embed"), "residual_out")
        self.mlp_norm_D = weight((D,), ("embed",), "gain")
        self.up_DxF = weight((D, F), ("embed", "ff"), "hidden")
        if spec.mlp == "swiglu":
            self.gate_DxF = weight((D, F), ("embed", "ff"), "hidden")
        self.down_FxD = weight((F, D), ("ff", "embed"), "residual_out")

    def __call__(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        meet = {"causal": self._attend, "mean": self._average, "window": self._look_back, "recurrent": self._recur}
        if self.spec.attention != "none":
            x_DxT += self._scaled(meet[self.spec.attention](_rms_norm(x_DxT, self.attention_norm_D[...]), batch))
        return x_DxT + self._scaled(self._mlp(_rms_norm(x_DxT, self.mlp_norm_D[...])))

    def _scaled(self, x_DxT: jax.Array) -> jax.Array:
        return x_DxT if self.scale == 1 else x_DxT * jnp.asarray(self.scale, x_DxT.dtype)

    def _product(self, weight: nnx.Param, x_IxT: jax.Array) -> jax.Array:
        """[O, T], in the type of the activations."""
        rounded_IxO = _rounded(weight[...], self.spec.weight_bits)
        if x_IxT.dtype != jnp.float32:
            return checkpoint_name(_half_product(rounded_IxO, x_IxT).astype(x_IxT.dtype), "product")
        return checkpoint_name(rounded_IxO.T @ x_IxT, "product")

    def _attend(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        D, T = x_DxT.shape
        K, groups = self.spec.d_head, self.spec.kv_heads
        shared = self.spec.n_heads // groups
        qkv = self._product(self.qkv_DxH3K, x_DxT).reshape(groups, shared + 2, K, batch, T // batch)
        *q, k, v = qkv.transpose(1, 3, 0, 2, 4)
        # Neighbouring heads share a key: group by group, [B, groups * shared, K, L].
        q = jnp.stack(q, axis=2).reshape(batch, D // K, K, T // batch) if shared > 1 else q[0]
        if self.spec.positions == "rotary":
            q, k = rotate(q), rotate(k)
        y_BxHxKxL = attend(q, k, v)
        return self._product(self.out_HKxD, y_BxHxKxL.transpose(1, 2, 0, 3).reshape(D, T))

    def _average(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        """Attention whose every weight is alike: the mean of the values so far."""
        D, T = x_DxT.shape
        value_DxBxL = self._product(self.value_DxD, x_DxT).reshape(D, batch, T // batch).astype(jnp.float32)
        mean_DxBxL = value_DxBxL.cumsum(axis=2) / np.arange(1, T // batch + 1, dtype=np.float32)[None, None]
        return self._product(self.out_DxD, mean_DxBxL.reshape(D, T).astype(x_DxT.dtype))

    def _look_back(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        """The last positions side by side through one matrix; zeros stand before the start."""
        D, T = x_DxT.shape
        x_DxBxL = x_DxT.reshape(D, batch, T // batch)
        shifts = [jnp.pad(x_DxBxL, ((0, 0), (0, 0), (w, 0)))[..., : T // batch] for w in range(self.spec.window)]
        return self._product(self.window_WDxD, jnp.concatenate(shifts).reshape(self.spec.window * D, T))

    def _recur(self, x_DxT: jax.Array, batch: int) -> jax.Array:
        """A GRU (arXiv:1406.1078) whose reset gate acts after the recurrent product, so that there is one; its state is
        float32, since it is a sum over the whole context."""
        D, T = x_DxT.shape
        input_LxGxB = self._product(self.input_DxG, x_DxT).reshape(3 * D, batch, T // batch).transpose(2, 0, 1)
        turn_GxD = _rounded(self.recurrent_DxG[...], self.spec.weight_bits).astype(x_DxT.dtype).T

        def step(h_DxB: jax.Array, input_GxB: jax.Array) -> tuple[jax.Array, jax.Array]:
            r, z, n = jnp.split(input_GxB, 3)
            hr, hz, hn = jnp.split(turn_GxD @ h_DxB.astype(turn_GxD.dtype), 3)
            keep = jax.nn.sigmoid(z + hz)
            h_DxB = keep * h_DxB + (1 - keep) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn)
            return h_DxB, h_DxB

        _, h_LxDxB = jax.lax.scan(step, jnp.zeros((D, batch), jnp.float32), input_LxGxB)
        return self._product(self.out_DxD, h_LxDxB.transpose(1, 2, 0).reshape(D, T).astype(x_DxT.dtype))

    def _mlp(self, x_DxT: jax.Array) -> jax.Array:
        up_FxT = self._product(self.up_DxF, x_DxT)
        if self.spec.mlp == "swiglu":
            up_FxT = jax.nn.silu(self._product(self.gate_DxF, x_DxT)) * up_FxT
        elif self.spec.mlp == "relu2":
            up_FxT = jnp.square(jax.nn.relu(up_FxT))
        else:
            up_FxT = jax.nn.gelu(up_FxT)
        return self._product(self.down_FxD, up_FxT)


class Weights:
    """Makes a model's tensors: float32, each from a key of its own, with logical axes and role beside the shape."""

    def __init__(self, spec: ModelSpec, optim: OptimSpec, key: jax.Array):
        self.spec, self.optim, self.key, self.drawn = spec, optim, key, 0

    def __call__(self, shape: tuple[int, ...], axes: tuple[str | None, ...], role: Role) -> nnx.Param:
        value = self._value(shape, role, self.drawn)
        self.drawn += role != "gain"
        return nnx.Param(value, axes=axes, role=role)

    def stack(self, make: Callable[[Any], "Block"], layers: int) -> "Block":
        """One module for many that are alike: its tensors have a leading axis for them, and the numbers of the many."""
        roles: list[Role] = []
        make(lambda shape, axes, role: roles.append(role))
        each = sum(role != "gain" for role in roles)
        first_N = self.drawn + each * np.arange(layers)
        drawn = 0

        def stacked(shape: tuple[int, ...], axes: tuple[str | None, ...], role: Role) -> nnx.Param:
            nonlocal drawn
            value = jax.vmap(functools.partial(self._value, shape, role))(first_N + drawn)
            drawn += role != "gain"
            return nnx.Param(value, axes=("layers", *axes), role=role)

        self.drawn += each * layers
        return make(stacked)

    def _value(self, shape: tuple[int, ...], role: Role, number: Any) -> jax.Array:
        if role == "gain":
            return jnp.ones(shape, jnp.float32)
        drawn = jax.random.normal(jax.random.fold_in(self.key, number), shape, jnp.float32)
        return drawn * init_std(role, shape[0], self.spec.n_layers, self.optim)


@jax.custom_vjp
def _half_product(weight_IxO: jax.Array, x_IxT: jax.Array) -> jax.Array:
    """weight^T x, [O, T] float32, of a float32 weight and 16-bit activations.

    All three products, forwards and backwards, multiply 16-bit factors and sum in float32; the weight's gradient stays
    float32. Left to itself, JAX would multiply float32 gradients of logits, and round the gradients of weights.
    """
    return jnp.dot(weight_IxO.astype(x_IxT.dtype).T, x_IxT, preferred_element_type=jnp.float32)


def _half_product_forward(weight_IxO: jax.Array, x_IxT: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _half_product(weight_IxO, x_IxT), (weight_IxO, x_IxT)


def _half_product_backward(kept: tuple[jax.Array, jax.Array], out_OxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight_IxO, x_IxT = kept
    half_OxT = out_OxT.astype(x_IxT.dtype)
    x_gradient = jnp.dot(weight_IxO.astype(x_IxT.dtype), half_OxT, preferred_element_type=jnp.float32)
    return jnp.dot(x_IxT, half_OxT.T, preferred_element_type=jnp.float32), x_gradient.astype(x_IxT.dtype)


_half_product.defvjp(_half_product_forward, _half_product_backward)


def _rounded(weight_IxO: jax.Array, bits: int) -> jax.Array:
    """The weight as `bits` would store it, with a float32 scale for each output (arXiv:1712.05877, without an offset).

    Rounding has no gradient of its own and is passed straight through (arXiv:1308.3432).
    """
    if bits == 32:
        return weight_IxO
    most = 2 ** (bits - 1) - 1
    scale_1xO = jnp.maximum(jnp.abs(weight_IxO).max(0, keepdims=True), 1e-30) / most
    return weight_IxO + jax.lax.stop_gradient(jnp.round(weight_IxO / scale_1xO) * scale_1xO - weight_IxO)


def _rms_norm(x_DxT: jax.Array, gain_D: jax.Array) -> jax.Array:
    x32_DxT = x_DxT.astype(jnp.float32)  # squares need the range
    scale_1xT = jax.lax.rsqrt(jnp.mean(jnp.square(x32_DxT), axis=0, keepdims=True) + 1e-6)
    return (x32_DxT * scale_1xT * gain_D[:, None]).astype(x_DxT.dtype)
