"""The coordinate check: how much a few steps move the activations must not depend on the width."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.cost import at_width
from scaling.spec import ModelSpec, OptimSpec
from scaling.train.optim import Knobs
from scaling.train.step import graph, init_state, train_steps

WIDTHS = (32, 64, 128)
MODEL = ModelSpec(n_layers=2, d_model=32, d_ff=64, d_head=16, vocab_size=64, context=16)
OPTIM = {
    "adamw": OptimSpec(peak_lr=1e-2, cooldown_steps=1, base_width=32),
    "sgd": OptimSpec(name="sgd", peak_lr=0.3, cooldown_steps=1, base_width=32),
}


def movement(model: ModelSpec, optim: OptimSpec) -> float:
    """Root mean square change of the logits over five steps on one batch."""
    rng = np.random.default_rng(0)
    windows = np.tile(rng.integers(64, size=(1, 8, 17)), (5, 1, 1)).astype(np.uint8)
    state = init_state(model, optim, jax.random.key(0))
    rates, count = np.full(5, optim.peak_lr, np.float32), np.int32(5)
    steps = functools.partial(train_steps, graphdef=graph(model, optim), model=model, optim=optim)
    after, _ = jax.jit(steps)(state, windows, rates, count, Knobs.of(optim))
    tokens = jnp.asarray(windows[0, :, :-1], jnp.int32)
    change = nnx.merge(graph(model, optim), after.params)(tokens) - nnx.merge(graph(model, optim), state.params)(tokens)
    return float(jnp.sqrt(jnp.mean(change**2)))


def drift(optim: OptimSpec, tied: bool) -> float:
    """Exponent of the movement in the width."""
    moves = [movement(replace(at_width(MODEL, d), tied=tied), optim) for d in WIDTHS]
    return float(np.polyfit(np.log(WIDTHS), np.log(moves), 1)[0])


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", OPTIM)
def test_steps_move_the_logits_alike_at_every_width(name: str, tied: bool):
    assert abs(drift(OPTIM[name], tied)) < 0.25


def test_under_the_standard_parametrization_wider_models_move_more():
    assert drift(replace(OPTIM["adamw"], parametrization="standard"), tied=False) > 0.5


def test_both_parametrizations_are_one_at_the_base_width():
    standard = replace(OPTIM["adamw"], parametrization="standard")
    assert movement(MODEL, OPTIM["adamw"]) == movement(MODEL, standard)
