import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.step import graph, init_state, mean_loss

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1)
QUICK = {"xla_backend_optimization_level": 0}  # of gradients, which are compiled for one call or a few
BASE = ModelSpec(n_layers=2, d_model=32, d_ff=64, vocab_size=50, context=16)
VARIANTS = {
    "rotary": BASE,
    "learned positions, tied": replace(BASE, positions="learned", tied=True),
    "no positions": replace(BASE, positions="none"),
    "swiglu": replace(BASE, mlp="swiglu"),
    "no attention": replace(BASE, attention="none"),
    "several blocks of queries": replace(BASE, context=150),
    "one head": replace(BASE, d_head=32),
    "grouped heads": replace(BASE, d_head=8, n_kv_heads=2),
    "mean of the past": replace(BASE, attention="mean"),
    "window": replace(BASE, attention="window", window=3, mlp="relu2"),
    "recurrent": replace(BASE, attention="recurrent"),
    "four bits": replace(BASE, weight_bits=4),
}


def reach(model: ModelSpec) -> int:
    """How many tokens a change can move, its own included."""
    looks_back = {"none": 1, "window": model.n_layers * (model.window - 1) + 1}
    return looks_back.get(model.attention, model.context)


def awake(model: ModelSpec, key: int = 1):
    """Parameters away from their start, where zero heads and small embeddings would hide a fault."""
    params = init_state(model, OPTIM, jax.random.key(0)).params
    return jax.tree.map(lambda w: w + 0.2 * jax.random.normal(jax.random.key(key), w.shape), params)


def logits(model: ModelSpec, params, token_BxL: np.ndarray) -> np.ndarray:
    logit_VxT = np.asarray(nnx.merge(graph(model, OPTIM), params)(jnp.asarray(token_BxL)))
    return logit_VxT.T.reshape(*token_BxL.shape, -1)


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
def test_no_token_sees_its_future(model: ModelSpec):
    params, rng = awake(model), np.random.default_rng(0)
    token_1xL = rng.integers(50, size=(1, model.context))
    before = logits(model, params, token_1xL)
    for at in (1, model.context // 2, model.context - 1):
        changed = token_1xL.copy()
        changed[0, at] = (changed[0, at] + 1) % 50
        after = logits(model, params, changed)
        np.testing.assert_array_equal(after[0, :at], before[0, :at])
        moved = np.abs(after - before)[0, at:].max(-1)
        assert moved[0] > 1e-4
        assert (moved[: reach(model)] > 0).all() and (moved[reach(model) :] == 0).all()


EXACT = {name: model for name, model in VARIANTS.items() if model.weight_bits == 32}


@pytest.mark.parametrize("model", EXACT.values(), ids=EXACT.keys())
def test_every_weight_has_its_gradient(model: ModelSpec):
    """Against central differences along random directions, in float32: the step balances rounding and curvature."""
    params = awake(model)
    window_BxM = np.random.default_rng(0).integers(50, size=(2, model.context + 1))
    graphdef = graph(model, OPTIM)
    loss_and_grads = jax.jit(
        jax.value_and_grad(lambda p: mean_loss(p, jnp.asarray(window_BxM), graphdef=graphdef)), compiler_options=QUICK
    )
    _, grads = loss_and_grads(params)
    leaves, structure = jax.tree.flatten(params)
    for i, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        direction = np.asarray(grad) / np.linalg.norm(grad)
        step = 2e-3 * max(1.0, float(np.linalg.norm(leaf)) / 4)
        ends = [
            jax.tree.unflatten(structure, leaves[:i] + [leaf + s * step * direction] + leaves[i + 1 :]) for s in (1, -1)
        ]
        slope = (float(loss_and_grads(ends[0])[0]) - float(loss_and_grads(ends[1])[0])) / (2 * step)
        assert slope == pytest.approx(float(np.linalg.norm(grad)), rel=0.02), i


def test_bfloat16_compute_stays_close_to_float32():
    params, token_BxL = awake(BASE), np.random.default_rng(0).integers(50, size=(4, 16))
    full = logits(BASE, params, token_BxL)
    half = logits(replace(BASE, compute_dtype="bfloat16"), params, token_BxL)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_in_sixteen_bits_every_product_sums_in_float32():
    """Forwards and backwards 16-bit factors; the gradients of weights never see 16 bits."""
    half = replace(BASE, compute_dtype="bfloat16", mlp="swiglu")
    params = awake(half)
    window_BxM = jnp.zeros((2, 17), jnp.int32)
    text = str(jax.make_jaxpr(jax.grad(lambda p: mean_loss(p, window_BxM, graphdef=graph(half, OPTIM))))(params))
    products = re.findall(r":(\w+)\[[\d,]*\] = dot_general\[", text)
    assert len(products) > 20 and set(products) == {"f32"}
    assert "f32[50,32] = dot_general" in text  # the head's gradient


def test_training_starts_at_the_uniform_distribution():
    params = init_state(BASE, OPTIM, jax.random.key(0)).params
    window_BxM = np.random.default_rng(0).integers(50, size=(8, 17))
    loss = float(mean_loss(params, jnp.asarray(window_BxM), graphdef=graph(BASE, OPTIM)))
    assert loss == pytest.approx(np.log(50), abs=1e-5)


def test_rounded_weights_take_few_values_and_pass_their_gradient_through():
    """The gradient is that of the model whose weights are the rounded ones; the spread of values is the bits'."""
    coarse = replace(BASE, weight_bits=3)
    params = awake(coarse)

    def rounded(leaf: nnx.Param) -> nnx.Variable:
        if leaf.get_metadata()["role"] not in ("hidden", "residual_out"):
            return leaf
        weight = np.asarray(leaf.get_value(), np.float64)
        scale = np.abs(weight).max(0, keepdims=True) / 3
        codes = np.round(weight / scale)
        assert set(np.unique(codes)) <= set(range(-3, 4))
        return leaf.replace(jnp.asarray(codes * scale, jnp.float32))

    stored = jax.tree.map(rounded, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
    window_BxM = jnp.asarray(np.random.default_rng(0).integers(50, size=(2, 17)))

    def value_and_grad(params, model: ModelSpec):
        loss = functools.partial(mean_loss, window_BxM=window_BxM, graphdef=graph(model, OPTIM))
        return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params)

    loss, grads = value_and_grad(params, coarse)
    plain_loss, plain_grads = value_and_grad(stored, BASE)
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-5)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6)


def test_the_mean_is_attention_that_prefers_nothing():
    """Queries of zero weigh all keys alike: causal attention is then the mean of the past."""
    mean = replace(BASE, attention="mean", n_layers=1, d_head=32)
    causal = replace(mean, attention="causal", positions="none")
    params, theirs = awake(mean), awake(causal)
    block, other = params["blocks"][0], theirs["blocks"][0]
    zero = jnp.zeros((32, 64))
    for name in ("up_DxF", "down_FxD"):
        other[name] = block[name]
    other["qkv_DxH3K"] = other["qkv_DxH3K"].replace(jnp.concatenate([zero, block["value_DxD"].get_value()], axis=1))
    other["out_HKxD"] = other["out_HKxD"].replace(block["out_DxD"].get_value())
    for norm in ("attention_norm_D", "mlp_norm_D"):
        other[norm] = block[norm]
    for name in ("embed_VxD", "norm_D", "head_VxD"):
        theirs[name] = params[name]
    token_BxL = np.random.default_rng(0).integers(50, size=(2, 16))
    np.testing.assert_allclose(logits(mean, params, token_BxL), logits(causal, theirs, token_BxL), rtol=1e-4, atol=1e-5)


def test_grouped_heads_are_heads_whose_keys_are_alike():
    """Four heads of queries on two of keys equal four whole heads with each key and value written twice."""
    grouped = replace(BASE, d_head=8, n_kv_heads=2, n_layers=1)
    params = awake(grouped)
    qkv = params["blocks"][0]["qkv_DxH3K"]
    weight = qkv.get_value().reshape(32, 2, 4, 8)  # D, groups, (two queries, key, value), K
    whole = jnp.stack([weight[:, :, [0, 2, 3]], weight[:, :, [1, 2, 3]]], axis=2)
    spread = replace(grouped, n_kv_heads=0)
    expected = awake(spread)
    got = logits(grouped, params, token_BxL := np.random.default_rng(0).integers(50, size=(2, 16)))
    for name in params["blocks"][0]:
        expected["blocks"][0][name] = params["blocks"][0][name]
    for name in ("embed_VxD", "norm_D", "head_VxD"):
        expected[name] = params[name]
    expected["blocks"][0]["qkv_DxH3K"] = qkv.replace(whole.reshape(32, 96))
    np.testing.assert_allclose(got, logits(spread, expected, token_BxL), rtol=1e-4, atol=1e-5)


def test_depth_leaves_the_stream_alone_under_the_complete_parametrization():
    """Branches are multiplied by base_layers / n_layers: more layers, no larger stream."""

    def spread(layers: int, parametrization: str) -> float:
        model = replace(BASE, n_layers=layers)
        optim = replace(OPTIM, parametrization=parametrization)
        params = init_state(model, optim, jax.random.key(0)).params
        params["head_VxD"] = params["head_VxD"].replace(jnp.ones((50, 32)))
        built = nnx.merge(graph(model, optim), params)
        x_DxT = built.embed_VxD[...][jnp.arange(16)].T
        for block in built.blocks:
            x_DxT = block(x_DxT, 1)
        return float(x_DxT.std())

    complete = [spread(layers, "complete") for layers in (2, 8)]
    assert complete[1] < 1.2 * complete[0]
