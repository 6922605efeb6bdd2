from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec, RunSpec
from scaling.train.optim import Knobs, change, changes, learning_rates, measured, optimizer
from scaling.train.step import init_state


def test_the_schedule_warms_up_holds_and_cools_to_zero(tiny: RunSpec):
    run = replace(tiny, steps=100, optim=replace(tiny.optim, peak_lr=2.0, warmup_steps=10, cooldown_steps=20))
    rate = learning_rates(run, 0, 100)
    np.testing.assert_allclose(rate[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(rate[9:81], 2.0)
    np.testing.assert_allclose(rate[80:], 2.0 * np.arange(20, 0, -1) / 20, rtol=1e-6)


def test_a_trunk_is_a_run_without_its_cooldown(tiny: RunSpec):
    run = replace(tiny, steps=100, optim=replace(tiny.optim, warmup_steps=10, cooldown_steps=20))
    trunk = replace(run, optim=replace(run.optim, schedule="constant", cooldown_steps=0))
    np.testing.assert_array_equal(learning_rates(run, 0, 80), learning_rates(trunk, 0, 80))


def test_a_cosine_is_matched_to_its_horizon(tiny: RunSpec):
    optim = replace(tiny.optim, schedule="cosine", cooldown_steps=0, warmup_steps=10, peak_lr=1.0, final_lr=0.1)
    run = replace(tiny, steps=110, optim=optim)
    rate = learning_rates(run, 0, 111)
    assert rate[10] == pytest.approx(1.0) and rate[60] == pytest.approx(0.55) and rate[110] == pytest.approx(0.1)
    assert (np.diff(rate[10:]) < 0).all()


def test_rates_do_not_depend_on_how_they_are_cut(tiny: RunSpec):
    whole = learning_rates(tiny, 0, 20)
    np.testing.assert_array_equal(whole, np.concatenate([learning_rates(tiny, s, 4) for s in range(0, 20, 4)]))


@pytest.mark.parametrize("name, theirs", [("adamw", optax.scale_by_adam(0.9, 0.99, 1e-7)), ("sgd", optax.trace(0.8))])
def test_knobs_as_arguments_give_the_optimizer_with_constants(name: str, theirs: optax.GradientTransformation):
    spec = OptimSpec(name=name, peak_lr=1.0, beta2=0.99, epsilon=1e-7, momentum=0.8, clip_norm=0.5)  # type: ignore[arg-type]
    reference = optax.chain(optax.clip_by_global_norm(0.5), theirs)
    weights = {"a": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.ones(3)}

    @jax.jit
    def three_steps(knobs: Knobs):
        ours, state = optimizer(name, knobs), optimizer(name, knobs).init(weights)
        for i in range(3):
            direction, state = ours.update(jax.tree.map(lambda w, i=i: w * (i + 1), weights), state)
        return direction

    state = reference.init(weights)
    for i in range(3):
        expected, state = reference.update(jax.tree.map(lambda w, i=i: w * (i + 1), weights), state)
    for ours, other in zip(jax.tree.leaves(three_steps(Knobs.of(spec))), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6)


def test_decay_pulls_matrices_and_leaves_gains():
    half = jnp.float32(0.5)
    for shape in ((2, 2), (3, 2, 2)):  # and a stack of them
        matrix = jnp.full(shape, 4.0)
        moved = change(matrix, jnp.ones(shape), half, 0.25, "hidden", half)
        np.testing.assert_allclose(moved, -0.5 * (0.25 + 0.5 * 4))
    for shape in ((2,), (3, 2)):
        gain = jnp.full(shape, 4.0)
        np.testing.assert_allclose(change(gain, jnp.ones(shape), half, 0.25, "gain", half), -0.5 * 0.25)


def test_a_square_root_cooldown_falls_fast_then_slowly(tiny: RunSpec):
    """1 - sqrt of the share that is over: the same ends as the linear one, and below it in between."""
    line = replace(tiny, steps=100, optim=replace(tiny.optim, peak_lr=1.0, warmup_steps=0, cooldown_steps=20))
    root = replace(line, optim=replace(line.optim, cooldown="sqrt"))
    straight, curved = learning_rates(line, 0, 100), learning_rates(root, 0, 100)
    np.testing.assert_array_equal(straight[:81], curved[:81])
    assert (curved[81:] < straight[81:]).all() and curved[85] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_unmatched_schedule_is_a_piece_of_its_horizons_own(tiny: RunSpec, schedule: str):
    """Kaplan's runs stop within a longer run's decay; beyond its horizon a schedule stays at its end."""
    optim = replace(tiny.optim, schedule=schedule, cooldown_steps=0, warmup_steps=10, peak_lr=1.0, final_lr=0.1)
    matched = replace(tiny, steps=200, optim=optim)
    unmatched = replace(tiny, steps=300, optim=replace(optim, horizon_steps=200))
    rate = learning_rates(unmatched, 0, 300)
    np.testing.assert_array_equal(rate[:200], learning_rates(matched, 0, 200))
    np.testing.assert_allclose(rate[200:], 0.1, rtol=1e-6)


def test_a_linear_schedule_falls_by_equal_steps_to_its_end(tiny: RunSpec):
    optim = replace(tiny.optim, schedule="linear", cooldown_steps=0, warmup_steps=0, peak_lr=2.0, final_lr=0.25)
    rate = learning_rates(replace(tiny, steps=50, optim=optim), 0, 51)
    assert rate[0] == 2.0 and rate[50] == pytest.approx(0.5)
    np.testing.assert_allclose(np.diff(rate), -1.5 / 50, rtol=1e-3)


MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=48, d_head=8, vocab_size=20, context=4)


def test_muon_moves_every_singular_direction_alike_and_as_far_as_adam():
    """Of a random gradient all singular values come out near one another; entries have a root mean square near 0.2."""
    optim = OptimSpec(name="muon", peak_lr=1.0, clip_norm=1e9, momentum=0.0)
    state = init_state(MODEL, optim, jax.random.key(0))
    grads = jax.tree.map(lambda w: jax.random.normal(jax.random.key(1), w.shape), state.params)
    directions, _ = jax.jit(optimizer("muon", Knobs.of(optim)).update)(grads, state.opt_state)
    adam, _ = optax.scale_by_adam(0.9, 0.95).update(grads, optax.scale_by_adam(0.9, 0.95).init(grads))
    is_param = lambda leaf: isinstance(leaf, nnx.Param)  # noqa: E731
    seen = set()
    for got, plain in zip(
        jax.tree.leaves(directions, is_leaf=is_param), jax.tree.leaves(adam, is_leaf=is_param), strict=True
    ):
        role, value = got.get_metadata()["role"], np.asarray(got.get_value())
        seen.add(role)
        if role in ("hidden", "residual_out"):
            singular = np.linalg.svd(value / (0.2 * max(value.shape) ** 0.5), compute_uv=False)
            assert 0.6 < singular.min() and singular.max() < 1.3
            assert np.sqrt((value**2).mean()) == pytest.approx(0.2, rel=0.2)
        else:
            np.testing.assert_allclose(value, plain.get_value(), rtol=1e-5)
    assert seen == {"embedding", "hidden", "residual_out", "head", "gain"}


def test_schedule_free_follows_its_published_recurrence():
    """z by Adam at y, x the average of z weighted by the squared rate, y between them (arXiv:2405.15682)."""
    optim = OptimSpec(name="schedule_free", schedule="constant", peak_lr=1.0, beta1=0.8, beta2=0.9, clip_norm=1e9)
    knobs, state = Knobs.of(optim), init_state(MODEL, optim, jax.random.key(0))
    rates = [0.01, 0.02, 0.02, 0.02]
    noise = [jax.tree.map(lambda w, i=i: jax.random.normal(jax.random.key(i), w.shape), state.params) for i in range(4)]
    ones = jax.tree.map(lambda _: 1.0, state.params)
    params, opt_state = state.params, state.opt_state
    y = z = x = [np.asarray(w, np.float64) for w in jax.tree.leaves(params)]
    second, total = [0 * w for w in y], 0.0
    step = jax.jit(lambda p, g, s, lr: changes(optim, knobs, p, g, s, lr, ones))
    for t, (lr, grads) in enumerate(zip(rates, noise, strict=True), start=1):
        added, opt_state = step(params, grads, opt_state, jnp.float32(lr))
        params = optax.apply_updates(params, added)
        g = [np.asarray(w, np.float64) for w in jax.tree.leaves(grads)]
        second = [0.9 * v + 0.1 * w**2 for v, w in zip(second, g, strict=True)]
        total += lr**2
        z = [a - lr * w / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) for a, w, v in zip(z, g, second, strict=True)]
        x = [a + lr**2 / total * (b - a) for a, b in zip(x, z, strict=True)]
        y = [0.2 * b + 0.8 * a for a, b in zip(x, z, strict=True)]
    for got, wanted in zip(jax.tree.leaves(params), y, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    for got, wanted in zip(jax.tree.leaves(measured(optim, params, opt_state)), x, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
