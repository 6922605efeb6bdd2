"""How a batch is cut: into copies over devices and into parts that follow one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.spec import ModelSpec, OptimSpec
from scaling.train import step
from scaling.train.placement import Placement

OPTIM = OptimSpec(peak_lr=1e-2, cooldown_steps=1)
MODEL = ModelSpec(n_layers=2, d_model=32, d_ff=64, vocab_size=50, context=16)


@pytest.mark.parametrize("placement", [Placement(), Placement(data=4), Placement(data=2, tensor=2)], ids=str)
def test_parts_and_copies_add_up_to_the_batch(placement: Placement, monkeypatch: pytest.MonkeyPatch):
    params = jax.jit(lambda: step.init_state(MODEL, OPTIM, jax.random.key(0)).params)()
    params = jax.tree.map(lambda w: w + 0.2 * jax.random.normal(jax.random.key(1), w.shape), params)
    window_BxM = jnp.asarray(np.random.default_rng(0).integers(50, size=(16, 17)))
    graphdef = step.graph(MODEL, OPTIM)
    loss, whole = jax.jit(jax.value_and_grad(lambda p: step.mean_loss(p, window_BxM, graphdef=graphdef)))(params)

    monkeypatch.setattr(step, "CPU_PART_TOKENS", 2 * 16)
    cut = jax.jit(lambda p, w: step.mean_gradients(p, w, graphdef=graphdef, mesh=placement.mesh()))
    cut_loss, summed = cut(params, window_BxM)
    assert float(cut_loss) == pytest.approx(float(loss), rel=1e-6)
    for got, wanted in zip(jax.tree.leaves(summed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_parts_are_equal_and_the_fewest_that_fit():
    assert step._parts(8, 32) == 1  # the batch of the small studies is one part
    assert step._parts(64, 128) == 16
    assert step._parts(12, 128) == 3
    assert step._parts(7, 128) == 7
    assert step._parts(4, 1024) == 4  # a row is never cut
