"""The runs of a tuning are the study's own at multiples of their learning rate, and nothing else."""

import dataclasses
import math

import pytest

from scaling.cost import at_width, count_params
from scaling.plan import Plan, Study, repeated, straight, trunks
from scaling.plan.tuning import Cell, cells, extended, factor, ladder, tuning_plan
from scaling.spec import Refusal, RunSpec

TOKENS = [2000, 4000, 8000, 16000]


@pytest.fixture
def study(tiny: RunSpec) -> Study:
    """Five widths by four horizons on trunks, a repeated size, and straight runs of another algorithm."""
    models = [at_width(tiny.model, d) for d in (8, 16, 24, 32, 64)]
    plan = trunks(tiny, models, TOKENS, group="grid") + repeated(trunks(tiny, models[1:2], TOKENS, group="grid"), [1])
    sgd = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, name="sgd", peak_lr=0.1))
    return Study(name="s", question="?", plan=plan + straight(sgd, models[:2], TOKENS, group="SGD", role="compare"))


def planned(study: Study, rates: int = 5, seeds: int = 1, **how) -> tuple[tuple[Cell, ...], Plan]:
    chosen = cells(study, **how)
    return chosen, tuning_plan(chosen, lambda _: ladder(rates, 2.0), step=2.0, seeds=seeds)


def test_the_factor_1_is_the_run_of_the_study(study: Study):
    """Where the longest horizon is among the chosen its trunk is the study's too, so nothing is trained twice."""
    chosen, plan = planned(study, sizes=0, groups=["grid", "SGD"])
    ours = {p.run.id for p in plan.runs}
    for cell in chosen:
        assert cell.run.id in ours
        assert cell.trunk is None or cell.trunk.id in ours


def test_runs_differ_from_their_cell_in_the_rate_alone(study: Study):
    chosen, plan = planned(study, groups=["grid", "SGD"])
    assert plan.faults() == []
    own = {(c.run.model, c.run.tokens, c.run.optim.name): c.run for c in chosen}
    factors = []
    for p in plan.runs:
        if p.role == "trunk":
            continue
        cell = own[p.run.model, p.run.tokens, p.run.optim.name]
        factors.append(p.run.optim.peak_lr / cell.optim.peak_lr)
        back = dataclasses.replace(p.run, optim=cell.optim, branch=cell.branch)
        assert back == cell and (p.run.branch is None) == (cell.branch is None)
        if p.run.branch and cell.branch:
            assert p.run.branch.step == cell.branch.step
    assert sorted(set(factors)) == pytest.approx([0.25, 0.5, 1, 2, 4])
    assert all(factors.count(f) == len(chosen) for f in set(factors))


def test_a_trunk_is_trained_no_further_than_the_longest_chosen_branch(study: Study):
    horizons_of_a_shorter_study = tuple(p for p in study.plan.runs if p.role == "trunk" or p.run.tokens < 10_000)
    shorter = dataclasses.replace(study, plan=Plan(horizons_of_a_shorter_study))
    _, plan = planned(shorter)
    assert plan.faults() == []
    for p in plan.with_role("trunk").runs:
        assert max(plan.branch_steps(p.run.id)) == p.run.steps
    assert len(plan.with_role("trunk")) == 3 * 5  # one for each model and rate, both horizons on it


def test_chosen_sizes_and_horizons_hold_the_ends_and_are_even_in_logarithms(study: Study):
    chosen = cells(study)
    widths = list(dict.fromkeys(c.run.model.d_model for c in chosen))
    assert widths[0] == 8 and widths[-1] == 64 and len(widths) == 3
    n = [count_params(at_width(chosen[0].run.model, d)).matmul for d in (8, 16, 24, 32, 64)]
    middle = min((16, 24, 32), key=lambda d: abs(math.log(n[(8, 16, 24, 32, 64).index(d)] ** 2 / n[0] / n[-1])))
    assert widths[1] == middle
    ends = {c.run.tokens for c in cells(study, sizes=0, horizons=0)}
    assert {c.run.tokens for c in chosen} == {min(ends), max(ends)}
    assert len(cells(study, sizes=0, horizons=0)) == 20 and {c.run.seed for c in cells(study, sizes=0)} == {0}


def test_the_fitted_groups_are_tuned_unless_others_are_named(study: Study):
    assert {c.group for c in cells(study)} == {"grid"}
    assert {c.group for c in cells(study, groups=["SGD"])} == {"SGD"}
    compared = dataclasses.replace(study, plan=Plan(tuple(p for p in study.plan.runs if p.group == "SGD")))
    assert {c.group for c in cells(compared)} == {"SGD"}
    with pytest.raises(Refusal, match="did you mean grid"):
        cells(study, groups=["gird"])


def test_more_seeds_are_new_seeds_of_the_same_runs(study: Study):
    chosen, once = planned(study)
    _, thrice = planned(study, seeds=3)
    assert len(thrice) == 3 * len(once) and thrice.faults() == []
    assert {p.run.seed for p in thrice.runs} == {0, 1, 2} and set(once.runs) <= set(thrice.runs)


def test_ladders_are_centred_and_grow_by_two_on_one_side():
    assert ladder(5, 2.0) == (-2, -1, 0, 1, 2) and ladder(8, 1.5) == (-4, -3, -2, -1, 0, 1, 2, 3)
    assert extended((-2, -1, 0), 1) == (-2, -1, 0, 1, 2) and extended((-1, 0, 1), -1) == (-3, -2, -1, 0, 1)
    with pytest.raises(Refusal) as refused:
        ladder(2, 1.0)
    assert len(refused.value.faults) == 2


def test_ladders_of_two_and_of_its_root_meet_in_the_same_runs():
    root = 1.41421356
    assert [factor(root, 2 * k) for k in range(-3, 4)] == [factor(2.0, k) for k in range(-3, 4)]
    assert factor(root, 1) == math.sqrt(2) and factor(3.0, -2) == pytest.approx(1 / 9)
