"""The coordinate check: how much a few steps move the activations must not depend on the width.

Logits alone are blind to the roles before the last norm, so the residual stream is measured too: as moved by all
weights, and by those of one role while the others stay where they began.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.cost import at_width
from scaling.spec import ModelSpec, OptimSpec
from scaling.train import parametrization
from scaling.train.model import Transformer
from scaling.train.optim import Knobs
from scaling.train.step import Chunk, graph, init_state, train_steps

WIDTHS = (64, 256)
STEPS = 6
QUICK = {"xla_backend_optimization_level": 0}  # each program runs once: compiling it is most of the time
MODEL = ModelSpec(n_layers=1, d_model=32, d_ff=64, d_head=16, vocab_size=64, context=16)
OPTIM = {
    "adamw": OptimSpec(peak_lr=1e-2, cooldown_steps=1, base_width=32),
    "sgd": OptimSpec(name="sgd", peak_lr=0.1, cooldown_steps=1, base_width=32),
    "muon": OptimSpec(name="muon", peak_lr=1e-2, cooldown_steps=1, base_width=32),
    "schedule_free": OptimSpec(name="schedule_free", schedule="constant", peak_lr=1e-2, base_width=32),
}


def stream(model: Transformer, token_BxL: jax.Array) -> jax.Array:
    """The residual stream before the last norm, [D, B * L]."""
    x_DxT = model.embed_VxD[...][token_BxL.reshape(-1)].T
    for block in model.blocks:
        x_DxT = block(x_DxT, len(token_BxL))
    return x_DxT


def movement(model: ModelSpec, optim: OptimSpec) -> dict[str, float]:
    """Root mean square change over a few steps on one batch: of the logits, of the stream, of the stream by role."""
    rng = np.random.default_rng(0)
    windows = np.tile(rng.integers(64, size=(1, 8, 17)), (STEPS, 1, 1)).astype(np.uint8)
    tokens = jnp.asarray(windows[0, :, :-1], jnp.int32)
    rates, never = np.full(STEPS, optim.peak_lr, np.float32), np.zeros(STEPS, bool)
    chunk = Chunk(windows, rates, 0 * rates, never, np.int32(STEPS))
    graphdef = graph(model, optim)
    before = jax.jit(lambda key: init_state(model, optim, key), compiler_options=QUICK)(jax.random.key(0))
    steps = functools.partial(train_steps, graphdef=graphdef, model=model, optim=optim)
    after, *_ = jax.jit(steps, compiler_options=QUICK)(before, np.array(True), chunk, Knobs.of(optim))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def forward(params):
        merged = nnx.merge(graphdef, params)
        return stream(merged, tokens), merged(tokens)

    def moved(role: str):
        return jax.tree.map(
            lambda old, new: new if old.get_metadata()["role"] == role else old,
            before.params,
            after.params,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Param),
        )

    began, ended = forward(before.params), forward(after.params)
    change = {"stream": ended[0] - began[0], "logits": ended[1] - began[1]}
    change |= {role: forward(moved(role))[0] - began[0] for role in ("embedding", "hidden", "residual_out")}
    return {name: float(jnp.sqrt(jnp.mean(value**2))) for name, value in change.items()}


def drift(optim: OptimSpec, tied: bool = False) -> dict[str, float]:
    """Exponents of the movements in the width."""
    moves = [movement(replace(at_width(MODEL, d), tied=tied), optim) for d in WIDTHS]
    return {k: float(np.polyfit(np.log(WIDTHS), np.log([move[k] for move in moves]), 1)[0]) for k in moves[0]}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", OPTIM)
def test_steps_move_stream_and_logits_alike_at_every_width(name: str, tied: bool):
    found = drift(OPTIM[name], tied)
    assert {what: slope for what, slope in found.items() if abs(slope) >= 0.25} == {}


@pytest.mark.parametrize("role", ["hidden", "residual_out"])
def test_a_wrong_exponent_moves_wider_streams_more_and_logits_do_not_show_it(role: str, monkeypatch):
    monkeypatch.setitem(parametrization._WIDTH_EXPONENT["adamw"], role, 0)
    found = drift(OPTIM["adamw"])
    assert found[role] > 0.5 and found["stream"] > 0.35
    assert abs(found["logits"]) < 0.25


def test_under_the_standard_parametrization_wider_models_move_more():
    found = drift(replace(OPTIM["adamw"], parametrization="standard"))
    assert found["logits"] > 0.5 and found["stream"] > 0.5


def test_both_parametrizations_are_one_at_the_base_width():
    standard = replace(OPTIM["adamw"], parametrization="standard")
    assert movement(MODEL, OPTIM["adamw"]) == movement(MODEL, standard)
