"""The tutorial does what it says, word for word."""

import contextlib
import io
import re
from pathlib import Path

import pytest

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
