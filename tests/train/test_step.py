"""How a batch is cut into copies and parts, and what a step measures, averages and refuses to do."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from scaling.spec import ModelSpec, OptimSpec
from scaling.train import step
from scaling.train.optim import Knobs
from scaling.train.placement import Placement

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1, average=1.0)
MODEL = ModelSpec(n_layers=2, d_model=32, d_ff=64, vocab_size=50, context=16)


@pytest.fixture(scope="module")
def model():
    """Weights away from their start, where the head's are zero and pass no gradient, and the graph without them."""

    @jax.jit
    def weights():
        params = step.init_state(MODEL, OPTIM, jax.random.key(0)).params
        return jax.tree.map(lambda w: w + 0.2 * jax.random.normal(jax.random.key(1), w.shape), params)

    return weights(), step.graph(MODEL, OPTIM)


@pytest.fixture(scope="module")
def whole(model):
    """Sixteen windows, and the loss and gradients of them at once on one device."""
    params, graphdef = model
    window_BxM = jnp.asarray(np.random.default_rng(0).integers(50, size=(16, 17)))
    loss = functools.partial(step.mean_loss, window_BxM=window_BxM, graphdef=graphdef)
    return window_BxM, *jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("placement", [Placement(), Placement(data=4), Placement(data=2, tensor=2)], ids=str)
def test_parts_and_copies_add_up_to_the_batch(placement: Placement, model, whole):
    (params, graphdef), (window_BxM, loss, grads) = model, whole
    how = step.Cut(placement.mesh(), part_rows=2)
    cut = jax.jit(lambda p, w: step.mean_gradients(p, w, graphdef=graphdef, cut=how))
    cut_loss, summed = cut(params, window_BxM)
    assert float(cut_loss) == pytest.approx(float(loss), rel=1e-6)
    for got, wanted in zip(jax.tree.leaves(summed), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_parts_are_equal_and_the_fewest_that_fit():
    def parts(rows: int, context: int) -> int:
        return step._parts(rows, Placement().part_rows(rows, context, "cpu"))

    assert parts(8, 32) == 1  # the batch of the small studies is one part
    assert parts(64, 128) == 16
    assert parts(12, 128) == 3
    assert parts(7, 128) == 7
    assert parts(4, 1024) == 4  # a row is never cut


def test_microbatches_divide_the_rows_of_a_copy_or_are_refused():
    assert Placement(data=2, microbatches=4).part_rows(16, 32, "cpu") == 2
    with pytest.raises(ValueError, match="microbatches = 3: must divide the 8 rows"):
        Placement(data=2, microbatches=3).part_rows(16, 32, "cpu")


def test_the_gradient_noise_is_that_of_the_windows(model):
    """Over every half of the batch, the estimates average to the variance of its windows' own gradients."""
    params, graphdef = model
    B = 4
    window_BxM = jnp.asarray(np.random.default_rng(0).integers(50, size=(B, 17)))

    @jax.jit
    def gradient(window_BxM):
        return ravel_pytree(step.mean_gradients(params, window_BxM, graphdef=graphdef)[1])[0]

    each_BxP = np.stack([np.asarray(gradient(window_BxM[i : i + 1]), np.float64) for i in range(B)])
    mean_P = each_BxP.mean(0)
    trace = each_BxP.var(axis=0, ddof=1).sum()  # unbiased tr(Sigma)
    noise_of = jax.jit(
        lambda w: step.gradient_noise(
            params, step.mean_gradients(params, w, graphdef=graphdef)[1], w, graphdef=graphdef
        )
    )
    halves = [
        noise_of(window_BxM[np.array(order)]) for order in itertools.permutations(range(B)) if order[0] < order[1]
    ]
    signal, noise = np.mean(halves, axis=0)
    assert noise == pytest.approx(trace, rel=1e-4)
    assert signal == pytest.approx((mean_P**2).sum() - trace / B, rel=1e-3)


def test_one_window_alone_has_no_noise_to_measure(model):
    params, graphdef = model
    signal, noise = step.gradient_noise(params, params, jnp.zeros((1, 17), jnp.int32), graphdef=graphdef)
    assert np.isnan(signal) and np.isnan(noise)


@functools.cache
def compiled(optim: OptimSpec):
    """A fresh state, and the function that takes steps from it."""
    state = jax.jit(lambda: step.init_state(MODEL, optim, jax.random.key(0)))()
    return state, jax.jit(
        functools.partial(step.train_steps, graphdef=step.graph(MODEL, optim), model=MODEL, optim=optim)
    )


def taken(optim: OptimSpec, rates: list[float]):
    """A fresh state, a chunk of steps at these learning rates, and the compiled function that takes them."""
    K = len(rates)
    rng = np.random.default_rng(0)
    chunk = step.Chunk(
        rng.integers(50, size=(K, 4, 17)).astype(np.uint8), np.array(rates, np.float32),
        np.array([1, 1 / 2, 1 / 3, 1 / 4][:K], np.float32), np.arange(K) % 2 == 1, np.int32(K),
    )  # fmt: skip
    state, steps = compiled(optim)
    return state, chunk, lambda state, finite, chunk: steps(state, finite, chunk, Knobs.of(optim))


def test_the_average_is_that_of_the_weights_it_says():
    state, chunk, steps = taken(OPTIM, [1e-2] * 4)
    passed = []
    for count in range(1, 5):
        after, _, _ = steps(state, np.array(True), chunk._replace(count=np.int32(count)))
        passed.append(ravel_pytree(after.params)[0])
    np.testing.assert_allclose(ravel_pytree(after.average)[0], np.mean(passed, axis=0), rtol=1e-5, atol=1e-7)


def test_metrics_say_what_a_step_did():
    state, chunk, steps = taken(OPTIM, [1e-2] * 4)
    one, _, _ = steps(state, np.array(True), chunk._replace(count=np.int32(1)))
    _, finite, metrics = steps(state, np.array(True), chunk)
    change = jnp.linalg.norm(ravel_pytree(one.params)[0] - ravel_pytree(state.params)[0])
    assert bool(finite) and float(metrics.update_norm_K[0]) == pytest.approx(float(change), rel=1e-4)
    assert list(np.isfinite(metrics.noise_K)) == [False, True, False, True]


def test_probing_the_noise_moves_no_weight():
    state, chunk, steps = taken(OPTIM, [1e-2] * 4)
    with_probes, _, _ = steps(state, np.array(True), chunk)
    without, _, _ = steps(state, np.array(True), chunk._replace(probed_K=np.zeros(4, bool)))
    jax.tree.map(np.testing.assert_array_equal, with_probes, without)


@pytest.mark.parametrize("rate, good", [(1e38, 1), (1e17, 2)], ids=["the change", "the next loss"])
def test_nothing_moves_after_a_number_that_is_not_finite(rate: float, good: int):
    """A rate that overflows at step 2, or makes the loss of step 3 no number: the weights are those before."""
    optim = dataclasses.replace(OPTIM, name="sgd", clip_norm=1e38)
    state, chunk, steps = taken(optim, [1e-2, rate, 1e-2, 1e-2])
    before, _, _ = steps(state, np.array(True), chunk._replace(count=np.int32(good)))
    after, finite, metrics = steps(state, np.array(True), chunk)
    assert not finite and list(np.isfinite(metrics.loss_K[: good + 1])) == [True] * good + [False]
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, steps(after, finite, chunk)[0], after)


def test_a_population_is_probed_at_its_own_steps_and_no_other():
    """One branch for all members: under `vmap` a branch for each would measure the noise at every step."""
    members = 2
    state, chunk, _ = taken(OPTIM, [1e-2] * 4)
    stack = lambda leaf: jnp.stack([leaf] * members)  # noqa: E731
    steps = functools.partial(
        step.train_steps, graphdef=step.graph(MODEL, OPTIM), model=MODEL, optim=OPTIM, members=members
    )
    together = chunk._replace(**{name: stack(getattr(chunk, name)) for name in ("window_KxBxM", "lr_K", "blend_K")})
    arguments = (jax.tree.map(stack, state), np.array([True] * members), together, jax.tree.map(stack, Knobs.of(OPTIM)))
    assert "cond[" in str(jax.make_jaxpr(steps)(*arguments))
    _, finite, metrics = jax.jit(steps)(*arguments)
    assert finite.all() and np.isfinite(metrics.noise_K).tolist() == [[False, True, False, True]] * members
