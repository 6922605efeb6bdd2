"""Estimates of time: what was measured, and between and beside that a law that cannot go far wrong."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling import machine
from scaling.cli import main
from scaling.cost import at_width, count_params, flops_per_token
from scaling.machine import Shape, Speed
from scaling.plan import Plan, Planned, straight, trunks
from scaling.plan.clock import BESIDE_SECONDS, SECONDS_PER_RUN, estimator, seconds
from scaling.spec import ModelSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def base(tiny: RunSpec) -> RunSpec:
    return replace(tiny, model=MODEL)


def planted(run: RunSpec) -> float:
    """Seconds per trained token of an imaginary machine: 50 GFLOP/s, 20 ns a weight and step, 0.2 ms a step."""
    per_step = 2e-4 + 2e-8 * count_params(run.model).total
    return flops_per_token(run.model, "exact") / 5e10 + per_step / run.batch_tokens


def speed(run: RunSpec, **how) -> Speed:
    values = dict(
        workers=2, spread=0.0, compile_cold=6.0, compile_cached=1.0, per_run=0.25, memory=0, date="2026-11-26"
    )
    values |= dict(train=planted(run), evaluate=flops_per_token(run.model, "exact") / 3 / 5e10)
    return Speed(shape=Shape.of(run), **(values | how))


def keep(*runs: RunSpec, **how) -> None:
    machine.keep("cpu", 2.0, [speed(run, **how) for run in runs])


def grid(base: RunSpec, widths=(8, 16, 32, 64, 128), batches=(4, 16, 64)) -> list[RunSpec]:
    return [replace(base, model=at_width(MODEL, d), batch=b) for d, b in itertools.product(widths, batches)]


def planned(run: RunSpec, role="fitted") -> Planned:
    return Planned(run=run, group="grid", role=role)


def test_a_measured_shape_takes_what_was_measured(base: RunSpec):
    run = replace(base, steps=1000)
    keep(run, replace(run, batch=99), train=3e-6, evaluate=1e-6)
    assert seconds(planned(run)) == pytest.approx(0.25 + 3e-6 * run.tokens + 1e-6 * run.eval.tokens)
    assert seconds(planned(run, "trunk")) == pytest.approx(0.25 + 3e-6 * run.tokens)
    trunk, branch = trunks(run, [run.model], [run.tokens], group="grid").runs
    own = branch.run.steps - branch.run.branch.step
    assert seconds(branch) == pytest.approx(0.25 + 3e-6 * own * run.batch_tokens + 1e-6 * run.eval.tokens)


def test_without_a_table_the_constants_of_another_machine_stand_in_and_it_is_said(base: RunSpec):
    assert seconds(planned(base)) > SECONDS_PER_RUN
    assert "constants of another machine" in estimator().source(Plan())


def test_shapes_between_those_measured_are_within_a_tenth_of_the_planted_machine(base: RunSpec):
    keep(*grid(base))
    for run in grid(replace(base, steps=100_000), widths=(24, 48, 96), batches=(8, 32)):
        assert seconds(planned(run, "trunk")) == pytest.approx(0.25 + planted(run) * run.tokens, rel=0.1)


def test_one_measured_shape_puts_the_others_at_its_level(base: RunSpec):
    """Ten times as slow a machine, ten times as long a time."""
    other = planned(replace(base, model=at_width(MODEL, 48), steps=10_000_000))
    keep(base)
    once = seconds(other)
    keep(base, train=10 * planted(base), evaluate=speed(base).evaluate * 10)
    assert seconds(other) == pytest.approx(10 * once, rel=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_larger_model_never_takes_less_time_a_token_whatever_the_noise(base: RunSpec, noise: float):
    rng = np.random.default_rng(0)
    for run in grid(base, widths=(8, 24, 64), batches=(4, 64)):
        keep(run, train=planted(run) * np.exp(noise * rng.standard_normal()))
    for batch in (2, 8, 256):
        sizes = grid(replace(base, steps=10_000), widths=(16, 32, 48, 96, 256), batches=(batch,))
        times = [seconds(planned(run, "trunk")) for run in sizes]
        assert times == sorted(times) and min(times) > 0


def test_a_sweep_takes_no_less_than_its_work_and_its_longest_chain(base: RunSpec):
    plan = trunks(base, [at_width(MODEL, d) for d in (8, 16, 32)], [2e5, 4e5, 8e5], group="grid")
    plan += straight(base, [at_width(MODEL, 32)], [1e6], group="held out", role="held_out")
    keep(*(p.run for p in plan.runs if p.run.branch is None))
    clock, shapes = estimator(2), 3
    each = {p.run.id: clock.seconds(p) for p in plan.runs}
    for workers in (1, 2, 5):
        wall = clock.wall(plan, workers)
        held_out = each[plan.runs[-1].run.id]
        chains = [sum(each[p.run.id] for p in plan.runs if p.run.model == m.run.model and p.role != "held_out") / 3
                  for m in plan.runs]  # fmt: skip
        assert wall >= max(sum(each.values()) / workers, held_out + max(chains)) + clock.start
        assert wall <= BESIDE_SECONDS + clock.start + sum(each.values()) + shapes * (6.0 + workers)
    assert clock.wall(plan, 1) > clock.wall(plan, 2) >= clock.wall(plan, 5)


def test_a_shape_is_compiled_once_and_then_read_back(base: RunSpec):
    plan = Plan(tuple(planned(replace(base, seed=seed, steps=200_000)) for seed in range(4)))
    keep(base)
    clock = estimator(2)
    own = clock.seconds(plan.runs[0])
    assert clock.wall(plan, 1) == pytest.approx(BESIDE_SECONDS + 2.0 + 6.0 + 4 * own)
    assert clock.wall(plan, 2) == pytest.approx(
        BESIDE_SECONDS + 2.0 + 6.0 + 1.0 + 2 * own
    )  # the second waits, and reads
    assert clock.wall(plan.pending({p.run.id for p in plan.runs}), 2) == 0


def test_branches_of_a_recorded_trunk_do_not_wait(base: RunSpec):
    plan = trunks(base, [MODEL], [2e5, 4e5], group="grid")
    keep(base)
    clock = estimator(1)
    left = plan.pending({plan.runs[0].run.id})
    assert clock.wall(left, 1) == pytest.approx(BESIDE_SECONDS + 2.0 + 6.0 + sum(clock.seconds(p) for p in left.runs))


def test_speeds_of_another_number_of_workers_are_named(base: RunSpec):
    keep(base, workers=8, train=5e-6)
    keep(base, workers=1, train=1e-6)
    assert estimator(6).speeds[0].train == 5e-6 and "8 workers" in estimator(6).source(Plan((planned(base),)))
    assert estimator(1).speeds[0].train == 1e-6


def test_a_plan_says_where_its_estimate_is_from(tmp_path: Path, capsys: pytest.CaptureFixture):
    def said() -> str:
        assert main(["plan", "smoke", "--out", str(tmp_path / "out")]) == 0
        return capsys.readouterr().out

    assert "by constants of another machine's CPU; `scaling bench EXPERIMENT` measures this one" in said()
    from experiments.smoke import STUDY

    first = STUDY.plan.runs[0].run
    keep(first)
    assert "by this machine's table of 2026-11-26, measured with 2 workers; 2 of its shapes by interpolation" in said()
    keep(*(p.run for p in STUDY.runs.runs))
    assert "interpolation" not in said()
    assert main(["plan", "smoke", "--out", str(tmp_path / "out"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds_by_run"].keys() == set(plan["pending"]) and "table of" in plan["seconds_from"]
    machine.table_path().write_text("{")
    text = said()
    assert "it is ignored" in text and "constants of another machine" in text
