"""A stack of layers that a loop goes through, against the same layers one by one; what the backward pass keeps."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train import model as model_file
from scaling.train.checkpoint import Checkpoints, Unsound
from scaling.train.optim import Knobs
from scaling.train.step import Chunk, StepMetrics, graph, init_state, mean_loss, train_steps
from tests.train.test_accelerator import slice_of
from tests.train.test_accounting import dot_flops

OPTIM = OptimSpec(peak_lr=0.01, weight_decay=0.3, parametrization="complete", base_layers=2)
MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=32, d_head=8, vocab_size=20, context=8)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
WINDOW = np.random.default_rng(0).integers(20, size=(1, 9))  # one alone has no gradient noise, which would be compiled


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Whether two layers are a stack, at first as in a deep model."""
    with monkeypatch.context() as patch:
        set_to = lambda yes: patch.setattr(model_file, "APART", 1 if yes else 8)  # noqa: E731
        set_to(True)
        yield set_to


def as_a_stack(params: Any) -> dict[str, np.ndarray]:
    """By name, and weights of layers one over another, whether they were one by one or not."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr([key for key in path if not isinstance(getattr(key, "key", None), int)])
        named.setdefault(name, []).append(np.asarray(leaf))
    return {name: np.stack(leaves) if len(leaves) > 1 else leaves[0] for name, leaves in named.items()}


@functools.cache
def two_steps(model: ModelSpec, optim: OptimSpec, stack: bool, members: int = 1) -> tuple[Any, Any, StepMetrics]:
    """Weights before (but for the head, which is not zero) and after, and what the steps said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "APART", 1 if stack else 8)
        state, graphdef = init_state(model, optim, jax.random.key(0)), graph(model, optim)
    state.params["head_VxD"].set_value(0.1 * jax.random.normal(jax.random.key(1), (model.vocab_size, model.d_model)))
    columns = np.tile(WINDOW, (2, 1, 1)), np.full(2, 0.01, np.float32), np.zeros(2, np.float32)
    begin = (state, np.array(True), columns, Knobs.of(optim))
    if members > 1:
        begin = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), begin)

    def step(state, finite, columns, knobs):
        chunk = Chunk(*columns, probed_K=jnp.zeros(2, bool), count=jnp.int32(2))
        how: dict[str, Any] = dict(model=model, optim=optim, members=members)
        return train_steps(state, finite, chunk, knobs, graphdef=graphdef, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "device_here", lambda: SimpleNamespace(platform="tpu"))  # whose loop is a loop
        after, _, metrics = jax.jit(step, compiler_options=QUICK)(*begin)
    return state.params, after.params, metrics


RECURRENT = replace(MODEL, attention="recurrent", positions="none", weight_bits=4)
VARIANTS = {
    "adamw, grouped heads, swiglu": (replace(MODEL, n_kv_heads=1, mlp="swiglu"), OPTIM),
    "muon, recurrent, four bits": (RECURRENT, replace(OPTIM, name="muon")),
    "schedule_free, window": (
        replace(MODEL, attention="window", window=2), replace(OPTIM, name="schedule_free", schedule="constant")
    ),
}  # fmt: skip


def test_more_than_eight_layers_are_a_stack():
    shapes = {
        layers: nnx.to_pure_dict(jax.eval_shape(lambda m=m: init_state(m, OPTIM, jax.random.key(0)).params))["blocks"]
        for layers, m in ((n, replace(MODEL, n_layers=n)) for n in (8, 9))
    }
    assert shapes[8][7]["up_DxF"].shape == (16, 32) and shapes[9]["up_DxF"].shape == (9, 16, 32)


@pytest.mark.parametrize("model, optim", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_stack_trains_as_its_layers_one_by_one(model: ModelSpec, optim: OptimSpec):
    """Initial weights bit for bit; then losses, norms and what each weight has become after two steps."""
    (*ours, metrics), (*theirs, expected) = (two_steps(model, optim, stack) for stack in (True, False))
    for params, others, tolerance in zip(ours, theirs, (0, 2e-5), strict=True):
        assert len(jax.tree.leaves(params)) < len(jax.tree.leaves(others))
        stack, layers = as_a_stack(params), as_a_stack(others)
        assert stack.keys() == layers.keys()
        for name, values in stack.items():
            np.testing.assert_allclose(values, layers[name], atol=tolerance, rtol=0, err_msg=name)
    for value, other in zip(metrics, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5)


def test_a_population_of_stacks_is_its_members():
    model, optim = VARIANTS["adamw, grouped heads, swiglu"]
    alone, pair = (two_steps(model, optim, True, members)[-1] for members in (1, 2))
    for value, both in zip(alone, pair, strict=True):
        np.testing.assert_allclose(np.stack([value] * 2), both, rtol=1e-5)


def test_an_accelerator_loops_over_a_stack_and_a_cpu_has_every_layer_compiled():
    deep = replace(MODEL, n_layers=9)
    params = jax.eval_shape(lambda: init_state(deep, OPTIM, jax.random.key(0)).params)

    def loops(params: Any) -> int:
        step = jax.jit(functools.partial(mean_loss, graphdef=graph(deep, OPTIM))).trace(params, WINDOW)
        return step.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.while")

    assert loops(params) == 0
    with jax.sharding.use_abstract_mesh(slice_of(1, 1, 1, 1)):
        assert loops(params) == 1


@pytest.mark.parametrize("stack", [True, False])
def test_what_is_computed_again_is_the_same(stack: bool, stacked, monkeypatch: pytest.MonkeyPatch):
    """And where dense products are kept it is attention without them."""
    stacked(stack)
    monkeypatch.setattr(model_file, "device_here", lambda: SimpleNamespace(platform="tpu"))
    params, graphdef = init_state(MODEL, OPTIM, jax.random.key(0)).params, graph(MODEL, OPTIM)
    gradients, work = {}, {}
    for remat in ("none", "dots", "blocks"):
        grad = jax.grad(functools.partial(mean_loss, graphdef=graphdef, remat=remat))
        work[remat] = dot_flops(jax.make_jaxpr(grad)(params, WINDOW).jaxpr)
        gradients[remat] = jax.tree.leaves(jax.jit(grad, compiler_options=QUICK)(params, WINDOW))
    each = 2 * 2 * 8 * 16  # layers, multiply and add, tokens, width
    scores_and_values, all_but_the_last_product = each * 2 * 8, each * (3 * 16 + 16 + 32)
    assert work["dots"] == work["none"] + scores_and_values
    assert work["blocks"] == work["dots"] + all_but_the_last_product
    for others in zip(*gradients.values(), strict=True):
        for other in others[1:]:
            np.testing.assert_allclose(other, others[0], atol=1e-6)


def test_a_checkpoint_of_layers_one_by_one_is_not_one_of_a_stack(tmp_path: Path, stacked):
    stack = init_state(MODEL, OPTIM, jax.random.key(0))
    stacked(False)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.open()
        checkpoints.save(3, init_state(MODEL, OPTIM, jax.random.key(0)))
        with pytest.raises(Unsound, match="cannot be read back"):
            checkpoints.restore(3, stack)
        assert checkpoints.steps() == [] and "cannot be read back" in checkpoints.set_aside()[0]
