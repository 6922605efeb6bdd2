import dataclasses
import math

import numpy as np
import pytest

from scaling.cost import at_width, count_params, flops_per_token, train_flops
from scaling.plan import Analysis, Plan, Planned, Study, isoflop, repeated, straight, trunks
from scaling.plan.clock import seconds
from scaling.plan.design import design
from scaling.spec import Refusal, RunSpec


@pytest.fixture
def grid(tiny: RunSpec) -> Plan:
    models = [at_width(tiny.model, d) for d in (8, 16, 32)]
    return trunks(tiny, models, [2000, 4000, 8000], group="grid")


def test_a_branch_is_its_trunk_and_a_cooldown(grid: Plan):
    trunks_by_id = {p.run.id: p.run for p in grid.with_role("trunk").runs}
    branches = grid.with_role("fitted").runs
    assert len(trunks_by_id) == 3 and len(branches) == 9
    for planned in branches:
        run = planned.run
        assert run.branch
        trunk = trunks_by_id[run.branch.trunk]
        assert trunk.model == run.model and trunk.optim.schedule == "constant"
        assert run.steps - run.optim.cooldown_steps == run.branch.step <= trunk.steps
        assert math.isclose(run.optim.cooldown_steps, 0.2 * run.steps, abs_tol=0.5)
    assert grid.faults() == []


def test_a_trunk_is_trained_no_longer_than_its_last_branch_needs(grid: Plan):
    for planned in grid.with_role("trunk").runs:
        assert max(grid.branch_steps(planned.run.id)) == planned.run.steps


def test_trunks_save_what_the_formula_says(tiny: RunSpec):
    """K horizons in ratio 2 with a cooldown of 0.2 cost 0.8 D + 0.2 (D + D/2 + ...) against D + D/2 + ..."""
    horizons = [16_000 * 2**i for i in range(5)]
    shared = trunks(tiny, [tiny.model], horizons, group="a").flops
    apart = straight(tiny, [tiny.model], horizons, group="a").flops
    expected = (0.8 * horizons[-1] + 0.2 * sum(horizons)) / sum(horizons)
    assert shared / apart == pytest.approx(expected, rel=0.005)


def test_an_isoflop_plan_spends_its_budgets(tiny: RunSpec):
    models = [at_width(tiny.model, d) for d in (8, 16, 32)]
    budgets = [2e8, 8e8]
    runs = [p.run for p in isoflop(tiny, models, budgets, group="iso").with_role("fitted").runs]
    for run, budget in zip(runs, budgets * 3, strict=True):
        step = run.batch_tokens * flops_per_token(run.model, "exact")
        assert abs(train_flops(run) - budget) <= step / 2


def test_resuming_is_a_set_difference(grid: Plan):
    done = {p.run.id for p in grid.runs[::2]}
    assert {p.run.id for p in grid.pending(done).runs} == {p.run.id for p in grid.runs} - done
    assert grid.pending(set()) == grid


def test_a_run_that_two_plans_ask_for_is_made_once(grid: Plan):
    assert grid + grid == grid
    assert len(grid + repeated(grid, [0])) == len(grid)


def test_replicates_differ_in_weights_and_order_alone(grid: Plan):
    again = repeated(grid, [1, 2])
    assert len(again) == 2 * len(grid) and again.faults() == []
    assert not {p.run.id for p in again.runs} & {p.run.id for p in grid.runs}
    for old, new in zip(grid.runs, again.runs, strict=False):
        assert new.run.seed == new.run.data.seed == 1
        back = dataclasses.replace(
            new.run, seed=0, data=dataclasses.replace(new.run.data, seed=0), branch=old.run.branch
        )
        assert back == old.run


def test_branches_follow_their_trunk_through_an_override(grid: Plan):
    changed = grid.overridden({"optim.peak_lr": "3e-3"})
    assert changed.faults() == []
    assert all(p.run.optim.peak_lr == 3e-3 for p in changed.runs)
    assert grid.overridden({}) == grid


def test_a_branch_that_is_not_its_trunks_is_a_fault(grid: Plan):
    orphan = Plan(grid.runs[1:])
    assert any("no trunk of the plan has this id" in line for line in orphan.faults())
    branch = grid.runs[1]
    hotter = dataclasses.replace(branch.run, optim=dataclasses.replace(branch.run.optim, peak_lr=1.0))
    alien = Plan((grid.runs[0], dataclasses.replace(branch, run=hotter)))
    assert any("differs from its branch" in line for line in alien.faults())


@pytest.mark.parametrize("group", ["", "../up", "<b>", "=cmd", "a\nb"])
def test_a_group_name_is_harmless(tiny: RunSpec, group: str):
    (line,) = Plan((Planned(run=tiny, group=group, role="fitted"),)).faults()
    assert line.startswith(f"group = {group!r}")


def test_a_constant_ratio_of_tokens_to_parameters_resolves_nothing(tiny: RunSpec):
    """D = 20 N: the exponents of N and D cannot be told apart (arXiv:2605.08541)."""
    models = [at_width(tiny.model, d) for d in (16, 32, 64, 128, 256, 512)]
    ray = Plan()
    for model in models:
        ray += straight(tiny, [model], [20 * count_params(model).matmul], group="ray")
    judged = design(ray, "matmul")
    assert judged and judged.span_ratio < 1.01 and judged.half_width == {} or judged.half_width["alpha"] > 5
    assert judged.warnings


def test_a_wider_span_of_ratios_resolves_more(tiny: RunSpec):
    models = [at_width(tiny.model, d) for d in (16, 32, 64, 128)]
    widths = []
    for top in (4, 16, 64):
        plan = trunks(tiny, models, np.geomspace(1e5, top * 1e5, 4).tolist(), group="grid")
        judged = design(plan, "matmul")
        assert judged
        widths.append(judged.half_width["exponent_n"])
    assert widths == sorted(widths, reverse=True)


def test_longer_runs_are_estimated_longer(grid: Plan):
    for model in {p.run.model for p in grid.runs}:
        times = [seconds(p) for p in grid.with_role("trunk").runs if p.run.model == model]
        assert min(times) > 0
    by_horizon = [seconds(p) for p in grid.with_role("fitted").runs[:3]]
    assert by_horizon == sorted(by_horizon)


def test_every_fault_of_a_study_is_named_at_once(grid: Plan):
    study = Study(
        name="a/b",
        question="?",
        plan=grid,
        held_out=grid,
        analysis=Analysis(algorithms={"SGD": "momentum"}, known_entropy="facts", level=1.5),
    )
    lines = study.faults()
    for beginning in ("name = ", "analysis.level", "analysis.algorithms", "analysis.known_entropy", "held_out"):
        assert any(line.startswith(beginning) for line in lines), beginning


def test_a_study_that_asks_for_more_text_than_there_is_is_refused(tiny: RunSpec):
    run = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, vocab_size=256),
        data=dataclasses.replace(tiny.data, source="bytes:stdlib"),
    )
    study = Study(name="long", question="?", plan=straight(run, [run.model], [1e9], group="a"))
    (line,) = study.faults()
    assert "max_epochs" in line


def test_combinators_refuse_a_faulty_base_with_every_fault(tiny: RunSpec):
    bad = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, peak_lr=0.0, beta1=2.0))
    with pytest.raises(Refusal) as refused:
        trunks(bad, [bad.model], [2000], group="a")
    assert len(refused.value.faults) == 2


def test_a_study_of_the_wrong_kinds_is_refused_by_field(grid: Plan):
    wrong = Study(name=3, question="?", plan=list(grid.runs))  # type: ignore[arg-type]
    assert [line.split(" = ")[0] for line in wrong.faults()] == ["name", "plan"]
    (line,) = Study(name="a", question="?", plan=grid, analysis=Analysis(level="0.9")).faults()  # type: ignore[arg-type]
    assert line.startswith("analysis.level")


def test_runs_that_an_override_makes_equal_are_a_fault(tiny: RunSpec):
    rates = Plan()
    for rate in (1e-3, 2e-3):
        run = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, peak_lr=rate))
        rates += straight(run, [run.model], [2000], group="rates")
    assert rates.faults() == []
    (line,) = rates.overridden({"optim.peak_lr": "1e-3"}).faults()
    assert "planned 2 times" in line


def test_a_held_out_run_is_not_in_the_plan(grid: Plan):
    twin = Plan(tuple(dataclasses.replace(p, role="held_out") for p in grid.runs[1:2]))
    lines = Study(name="a", question="?", plan=grid, held_out=twin).faults()
    assert any("nothing would be held out" in line for line in lines)
