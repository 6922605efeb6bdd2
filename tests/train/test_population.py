from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scaling.spec import RunSpec
from scaling.train import Placement, fastest, population

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch):
    """Planted rates by members, in the place of trials; returns what was tried."""
    tried: list[int] = []

    def plant(rate_of) -> list[int]:
        def rate(run, compiled) -> float:
            tried.append(compiled.members)
            return rate_of(compiled.members)

        monkeypatch.setattr(population, "member_steps_per_second", rate)
        monkeypatch.setattr(population, "program", lambda *_, members: SimpleNamespace(members=members, memory=2))
        return tried

    return plant


def test_a_population_grows_while_it_gains(tiny: RunSpec, tmp_path: Path, rates):
    """A chip that is full at two members: four gain on one, sixteen gain nothing on four, more is not tried."""
    tried = rates(lambda members: min(members, 2) * 100.0)
    assert fastest(tiny, 32, known=tmp_path / "known.json", placement=Placement()) == 4
    assert tried == [1, 4, 16]


def test_where_nothing_is_gained_runs_go_one_at_a_time(tiny: RunSpec, tmp_path: Path, rates):
    rates(lambda members: 100.0)
    assert fastest(tiny, 4, known=tmp_path / "known.json", placement=Placement()) == 1


def test_a_shape_is_tried_once_on_a_machine(tiny: RunSpec, tmp_path: Path, rates):
    tried = rates(lambda members: 100.0 * members)
    known = tmp_path / "known.json"
    assert fastest(tiny, 4, known=known, placement=Placement()) == 4
    assert fastest(replace(tiny, seed=3, optim=replace(tiny.optim, peak_lr=0.1)), 4, known=known,
                   placement=Placement()) == 4  # fmt: skip
    assert tried == [1, 4]
    fastest(replace(tiny, batch=4), 4, known=known, placement=Placement())
    assert tried == [1, 4, 1, 4]


def test_a_population_that_does_not_fit_is_not_tried(
    tiny: RunSpec, tmp_path: Path, rates, monkeypatch: pytest.MonkeyPatch
):
    tried = rates(lambda members: 100.0 * members)
    monkeypatch.setattr(population, "memory_limit", lambda: 1.0)
    assert fastest(tiny, 4, known=tmp_path / "known.json", placement=Placement()) == 1 and tried == []


def test_a_trial_times_real_steps(tiny: RunSpec):
    from scaling.spec import compiled_in
    from scaling.train.program import program

    for members in (1, 4):
        shape = (tiny.model, compiled_in(tiny.optim), tiny.batch, tiny.eval.tokens, Placement())
        compiled = program(*shape, members=members)
        assert 10 < population.member_steps_per_second(tiny, compiled) < 1e6
