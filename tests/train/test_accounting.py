"""The counts of scaling.cost against the model that is built and the program that is traced."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import pytest

from scaling.cost import count_flops, count_params
from scaling.spec import ModelSpec, OptimSpec
from scaling.train.step import graph, init_state, mean_loss

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1)
BASE = ModelSpec(n_layers=3, d_model=64, d_ff=192, vocab_size=100, context=32)
VARIANTS = {
    "base": BASE,
    "tied, learned positions": replace(BASE, tied=True, positions="learned"),
    "swiglu": replace(BASE, mlp="swiglu"),
    "no attention": replace(BASE, attention="none"),
    "one layer, one head": replace(BASE, n_layers=1, d_head=64),
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


def test_the_flops_agree_with_xla_for_one_step():
    model = ModelSpec(n_layers=2, d_model=256, d_ff=1024, d_head=64, vocab_size=512, context=32)
    grad, params, window = traced(model, batch=8)
    counted = jax.jit(grad).lower(params, window).compile().cost_analysis()["flops"]
    flops = count_flops(model)
    expected = 8 * model.context * (flops.attention + flops.scores_dense + flops.mlp + flops.head)
    assert counted == pytest.approx(expected, rel=0.05)
