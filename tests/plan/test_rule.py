"""How an optimizer's numbers move from a reference run to others."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scaling.cost import at_width, count_params
from scaling.plan import Rule, straight, trunks
from scaling.spec import Refusal, RunSpec


@pytest.fixture
def reference(tiny: RunSpec) -> RunSpec:
    optim = replace(tiny.optim, warmup_steps=50, weight_decay=0.1, beta2=0.99, cooldown_steps=400)
    return replace(tiny, steps=2000, batch=16, optim=optim)


def test_the_reference_run_is_a_fixed_point(reference: RunSpec):
    moved = Rule().apply(reference, reference, reference.tokens)
    limited = min(50, 100, int(count_params(reference.model).matmul / reference.batch_tokens))
    assert moved == replace(reference, optim=replace(reference.optim, warmup_steps=limited))


def test_batches_grow_with_tokens_and_no_run_is_starved_of_steps(reference: RunSpec):
    moved = [Rule().apply(reference, reference, reference.tokens * f) for f in (0.1, 0.3, 1, 4, 16, 64)]
    assert [run.batch for run in moved] == sorted(run.batch for run in moved)
    assert all(run.steps >= 1000 for run in moved)
    slope = np.polyfit(np.log([run.tokens for run in moved[2:]]), np.log([run.batch for run in moved[2:]]), 1)[0]
    assert slope == pytest.approx(0.45, abs=0.02)


def test_the_second_moment_forgets_over_the_same_tokens(reference: RunSpec):
    for factor in (0.2, 1, 30):
        run = Rule().apply(reference, reference, reference.tokens * factor)
        half_life = np.log(0.5) / np.log(run.optim.beta2) * run.batch_tokens
        assert half_life == pytest.approx(np.log(0.5) / np.log(0.99) * reference.batch_tokens)


def test_weight_decay_keeps_its_timescale_as_a_share_of_the_run(reference: RunSpec):
    for factor in (0.2, 1, 30):
        run = Rule().apply(reference, reference, reference.tokens * factor)
        share = run.optim.peak_lr * run.optim.weight_decay * run.steps
        assert share == pytest.approx(reference.optim.peak_lr * 0.1 * reference.steps)


def test_warm_up_is_a_small_share_of_the_run_and_no_longer_than_its_parameters(reference: RunSpec):
    for width in (16, 64):
        model = at_width(reference.model, width)
        for factor in (0.2, 1, 30):
            run = Rule().apply(reference, replace(reference, model=model), reference.tokens * factor)
            assert 1 <= run.optim.warmup_steps <= max(1, 0.05 * run.steps)
            assert run.optim.warmup_steps * run.batch_tokens <= max(run.batch_tokens, count_params(model).matmul)


def test_warm_up_may_be_a_share_of_the_run_alone(reference: RunSpec):
    long = replace(reference, optim=replace(reference.optim, warmup_steps=10**6))
    free = Rule(warmup_share=0.2, warmup_tokens=math.inf)
    for factor in (0.5, 1, 30):
        run = free.apply(reference, reference, reference.tokens * factor)
        assert run.optim.warmup_steps == 50
        run = free.apply(long, long, long.tokens * factor)
        assert run.optim.warmup_steps == int(0.2 * run.steps)
    with pytest.raises(Refusal, match="rule.warmup_tokens = 0"):
        Rule(warmup_tokens=0.0).apply(reference, reference, reference.tokens)


def test_the_best_rate_falls_with_the_horizon_at_a_fixed_batch(reference: RunSpec):
    fixed = Rule(batch_exponent=0.0)
    rates = [fixed.apply(reference, reference, reference.tokens * f).optim.peak_lr for f in (1, 10, 100)]
    assert rates[1] / rates[0] == pytest.approx(10**-0.3) and rates[2] / rates[1] == pytest.approx(10**-0.3)


def test_plans_by_the_rule_share_a_trunks_numbers_and_move_those_of_straight_runs(reference: RunSpec):
    tokens = [reference.tokens, 4 * reference.tokens]
    branched = trunks(reference, [reference.model], tokens, group="grid", rule=Rule())
    assert not branched.faults() and len({p.run.batch for p in branched.runs}) == 1
    longest = Rule().apply(reference, reference, tokens[-1])
    assert {p.run.optim.peak_lr for p in branched.runs} == {longest.optim.peak_lr}
    each = straight(reference, [reference.model], tokens, group="grid", rule=Rule())
    assert not each.faults() and [p.run.batch for p in each.runs] == [16, longest.batch]


@pytest.mark.parametrize("horizons", [(1 / 2, 1), (1 / 8, 1, 4), (1, 4)], ids=str)
def test_every_branch_of_a_trunk_keeps_the_rules_bounds(reference: RunSpec, horizons: tuple[float, ...]):
    tokens = [factor * reference.tokens for factor in horizons]
    plan = trunks(reference, [reference.model], tokens, group="grid", rule=Rule())
    assert not plan.faults()
    for planned in plan.with_role("fitted").runs:
        assert planned.run.steps >= 1000 and planned.run.optim.warmup_steps <= 0.05 * planned.run.steps


def test_under_sgd_the_rule_wants_to_be_told_how_the_rate_goes_with_the_batch(reference: RunSpec):
    sgd = replace(reference, optim=replace(reference.optim, name="sgd"))
    with pytest.raises(Refusal, match="is Adam's"):
        Rule().apply(sgd, sgd, sgd.tokens)
    assert Rule(lr_batch_exponent=1.0).apply(sgd, sgd, sgd.tokens).optim.peak_lr == pytest.approx(sgd.optim.peak_lr)


def test_what_the_rule_cannot_meet_is_refused_with_the_way_out(reference: RunSpec):
    with pytest.raises(Refusal, match="fewer than rule.min_steps = 1000; plan more tokens"):
        Rule().apply(reference, reference, 1000)
    with pytest.raises(Refusal, match="anchor it at a longer run"):
        Rule().apply(replace(reference, steps=600), reference, reference.tokens)
