from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.step import graph, init_state, mean_loss

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1)
BASE = ModelSpec(n_layers=2, d_model=32, d_ff=64, vocab_size=50, context=16)
VARIANTS = {
    "rotary": BASE,
    "learned positions, tied": replace(BASE, positions="learned", tied=True),
    "no positions": replace(BASE, positions="none"),
    "swiglu": replace(BASE, mlp="swiglu"),
    "no attention": replace(BASE, attention="none"),
    "several blocks of queries": replace(BASE, context=150),
    "one head": replace(BASE, d_head=32),
}


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
        assert (moved[1:] == 0).all() if model.attention == "none" else (moved > 0).all()


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_weight_has_its_gradient(model: ModelSpec):
    """Against central differences along random directions, in float32: the step balances rounding and curvature."""
    params = awake(model)
    window_BxM = np.random.default_rng(0).integers(50, size=(2, model.context + 1))
    loss = jax.jit(lambda p: mean_loss(p, jnp.asarray(window_BxM), graphdef=graph(model, OPTIM)))
    grads = jax.grad(loss)(params)
    leaves, structure = jax.tree.flatten(params)
    for i, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        direction = np.asarray(grad) / np.linalg.norm(grad)
        step = 2e-3 * max(1.0, float(np.linalg.norm(leaf)) / 4)
        ends = [
            jax.tree.unflatten(structure, leaves[:i] + [leaf + s * step * direction] + leaves[i + 1 :]) for s in (1, -1)
        ]
        slope = (float(loss(ends[0])) - float(loss(ends[1]))) / (2 * step)
        assert slope == pytest.approx(float(np.linalg.norm(grad)), rel=0.02), i


def test_bfloat16_compute_stays_close_to_float32():
    params, token_BxL = awake(BASE), np.random.default_rng(0).integers(50, size=(4, 16))
    full = logits(BASE, params, token_BxL)
    half = logits(replace(BASE, compute_dtype="bfloat16"), params, token_BxL)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_training_starts_at_the_uniform_distribution():
    params = init_state(BASE, OPTIM, jax.random.key(0)).params
    window_BxM = np.random.default_rng(0).integers(50, size=(8, 17))
    loss = float(mean_loss(params, jnp.asarray(window_BxM), graphdef=graph(BASE, OPTIM)))
    assert loss == pytest.approx(np.log(50), abs=1e-5)
