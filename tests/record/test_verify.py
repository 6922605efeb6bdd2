import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli.main import main
from scaling.plan import Plan, trunks
from scaling.record import Failure, Ledger, manifest, table
from scaling.record.files import commit_json, commit_text
from scaling.record.seal import sealed
from scaling.record.verify import Finding, verify
from scaling.spec import Refusal, RunSpec
from tests.record.test_record import record_of


@pytest.fixture(scope="module")
def plan(tiny: RunSpec) -> Plan:
    return trunks(tiny, [tiny.model], [2000, 4000, 8000], group="grid")


def checkpoint(ledger: Ledger, run_id: str, step: int) -> None:
    folder = ledger.run_folder(run_id) / "checkpoints" / str(step)
    commit_text(folder / "weights" / "d" / "0", "weights" * 1000)
    (folder / manifest.NAME).write_text(manifest.make(folder, {"run": run_id, "step": step}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    """A folder as a sweep leaves it that has one run to go."""
    ledger = Ledger(tmp_path_factory.mktemp("whole") / "out")
    study = {"name": "s", "question": "?", "analysis": {}, "plan": plan.to_json()}
    commit_json(ledger.folder / "study.json", study)
    for i, p in enumerate(plan.runs):
        rows = [{"step": step, "loss": 3.0 / step} for step in range(1, p.run.steps + 1)]
        if i == 1:  # stopped, and gone on with: no row
            rows.insert(4, {"step": 4, "open": [[2.5, 1.0]]})
        commit_text(ledger.begin(p.run) / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        (ledger.run_folder(p.run.id) / "claim.000001").touch()
        if p is not plan.runs[-1]:
            ledger.commit(record_of(p.run, loss=None if p.role == "trunk" else 1 + i / 7))
    for step in plan.branch_steps(plan.runs[0].run.id):
        checkpoint(ledger, plan.runs[0].run.id, step)
    checkpoint(ledger, plan.runs[-1].run.id, 7)
    commit_json(ledger.folder / "forecast.json", [])
    commit_json(ledger.folder / "fits" / "noise.json", {})
    table.write(ledger)
    return ledger.folder


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Ledger:
    return Ledger(Path(shutil.copytree(whole, tmp_path / "out")))


def found(ledger: Ledger, **how: bool) -> list[Finding]:
    return verify(ledger, **how).findings


def test_a_folder_that_nobody_touched_is_sound(ledger: Ledger, plan: Plan):
    seen = verify(ledger)
    assert not seen.findings
    assert seen.counts["planned runs"] == len(plan) and seen.counts["records"] == len(plan) - 1
    assert seen.counts["checkpoints"] == 4


def change(name: str, how: Callable[[str], str]) -> Callable[[Ledger, Plan], None]:
    """Of the file `name` of the second run, or beside the runs."""

    def act(ledger: Ledger, plan: Plan) -> None:
        home = ledger.folder if name.split("/")[0] in BESIDE else ledger.run_folder(plan.runs[1].run.id)
        (home / name).write_text(how((home / name).read_text() if (home / name).exists() else ""))

    return act


def flip(ledger: Ledger, plan: Plan) -> None:
    path = ledger.run_folder(plan.runs[-1].run.id) / "checkpoints" / "7" / "weights" / "d" / "0"
    path.write_bytes(path.read_bytes().replace(b"s", b"r", 1))


def plan_of(ledger: Ledger, plan: Plan, **changes: object) -> None:
    study = json.loads((ledger.folder / "study.json").read_text())
    study["plan"][1] |= changes
    commit_json(ledger.folder / "study.json", study)


def forge(ledger: Ledger, plan: Plan, **changes: object) -> None:
    """A record that is changed and sealed again."""
    path = ledger.run_folder(plan.runs[1].run.id) / "record.json"
    values = json.loads(path.read_text())
    commit_json(path, sealed(values | changes))


BESIDE = ("study.json", "runs.csv", "forecast.json", "tuning.json", "fits")
LINE = '{{"step": {}, "loss": 1.0}}\n'
FAULTS: dict[str, tuple[Callable[[Ledger, Plan], object], str, str]] = {  # what is done, where, what is said
    "study torn": (change("study.json", lambda t: t[:-30]), "study.json", "not the study"),
    "study of a stranger": (lambda e, p: plan_of(e, p, id="../../../etc"), "study.json", "twelve hex digits"),
    "planned id": (lambda e, p: plan_of(e, p, run=p.to_json()[2]["run"]), "study.json", "not the hash of its run"),
    "record torn": (change("record.json", lambda t: t[:-30]), "record.json", "not a run record"),
    "record edited": (change("record.json", lambda t: t.replace("1.1", "1.2")), "record.json", "as it was written"),
    "record of another": (lambda e, p: forge(e, p, id=p.runs[2].run.id), "record.json", "that of run"),
    "record of another run": (lambda e, p: forge(e, p, run=p.to_json()[2]["run"]), "record.json", "the hash"),
    "record nested": (change("record.json", lambda t: "[" * 10**5), "record.json", "nested too deeply"),
    "spec of another": (change("spec.json", lambda t: t.replace('"seed": 0', '"seed": 5')), "spec.json", "of run"),
    "spec torn": (change("spec.json", lambda t: t[:-9]), "spec.json", "not what the run is"),
    "curve edited": (change("metrics.jsonl", lambda t: t.replace("3.0", "3.1")), "metrics.jsonl", "sha256"),
    "curve longer": (change("metrics.jsonl", lambda t: t + LINE.format(10**6)), "metrics.jsonl", "sha256"),
    "curve lost": (
        lambda e, p: (e.run_folder(p.runs[1].run.id) / "metrics.jsonl").unlink(), "metrics.jsonl", "not here"),
    "weights flipped": (flip, "checkpoints/7", "sha256"),
    "failure torn": (change("failure.json", lambda t: "{"), "failure.json", "does not say why"),
    "older record": (change("record.0.json", lambda t: "{"), "record.0.json", "not an older record"),
    "table edited": (change("runs.csv", lambda t: t.replace("1.1428", "1.1429")), "runs.csv", "not what the records"),
    "table of more": (change("runs.csv", lambda t: t + t.splitlines()[1] + "x\n"), "runs.csv", "not what the records"),
    "forecast torn": (change("forecast.json", lambda t: "["), "forecast.json", "cannot be read"),
    "fit torn": (change("fits/noise.json", lambda t: "{"), "fits/noise.json", "cannot be read"),
    "tuning torn": (change("tuning.json", lambda t: "{}"), "tuning.json", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FAULTS)
def test_every_damage_is_found_where_it_is(ledger: Ledger, plan: Plan, damage: str):
    act, where, what = FAULTS[damage]
    act(ledger, plan)
    faults = [finding for finding in found(ledger) if finding.level == "fault"]
    assert faults and all(where in one.where and one.way_out for one in faults), faults
    assert any(what in one.what for one in faults), faults


NOTES: dict[str, tuple[Callable[[Ledger, Plan, Path], object], str]] = {
    "older record": (lambda e, p, f: os.link(f / "record.json", f / "record.0.json"), "opened again"),
    "set aside": (lambda e, p, f: (f / "checkpoints" / "bad-5").mkdir(parents=True), "set aside"),
    "half written": (lambda e, p, f: (f / ".record.json.0a.part").touch(), "half written"),
    "half saved": (lambda e, p, f: (f / "checkpoints" / ".5.0a.part").mkdir(parents=True), "half written"),
    "half a table": (lambda e, p, f: (e.folder / ".runs.csv.0a.part").touch(), "half written"),
    "no manifest": (lambda e, p, f: (f / "checkpoints" / "5").mkdir(parents=True), "no manifest"),
    "strange folder": (lambda e, p, f: (e.folder / "runs" / "my notes\n").mkdir(), "not the folder of a run"),
    "strange file": (lambda e, p, f: (f / "todo.txt").touch(), "not a file of a run"),
    "not planned": (lambda e, p, f: e.begin(replace(p.runs[1].run, seed=77)), "does not plan"),
    "given up": (
        lambda e, p, f: e.fail(p.runs[-1].run.id, Failure(kind="hang", reason="h", attempts=3)), "given up (hang): h"),
    "left a failure": (
        lambda e, p, f: e.fail(p.runs[1].run.id, Failure(kind="hang", reason="h", attempts=3)), "has a record"),
    "no seal": (lambda e, p, f: commit_json(f / "record.json", e[p.runs[1].run.id].to_json()), "no seal"),
    "older table": (
        lambda e, p, f: e.commit(record_of(p.runs[-1].run, loss=1.25)), "older than some records"),
    "pending curve": (
        lambda e, p, f: (e.run_folder(p.runs[-1].run.id) / "metrics.jsonl").write_text(LINE.format(5) * 2),
        "line 2 is no row (step 5 comes after step 5)"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTES)
def test_what_is_worth_knowing_is_said_and_is_no_fault(ledger: Ledger, plan: Plan, what: str):
    act, said = NOTES[what]
    act(ledger, plan, ledger.run_folder(plan.runs[1].run.id))
    findings = found(ledger)
    assert findings and {one.level for one in findings} == {"note"}, findings
    assert any(said in one.what for one in findings), findings


@pytest.mark.parametrize("unsealed", [LINE.format(1) * 2, LINE.format(10**6), "torn", LINE.format(1) + "[1]\n"])
def test_a_curve_is_read_where_no_seal_tells(ledger: Ledger, plan: Plan, unsealed: str):
    folder = ledger.run_folder(plan.runs[1].run.id)
    commit_json(folder / "record.json", ledger[plan.runs[1].run.id].to_json())
    (folder / "metrics.jsonl").write_text(unsealed)
    (fault,) = [one for one in found(ledger) if one.level == "fault"]
    assert "metrics.jsonl" in fault.where and "is no row" in fault.what


@pytest.mark.parametrize("where", ["runs/{}", "runs/{}/checkpoints", "runs/{}/record.json", "fits/more"])
def test_a_link_that_leads_out_is_a_fault_and_is_not_followed(ledger: Ledger, plan: Plan, tmp_path: Path, where: str):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "strange").touch()
    link = ledger.folder / where.format(plan.runs[-1].run.id)
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(outside)
    findings = found(ledger)
    assert any(one.level == "fault" and "a link" in one.what for one in findings), findings
    assert not any("strange" in one.where for one in findings)


def test_quick_leaves_out_the_weights_alone(ledger: Ledger, plan: Plan):
    flip(ledger, plan)
    assert not found(ledger, quick=True)
    change("metrics.jsonl", lambda text: text.replace("3.0", "3.1"))(ledger, plan)
    assert found(ledger, quick=True)


def test_the_folder_of_a_tuning_is_verified_with_it(ledger: Ledger, plan: Plan):
    shutil.copytree(ledger.folder, ledger.folder.parent / "copy")
    (ledger.folder.parent / "copy").rename(ledger.folder / "tuning")
    assert not found(ledger)
    change("metrics.jsonl", lambda text: "")(Ledger(ledger.folder / "tuning"), plan)
    (fault,) = found(ledger)
    assert fault.where.startswith("tuning/runs/")


def test_a_published_table_is_checked_against_its_plan(ledger: Ledger, plan: Plan):
    shutil.rmtree(ledger.folder / "runs")
    assert [one.level for one in found(ledger)] == ["note"]
    change("runs.csv", lambda text: text.replace(plan.runs[1].run.id, plan.runs[2].run.id))(ledger, plan)
    assert [one.what.split(": ")[1] for one in found(ledger) if one.level == "fault"] == ["has 2 rows"]


def test_the_status_of_verify_says_what_it_found(ledger: Ledger, plan: Plan, capsys: pytest.CaptureFixture):
    assert main(["verify", str(ledger.folder)]) == 0
    assert "no faults, no notes" in capsys.readouterr().out
    (ledger.folder / "runs" / "[red]").mkdir()
    change("record.json", lambda text: text[:-30])(ledger, plan)
    assert main(["verify", str(ledger.folder), "--quick"]) == 1
    said = capsys.readouterr().out
    assert "runs/[red]: not the folder of a run" in said and "1 fault, 1 note" in said
    assert main(["verify", str(ledger.folder), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["faults"] == 1 and {one["level"] for one in document["findings"]} == {"fault", "note"}
    assert main(["verify", str(ledger.folder / "runs")]) == 2
    with pytest.raises(Refusal, match="not a results folder"):
        verify(Ledger(ledger.folder / "nothing"))


def test_a_table_on_standard_output_is_that_of_the_file(ledger: Ledger, capsys: pytest.CaptureFixture):
    assert main(["table", str(ledger.folder)]) == 0
    assert capsys.readouterr().out == (ledger.folder / "runs.csv").read_text()
    assert main(["table", str(ledger.folder), "--json"]) == 0
    rows = [{n: None if v == "" and n not in table.TEXTS else v for n, v in row.items()} for row in table.rows(ledger)]
    assert json.loads(capsys.readouterr().out) == rows
    assert main(["table", str(ledger.folder / "runs")]) == 2
