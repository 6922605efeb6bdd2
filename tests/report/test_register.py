"""A forecast is written before its run is trained, once, and never after it."""

import dataclasses
import json
from pathlib import Path

import pytest

from scaling.cost import at_width
from scaling.plan import Plan, Study, straight, trunks
from scaling.record import Ledger, RunRecord, table
from scaling.record.files import commit_json
from scaling.report import findings
from scaling.report.findings import find, register
from scaling.spec import RunSpec


def record(run: RunSpec, trunk: bool) -> RunRecord:
    loss = 1.5 + 40 * run.model.d_model**-1.0 / 10 + 30 * run.tokens**-0.4
    return RunRecord(
        run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0,
        loss=None if trunk else loss, loss_se=None if trunk else 0.01, bits_per_byte=None, entropy=None, clock=None,
        data={}, machine={},
    )  # fmt: skip


@pytest.fixture
def held_out(tiny: RunSpec) -> Plan:
    return straight(tiny, [at_width(tiny.model, 48)], [64_000], group="held-out", role="held_out")


@pytest.fixture
def ledger(tiny: RunSpec, held_out: Plan, tmp_path: Path) -> Ledger:
    """Every fitted run is recorded; the held-out one is not."""
    plan = trunks(tiny, [at_width(tiny.model, d) for d in (8, 16, 24, 32)], [4e3, 8e3, 1.6e4, 3.2e4], group="grid")
    commit_json(tmp_path / "study.json", Study(name="s", question="?", plan=plan, held_out=held_out).to_json())
    for planned in plan.runs:
        Ledger(tmp_path).commit(record(planned.run, planned.role == "trunk"))
    table.write(Ledger(tmp_path))
    return Ledger(tmp_path)


def test_what_is_registered_stands(ledger: Ledger):
    (line,) = register(ledger)
    assert "before it was trained" in line
    before = (ledger.folder / "forecast.json").read_bytes()
    assert register(ledger) == [line] and (ledger.folder / "forecast.json").read_bytes() == before


def test_a_trained_run_gets_no_forecast(ledger: Ledger, held_out: Plan):
    ledger.commit(record(held_out.runs[0].run, trunk=False))
    (line,) = register(ledger)
    assert line == f"no forecast of {held_out.runs[0].run.id}: it was trained before one could be made"
    assert not (ledger.folder / "forecast.json").exists()


def test_another_held_out_run_gets_its_own_forecast_and_the_old_one_is_not_passed_off_as_its(
    ledger: Ledger, held_out: Plan
):
    register(ledger)
    other = dataclasses.replace(held_out.runs[0], run=dataclasses.replace(held_out.runs[0].run, seed=1))
    study = ledger.study()
    plan = [planned for planned in study["plan"] if planned["role"] != "held_out"] + Plan((other,)).to_json()
    commit_json(ledger.folder / "study.json", study | {"plan": plan})
    register(ledger)
    assert len(json.loads((ledger.folder / "forecast.json").read_text())) == 2
    assert [said.run_id for said in find(ledger).registered] == [other.run.id]


def test_of_participants_that_register_at_once_the_first_one_stands(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    path, theirs = ledger.folder / "forecast.json", []

    def overtaken(*words, **how):
        """Another participant writes while we fit."""
        if not theirs:
            theirs.append(None)
            register(ledger)
            theirs.append(path.read_bytes())
        return fit_laws(*words, **how)

    fit_laws = findings.fit_laws
    monkeypatch.setattr(findings, "fit_laws", overtaken)
    (line,) = register(ledger)
    assert "before it was trained" in line and path.read_bytes() == theirs[1]
