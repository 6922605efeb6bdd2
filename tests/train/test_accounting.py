"""The counts of scaling.cost against the model that is built and the program that is traced."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import pytest

from scaling.cost import count_flops, count_params, optimizer_flops, orthogonalisation_flops
from scaling.spec import ModelSpec, OptimSpec, RunSpec
from scaling.train.attention import CAUSAL_BLOCK
from scaling.train.optim import Knobs, changes, optimizer
from scaling.train.step import graph, init_state, mean_gradients, mean_loss

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1)
BASE = ModelSpec(n_layers=3, d_model=64, d_ff=192, vocab_size=100, context=32)
VARIANTS = {
    "base": BASE,
    "tied, learned positions": replace(BASE, tied=True, positions="learned"),
    "swiglu": replace(BASE, mlp="swiglu"),
    "no attention": replace(BASE, attention="none"),
    "one layer, one head": replace(BASE, n_layers=1, d_head=64),
    "grouped heads": replace(BASE, n_kv_heads=2),
    "mean": replace(BASE, attention="mean"),
    "window": replace(BASE, attention="window", window=3, mlp="relu2"),
    "recurrent": replace(BASE, attention="recurrent"),
    "four bits": replace(BASE, weight_bits=4),
}


def dot_flops(jaxpr) -> int:
    """Twice the multiply-adds of every dot product in a traced program, scans by their length."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(left[axis] for axis in contract)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * dot_flops(inner)
    return total


def traced(model: ModelSpec, batch: int):
    state = jax.eval_shape(lambda key: init_state(model, OPTIM, key), jax.random.key(0))
    window = jax.ShapeDtypeStruct((batch, model.context + 1), jnp.int32)
    graphdef = graph(model, OPTIM)
    return jax.value_and_grad(lambda p, w: mean_loss(p, w, graphdef=graphdef)), state.params, window


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_count_is_the_model(model: ModelSpec):
    state = jax.eval_shape(lambda key: init_state(model, OPTIM, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == count_params(model).total


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_flops_are_those_of_the_traced_program(model: ModelSpec):
    """At a context within one block of queries the kernel executes the dense square, and nothing else is left over."""
    grad, params, window = traced(model, batch=4)
    flops = count_flops(model)
    expected = flops.attention + flops.scores_dense + flops.mlp + flops.head
    assert dot_flops(jax.make_jaxpr(grad)(params, window).jaxpr) == 4 * model.context * expected


def test_over_several_blocks_the_scores_are_those_of_the_block_formula():
    """n whole blocks and a rest of r meet CAUSAL_BLOCK^2 n (n + 1) / 2 + r L pairs a head, forwards and backwards."""
    model = replace(BASE, context=150)
    n, rest = divmod(150, CAUSAL_BLOCK)
    pairs = CAUSAL_BLOCK**2 * n * (n + 1) // 2 + rest * 150
    flops = count_flops(model)
    scores = 3 * 2 * 2 * model.n_layers * model.d_model * pairs
    assert flops.scores_causal * 150 < scores < flops.scores_dense * 150
    grad, params, window = traced(model, batch=2)
    products = 150 * (flops.attention + flops.mlp + flops.head) + scores
    assert dot_flops(jax.make_jaxpr(grad)(params, window).jaxpr) == 2 * products


@pytest.mark.parametrize("name", ["adamw", "sgd", "schedule_free"])
def test_the_flops_agree_with_xla_for_one_optimizer_step(name: str, tiny: RunSpec):
    """Gradients, clipping, optimizer and the move of the weights; a wide model, so that elementwise work is little."""
    model = ModelSpec(n_layers=2, d_model=256, d_ff=1024, d_head=64, vocab_size=512, context=32)
    optim = replace(tiny.optim, name=name)
    run = replace(tiny, model=model, optim=optim)
    state = jax.eval_shape(lambda key: init_state(model, optim, key), jax.random.key(0))
    window = jax.ShapeDtypeStruct((8, model.context + 1), jnp.int32)
    graphdef = graph(model, optim)

    def step(state, window, knobs, lr):
        _, grads = mean_gradients(state.params, window, graphdef=graphdef)
        multipliers = jax.tree.map(lambda _: 0.5, state.params)
        added, opt_state = changes(optim, knobs, state.params, grads, state.opt_state, lr, multipliers)
        return jax.tree.map(jnp.add, state.params, added), opt_state

    arguments = (state, window, Knobs.of(optim), jnp.float32(1e-2))
    counted = jax.jit(step).lower(*arguments).compile().cost_analysis()["flops"]
    flops = count_flops(model)
    dense = flops.attention + flops.scores_dense + flops.mlp + flops.head
    elementwise = flops.embedding + flops.positions + flops.norms
    expected = 8 * model.context * (dense + elementwise) + optimizer_flops(run)
    assert counted == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())
def test_muon_orthogonalises_every_matrix_of_a_block_and_no_other(model: ModelSpec, tiny: RunSpec):
    optim = replace(OPTIM, name="muon")
    state = jax.eval_shape(lambda key: init_state(model, optim, key), jax.random.key(0))
    traced = jax.make_jaxpr(optimizer("muon", Knobs.of(optim)).update)(state.params, state.opt_state)
    assert dot_flops(traced.jaxpr) == orthogonalisation_flops(model)
