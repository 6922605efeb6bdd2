"""Attention in blocks against the whole square in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.train.attention import CAUSAL_BLOCK, causal_attention, rotate

CONTEXTS = [1, 16, CAUSAL_BLOCK, CAUSAL_BLOCK + 1, 150]


def tensors(context: int, count: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(context)
    return [(scale * rng.standard_normal((2, 3, 8, context))).astype(np.float32) for _ in range(count)]


def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output and the probabilities [.., keys, queries]."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    score = k.swapaxes(-1, -2) @ q / np.sqrt(q.shape[-2])
    score[..., np.tril(np.ones(score.shape[-2:], bool), -1)] = -np.inf
    prob = np.exp(score - score.max(-2, keepdims=True))
    prob /= prob.sum(-2, keepdims=True)
    return v @ prob, prob


@pytest.mark.parametrize("context", CONTEXTS)
def test_attention_is_a_softmax_over_the_past(context: int):
    q, k, v = tensors(context, 3)
    np.testing.assert_allclose(causal_attention(*map(jnp.asarray, (q, k, v))), dense(q, k, v)[0], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("context", CONTEXTS)
def test_its_gradients_are_those_of_the_whole_square(context: int):
    q, k, v, out = tensors(context, 4)
    _, pull = jax.vjp(causal_attention, *map(jnp.asarray, (q, k, v)))
    _, prob = dense(q, k, v)
    d_prob = v.swapaxes(-1, -2).astype(np.float64) @ out
    d_score = prob * (d_prob - (prob * d_prob).sum(-2, keepdims=True)) / np.sqrt(q.shape[-2])
    expected = (k @ d_score, q @ d_score.swapaxes(-1, -2), out @ prob.swapaxes(-1, -2))
    for got, wanted in zip(pull(jnp.asarray(out)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_scores_too_large_for_an_exponential_stay_finite():
    """A run with too high a learning rate reaches them before it diverges."""
    q, k, v = tensors(96, 3, scale=30.0)
    _, pull = jax.vjp(causal_attention, *map(jnp.asarray, (q, k, v)))
    np.testing.assert_allclose(causal_attention(*map(jnp.asarray, (q, k, v))), dense(q, k, v)[0], rtol=1e-3, atol=1e-3)
    assert all(np.isfinite(gradient).all() for gradient in pull(jnp.asarray(v)))


def test_bfloat16_scores_are_summed_in_float32():
    q, k, v = tensors(150, 3)
    half = causal_attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), dense(q, k, v)[0], atol=0.03)


@pytest.mark.parametrize("context", CONTEXTS)
def test_products_run_over_the_pairs_that_blocks_leave(context: int):
    n, rest = divmod(context, CAUSAL_BLOCK)
    pairs = CAUSAL_BLOCK**2 * n * (n + 1) // 2 + rest * context
    program = jax.make_jaxpr(causal_attention)(*map(jnp.asarray, tensors(context, 3)))
    products = [equation for equation in program.jaxpr.eqns if equation.primitive.name == "dot_general"]
    scores = [product.outvars[0].aval.shape for product in products[::2]]  # the other ones meet the values
    assert sum(keys * queries for *_, keys, queries in scores) == pairs


def test_rotary_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (rotate(jnp.asarray(np.tile(rng.standard_normal((1, 1, 8, 1)), 20), jnp.float32))[0, 0] for _ in range(2))
    score_ExQ = np.asarray(k).T @ np.asarray(q)
    for distance in (0, 1, 7):
        diagonal = np.diagonal(score_ExQ, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=2e-5)
    assert abs(score_ExQ[0, 7] - score_ExQ[0, 1]) > 1e-2


def test_rotary_positions_keep_lengths_and_leave_the_first_alone():
    (x,) = tensors(20, 1)
    turned = np.asarray(rotate(jnp.asarray(x)))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=2), np.linalg.norm(x, axis=2), rtol=1e-5)
    np.testing.assert_array_equal(turned[..., 0], x[..., 0])
