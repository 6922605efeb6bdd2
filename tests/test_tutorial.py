"""The pages do what they say, word for word."""

import contextlib
import dataclasses
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scaling.cli.locate import study_of
from scaling.cli.main import COMMANDS, main, parser_of
from scaling.cli.plan import show
from scaling.plan import Analysis, Study
from scaling.record import Ledger

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "experiments/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def run(code: str, page: str, defined: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a block of Python defines, after what came before it."""
    defined = {} if defined is None else defined
    exec(compile(code, page, "exec"), defined)
    return defined


def test_ten_lines_from_a_table_print_what_they_show(monkeypatch: pytest.MonkeyPatch):
    (code,), (shown,) = blocks("your_table.md", "python"), blocks("your_table.md", "text")
    assert len([line for line in code.splitlines() if line.strip()]) <= 11  # an import and ten lines
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(code, "your_table.md")
    assert printed.getvalue() == shown


def test_the_page_on_studies_shows_a_sound_one_and_names_every_question():
    (code,) = blocks("studies.md", "python")
    assert run(code, "studies.md")["STUDY"].faults() == []
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    unnamed = [field.name for field in dataclasses.fields(Analysis) if f"`{field.name}=" not in text]
    assert not unnamed


def test_the_study_of_the_tutorial_is_twenty_lines_and_sound():
    first, seeds = blocks("tutorial.md", "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    defined = run(first, "squared.py")
    before: Study = defined["STUDY"]
    after: Study = run(seeds, "squared.py", defined)["STUDY"]
    assert before.faults() == after.faults() == []
    costs = [line for shown in blocks("tutorial.md", "text") for line in re.findall(r"in (\d+) runs", shown)]
    assert [*map(int, costs[1:])] == [len(before.runs), *[len(after.runs)] * 2]


def test_the_tutorial_shows_the_plans_that_are_printed(tmp_path: Path):
    smoke, squared = (shown for shown in blocks("tutorial.md", "text") if "\ngroup " in shown)
    studies = study_of("smoke", [])[0], run(blocks("tutorial.md", "python")[0], "squared.py")["STUDY"]
    for shown, study in zip((smoke, squared), studies, strict=True):
        printed = io.StringIO()
        show(study, Ledger(tmp_path / study.name), 2, Console(file=printed, width=200))
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        for line in shown.splitlines():
            if line.startswith("cost:"):  # its time is the machine's
                assert line.split("; about ")[0] in printed.getvalue()
            else:
                assert line.rstrip() in lines


def test_the_tutorial_shows_the_refusal_that_is_printed(capsys: pytest.CaptureFixture[str]):
    (shown,) = (shown for shown in blocks("tutorial.md", "text") if "did you mean" in shown)
    assert main(["plan", "smoke", "--set", "model.d_modle=32"]) == 2
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_shown_is_one_that_there_is(page: Path):
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    shown = re.findall(r"(?m)^ {4}(?:scaling|\./run) (.*)$", text) + re.findall(r"`(?:scaling|\./run) ([^`\n]*)`", text)
    for line in shown:
        words = shlex.split(line.split("   ")[0], comments=True)
        if not words or words[0] not in COMMANDS:
            assert not words or not re.fullmatch(r"[a-z_]+", words[0]), f"{page.name}: {line}"
            continue
        known = {option for action in parser_of(words[0])._actions for option in action.option_strings}
        unknown = {word.split("=")[0] for word in words if re.match("--[a-z]", word)} - known
        assert not unknown, f"{page.name}: {line}"
