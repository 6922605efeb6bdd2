import dataclasses

import pytest

from scaling.cost import (
    at_width,
    count_flops,
    count_params,
    flops_per_token,
    marginal_flops,
    nearest_shape,
    optimizer_flops,
    train_flops,
)
from scaling.spec import Branch, ModelSpec, Refusal, RunSpec

# Agreement with the built model and with its traced program is in tests/train/test_accounting.py.

GPT2_SMALL = ModelSpec(
    n_layers=12, d_model=768, d_ff=3072, d_head=64, vocab_size=50257, context=1024, positions="learned", tied=True
)


def test_gpt2_small_has_its_published_size():
    """124.4M less the biases, which this model has not: 12 (9 d + 2 d of norms) + d = 102k."""
    counts = count_params(GPT2_SMALL)
    assert counts.kaplan == 12 * 12 * 768**2 == 84_934_656
    assert counts.total == 124_337_664
    assert counts.matmul == counts.kaplan + 50257 * 768


def test_conventions_differ_by_their_components():
    counts = count_params(dataclasses.replace(GPT2_SMALL, tied=False))
    assert counts.total - counts.matmul == counts.embedding + counts.positions + counts.norms
    assert counts.matmul - counts.kaplan == counts.head


def test_a_token_meets_half_the_context_on_average():
    flops = count_flops(GPT2_SMALL)
    pairs = sum(range(1, 1025))  # a causal square, its diagonal included
    assert flops.scores_causal * 1024 == 3 * 2 * 2 * 12 * 768 * pairs
    assert flops.scores_dense * 1024 == 3 * 2 * 2 * 12 * 768 * 1024**2


def test_elementwise_work_is_counted_and_is_not_in_exact():
    rotary = dataclasses.replace(GPT2_SMALL, positions="rotary")
    blind = dataclasses.replace(rotary, attention="none")
    assert count_flops(GPT2_SMALL).positions == 3 * 768
    assert count_flops(rotary).positions == 3 * 12 * 2 * 3 * 768
    assert count_flops(blind).positions == 0
    assert count_flops(blind).norms == 3 * 13 * 4 * 768 and count_flops(rotary).norms == 3 * 25 * 4 * 768
    assert count_flops(rotary).embedding == 0
    assert count_flops(rotary).exact == count_flops(GPT2_SMALL).exact


def test_the_optimizer_costs_the_same_whatever_the_batch(tiny: RunSpec):
    assert optimizer_flops(tiny) == 16 * count_params(tiny.model).total
    assert optimizer_flops(dataclasses.replace(tiny, batch=2 * tiny.batch)) == optimizer_flops(tiny)
    sgd = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, name="sgd"))
    assert optimizer_flops(sgd) == 8 * count_params(tiny.model).total


def test_without_scores_exact_flops_are_six_per_matmul_parameter():
    blind = dataclasses.replace(GPT2_SMALL, attention="none")
    assert flops_per_token(blind, "exact") == flops_per_token(blind, "matmul") == 6 * count_params(blind).matmul


def test_conventions_of_compute_are_six_n(tiny: RunSpec):
    counts = count_params(tiny.model)
    assert train_flops(tiny, "kaplan") == 6 * counts.kaplan * tiny.tokens
    assert train_flops(tiny, "chinchilla") == 6 * counts.total * tiny.tokens
    assert train_flops(tiny) > train_flops(tiny, "matmul")


def test_a_branch_pays_for_its_cooldown_alone(tiny: RunSpec):
    branch = dataclasses.replace(tiny, branch=Branch(trunk="0" * 12, step=16))
    assert marginal_flops(branch) == train_flops(tiny) * 4 // 20
    assert marginal_flops(tiny) == train_flops(tiny) == train_flops(branch)


@pytest.mark.parametrize("target", [1e5, 1e6, 3.3e7])
def test_the_nearest_shape_is_the_nearest(target: float):
    base = ModelSpec(n_layers=3, d_model=64, d_ff=256, d_head=4, vocab_size=256, context=64)
    best = nearest_shape(base, target, "matmul")
    miss = abs(count_params(best).matmul / target - 1)
    assert miss <= 0.05
    for width in (best.d_model - 4, best.d_model + 4):
        assert abs(count_params(at_width(base, width)).matmul / target - 1) >= miss


def test_a_size_between_two_shapes_is_refused_with_the_nearest():
    base = ModelSpec(n_layers=3, d_model=64, d_ff=256, d_head=64, vocab_size=256, context=64)
    with pytest.raises(Refusal, match=r"nearest width in heads of 64 is 64 with 163840"):
        nearest_shape(base, 2.2e5, "matmul")
