from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.spec import OptimSpec, RunSpec
from scaling.train.optim import Knobs, learning_rates, moved, optimizer


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
    matrix, gain = jnp.full((2, 2), 4.0), jnp.full(2, 4.0)
    np.testing.assert_allclose(moved(matrix, jnp.ones((2, 2)), half, 0.25, half), 4 - 0.5 * (0.25 + 0.5 * 4))
    np.testing.assert_allclose(moved(gain, jnp.ones(2), half, 0.25, half), 4 - 0.5 * 0.25)
