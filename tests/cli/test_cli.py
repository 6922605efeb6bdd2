"""The command as a person meets it: verdicts, exit statuses, and what is written."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.cli import main, sweep
from scaling.cli.main import COMMANDS
from scaling.plan import Plan, Planned, Study
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

STUDY = """
from scaling.cost import at_width
from scaling.plan import Analysis, Study, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=12)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=1e-2, warmup_steps=2), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=1200), batch=8, steps=1,
)
STUDY = Study(
    name="tiny", question="Does it work?",
    plan=trunks(BASE, [at_width(MODEL, d) for d in (8, 16, 32)], [2000, 4000, 8000], group="grid"),
    held_out=straight(BASE, [at_width(MODEL, 32)], [16000], group="held-out", role="held_out"),
    analysis=Analysis(laws=("chinchilla",), bootstrap=0),
)
"""

CSV = "n_params,tokens,loss\n" + "".join(
    f"{n},{d},{1.7 + 400 * n**-0.34 + 900 * d**-0.3!r}\n" for n in (1e6, 3e6, 1e7, 3e7) for d in (1e8, 3e8, 1e9)
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(STUDY)
    return path


def scaling(*words: str, **how) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "scaling", *words], capture_output=True, text=True, **how)


def refused(capsys: pytest.CaptureFixture, *words: str) -> list[str]:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_help_answers_at_once():
    """By the processor's time: the other tests are at work on the same cores."""
    spent = []
    for _ in range(3):
        before = os.times()
        assert scaling("--help").returncode == 0
        after = os.times()
        spent.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(spent) < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and f"example:\n  scaling {command}" in text


def test_a_plan_is_printed_within_two_seconds_and_writes_nothing(study: Path):
    before = set(study.parent.iterdir())
    started = time.monotonic()
    done = scaling("plan", str(study), "--json", cwd=study.parent)
    assert time.monotonic() - started < 2.0
    plan = json.loads(done.stdout)
    assert len(plan["plan"]) == len(plan["pending"]) == 13 and plan["design"]["sizes"] == 3
    assert plan["flops"] == plan["pending_flops"] > 0
    assert {p for p in study.parent.iterdir() if p.name != "__pycache__"} == before


def test_a_bad_study_is_refused_with_every_fault_before_jax(study: Path):
    study.write_text(STUDY.replace("peak_lr=1e-2", "peak_lr=-1.0, beta1=2.0").replace("batch=8", "batch=0"))
    started = time.monotonic()
    done = scaling("run", str(study), cwd=study.parent)
    assert time.monotonic() - started < 2.0
    assert done.returncode == 2 and done.stdout == ""
    for field in ("optim.peak_lr = -1", "optim.beta1 = 2", "batch = 0"):
        assert len(re.findall(re.escape(field), done.stderr)) == 1
    assert "Traceback" not in done.stderr and not (study.parent / "results").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["plan", "quickstrat"], "did you mean quickstart?"),
        (["plan", "no/such/file.py"], "there is no such file"),
        (["run", "STUDY", "--set", "optim.peek_lr=1"], "did you mean peak_lr?"),
        (["run", "STUDY", "--set", "steps"], "must be FIELD=VALUE"),
        (["run", "STUDY", "--set", "data.source=bytes:stdlbi"], "did you mean bytes:stdlib?"),
        (["run", "STUDY", "--set", "data.source=text:/no/such/text", "--set", "model.vocab_size=256"], "/no/such/text"),
        (["plan", "STUDY", "--set", "data.corrupted=0.1"], "data.corrupted = 0.1: zipf-facts has noise of its own"),
        (["plan", "STUDY", "--set", "data.unique_tokens=120"], "data.max_epochs to at least"),
        (["plan", "STUDY", "--set", "data.duplicated=0.1"], "data.duplicated = 0.1: needs data.duplicate_tokens"),
        (["plan", "STUDY", "--set", "eval.source=bytes:stdlib"], "eval.source = 'bytes:stdlib': that its tokens"),
        (["run", "STUDY", "--workers", "0"], "--workers = 0: must be at least 1"),
        (["run", "STUDY", "--out", "STUDY"], "is a file, not a folder"),
        (["status", "/no/such/folder"], "not a results folder"),
        (["report", "/no/such/folder"], "not a results folder"),
        (["fit", "/no/such.csv", "--params", "n_params"], "/no/such.csv"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_a_line(
    study: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
):
    monkeypatch.chdir(study.parent)
    lines = refused(capsys, *(str(study) if word == "STUDY" else word for word in words))
    assert any(said in line for line in lines), lines
    assert sorted(p.name for p in study.parent.iterdir() if p.name != "__pycache__") == ["tiny.py"]


def test_what_runs_read_is_set_from_the_command_line_and_costs_what_it_did(study: Path, capsys: pytest.CaptureFixture):
    changes = ("data.unique_tokens=480", "data.max_epochs=40", "data.duplicated=0.2", "data.duplicate_tokens=24",
               "eval.source=zipf-facts:noise=0.2")  # fmt: skip
    plans = []
    for words in ([], [word for change in changes for word in ("--set", change)]):
        assert main(["plan", str(study), "--json", *words]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    plain, spoilt = plans
    assert plain["flops"] == spoilt["flops"] and len(plain["plan"]) == len(spoilt["plan"])
    assert not {p["id"] for p in plain["plan"]} & {p["id"] for p in spoilt["plan"]}
    for planned in spoilt["plan"]:
        assert planned["run"]["data"]["unique_tokens"] == 480 and planned["run"]["data"]["duplicated"] == 0.2
        assert planned["run"]["eval"]["source"] == "zipf-facts:noise=0.2"


def test_a_text_that_is_another_than_that_trained_or_measured_on_is_refused(tmp_path: Path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_bytes(f"{name} text ".encode() * 1000)
    model = ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=256, context=12)
    run = RunSpec(
        model=model, optim=OptimSpec(peak_lr=1e-2), data=DataSpec(source=f"text:{tmp_path}/a"),
        eval=EvalSpec(tokens=120, source=f"text:{tmp_path}/b"), batch=8, steps=1,
    )  # fmt: skip
    plan = Plan((Planned(run=run, group="g", role="fitted"),))
    study = Study(name="s", question="?", plan=plan).to_json()
    commit_json(tmp_path / "study.json", study | {sweep.TEXTS: sweep._texts(plan)})
    monkeypatch.setattr(sweep, "_begun", lambda plan, ledger: True)
    assert sweep.changed_texts(plan, Ledger(tmp_path)) == []
    for name, field in (("b", "eval.source"), ("a", "data.source")):
        was = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(was + b"and more")
        (line,) = sweep.changed_texts(plan, Ledger(tmp_path))
        assert line.startswith(f"{field} = text:{tmp_path}/{name}: its text is another")
        (tmp_path / name).write_bytes(was)


@pytest.mark.parametrize(
    "text, said",
    [
        ("STUDY = 3", "defines no STUDY"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("x = (\n", "SyntaxError"),
        ("\n\n1 / 0", "line 3: ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_study_is_refused_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, text: str, said: str
):
    path = tmp_path / "broken.py"
    path.write_text(text)
    (line,) = refused(capsys, "plan", str(path))
    assert said in line


def test_a_table_gives_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "runs.csv"
    path.write_text(CSV.replace("tokens", "D"))
    words = ["fit", str(path), "--law", "chinchilla", "--params", "n_params", "--columns", "tokens=D", "--json"]
    assert main(words) == 0
    fit = json.loads(capsys.readouterr().out)
    assert {"law", "params", "runs", "status", "estimates", "optimum", "warnings"} <= fit.keys()
    assert fit["runs"] == 12 and fit["status"] == "converged"
    assert fit["estimates"]["alpha"]["value"] == pytest.approx(0.34, rel=1e-4)
    assert fit["optimum"]["exponent_n"]["value"] == pytest.approx(0.3 / 0.64, rel=1e-4)


def test_the_choice_of_n_has_no_default(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "runs.csv").write_text(CSV)
    (line,) = refused(capsys, "fit", str(tmp_path), "--law", "chinchilla")
    assert "--params COLUMN: say which column counts parameters" in line


def test_a_fit_for_people_says_what_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "ray.csv"
    rows = [
        f"{n},{20 * n},{1.7 + 400 * n**-0.34 + 900 * (20 * n) ** -0.3!r}\n" for n in (1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7)
    ]
    path.write_text("n_params,tokens,loss\n" + "".join(rows))
    assert main(["fit", str(path), "--params", "n_params"]) == 0
    text = capsys.readouterr().out
    assert "unidentified" in text and re.search(r"alpha +not identified", text)


def test_the_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and found["devices"]["count"] >= 1 and found["versions"]["jax"]


def test_a_results_folder_keeps_one_study(study: Path, capsys: pytest.CaptureFixture):
    out = study.parent / "out"
    out.mkdir()
    (out / "study.json").write_text(json.dumps({"name": "other", "question": "?", "analysis": {}, "plan": []}))
    (line,) = refused(capsys, "run", str(study), "--out", str(out))
    assert "holds the study other" in line


def test_text_is_never_markup(tmp_path: Path, capsys: pytest.CaptureFixture):
    rows = CSV.splitlines()
    path = tmp_path / "runs.csv"
    gross = [f"run{i}[/b],{row}" for i, row in enumerate(rows[1:])]
    gross[3] = gross[3].rsplit(",", 1)[0] + ",9.5"
    path.write_text("run_id," + rows[0] + "\n" + "\n".join(gross) + "\n")
    assert main(["fit", str(path), "--params", "n_params"]) == 0
    assert "converged" in capsys.readouterr().out
