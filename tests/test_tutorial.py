"""The tutorial does what it says, word for word."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest

from scaling.plan import Analysis

ROOT = Path(__file__).parents[1]


def test_the_tutorial_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    code, shown = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)[:2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 11  # an import and ten lines
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "tutorial.md", "exec"), {})
    assert printed.getvalue() == shown


def test_the_page_on_studies_shows_a_sound_one_and_names_every_question():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    defined: dict = {}
    exec(compile(code, "studies.md", "exec"), defined)
    assert defined["STUDY"].faults() == []
    unnamed = [field.name for field in dataclasses.fields(Analysis) if f"`{field.name}=" not in text]
    assert not unnamed
