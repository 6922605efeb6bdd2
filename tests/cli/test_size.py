"""One question at several sizes, in one file."""

import json
from pathlib import Path

import pytest

from scaling.cli import main

SIZED = """
from dataclasses import replace
from scaling.plan import Analysis, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=8, d_ff=16, d_head=8, vocab_size=192, context=12)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=1e-2, warmup_steps=2, cooldown_steps=4),
               data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=1200), batch=8, steps=20)


def study(name, tokens):
    return Study(name=name, question="?", plan=straight(BASE, [MODEL], tokens, group="grid"),
                 analysis=Analysis(laws=("chinchilla",)))


"""
BOTH = SIZED + 'STUDIES = {"laptop": study("x", [1920]), "pod": study("x-pod", [1920, 3840])}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.py"
    path.write_text(BOTH)
    return path


def planned(file: Path, capsys: pytest.CaptureFixture[str], *words: str) -> int:
    assert main(["plan", str(file), "--json", *words]) == 0
    return len(json.loads(capsys.readouterr().out)["plan"])


def test_a_size_is_chosen_by_its_name_and_the_first_without(file: Path, capsys: pytest.CaptureFixture[str]):
    assert planned(file, capsys) == planned(file, capsys, "--size", "laptop") == 1
    assert planned(file, capsys, "--size", "pod") == 2


@pytest.mark.parametrize(
    "text, size, said",
    [
        (BOTH, "phone", "--size = phone: x.py has laptop, pod"),
        (SIZED + 'STUDY = study("x", [1920])', "pod", "--size = pod: x.py defines one STUDY, of no size"),
        (SIZED + 'STUDIES = {"a": study("x", [1920]), "b": study("x", [3840])}', "a", "have one name"),
        (SIZED + 'STUDIES = {"a": 7}', "a", "defines no STUDY"),
        (SIZED + "STUDIES = [1]", "a", "defines no STUDY"),
    ],
)
def test_a_size_that_there_is_not_is_refused(file: Path, text: str, size: str, said: str, capsys):
    file.write_text(text)
    assert main(["plan", str(file), "--size", size]) == 2
    assert said in capsys.readouterr().err


def test_the_command_that_repeats_a_study_names_its_size(file: Path, tmp_path: Path, monkeypatch):
    from scaling.launch.local import LocalSweep, Outcome

    monkeypatch.setattr(LocalSweep, "run", lambda self: Outcome())
    main(["run", str(file), "--size", "pod", "--out", str(tmp_path / "out")])
    assert "--size pod" in json.loads((tmp_path / "out" / "study.json").read_text())["command"]
