"""The pages do what they say, word for word."""

import contextlib
import dataclasses
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import scaling
from scaling import data
from scaling.cli.locate import study_of
from scaling.cli.main import COMMANDS, main, parser_of
from scaling.cli.plan import show
from scaling.plan import Analysis, Study
from scaling.record import Ledger
from scaling.spec import RunSpec
from scaling.spec import faults as spec_faults

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


def test_tokens_of_any_tokenizer_can_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: RunSpec):
    monkeypatch.chdir(tmp_path)
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    Path("corpus.txt").write_text(text, encoding="utf-8")
    tokens, specs, _ = blocks("bring_your_own.md", "python")
    defined = run(specs, "bring_your_own.md", run(tokens, "bring_your_own.md"))
    mine = dataclasses.replace(tiny, model=defined["MODEL"], data=defined["DATA"], eval=defined["EVAL"])
    assert spec_faults(mine) == data.faults(mine) == []
    source = data.open_source(mine.data, mine.model)
    assert source.vocab_size == int(defined["ids"].max()) + 1
    assert source.train_tokens + source.held_out_tokens == len(defined["pieces"])
    named = {i: piece for piece, i in defined["known"].items()}
    window = "".join(named.get(int(i), "") for i in data.held_out(source, 4096, 32).token_RxT[0])
    assert window and set(re.findall(r"\w+", window)) <= set(re.findall(r"\w+", text))


def test_lines_of_a_trainer_elsewhere_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The published runs, written as the page has it, give the law that their table gives."""
    monkeypatch.chdir(tmp_path)
    trainer = run(blocks("bring_your_own.md", "python")[2], "bring_your_own.md")
    (line,) = Path("runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"run_id", "n_params", "tokens", "flops", "loss", "group", "seed"} == json.loads(line).keys()
    ours = scaling.load_runs(ROOT / "results/reference/quickstart", params="n_params")
    for i in range(len(ours)):
        trainer["finished"](
            "again.jsonl", run_id=ours.run_id[i], n_params=ours.n[i], tokens=ours.d[i], flops=ours.flops[i],
            loss=ours.loss[i], loss_se=ours.loss_se[i], group=ours.group[i], seed=ours.seed[i], trunk=ours.trunk[i],
        )  # fmt: skip
    again = scaling.load_runs("again.jsonl", params="n_params")
    assert again.warnings == ours.warnings and again.flops_measured
    for name in ("n", "d", "flops", "loss"):
        assert (getattr(again, name) == getattr(ours, name)).all()
    assert again.trunk == ours.trunk


def test_the_edit_of_the_model_that_is_shown_fits_the_model():
    (shown,) = blocks("bring_your_own.md", "diff")
    _, *parts = re.split(r"(?m)^--- (.*)\n", shown)
    for name, hunk in zip(parts[::2], parts[1::2], strict=True):
        before = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] != "+")
        assert before in (ROOT / name).read_text(encoding="utf-8"), name


def test_methods_names_every_source_of_a_number_and_files_that_there_are():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    laws = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")  # of each law its own
    sources = [ROOT / "scaling" / "cost.py", *(ROOT / "scaling" / "plan").glob("*.py")]
    sources += [*(ROOT / "scaling" / "fitting").glob("*.py"), *(ROOT / "scaling" / "report").glob("*.py")]
    named = {found for path in sources for found in re.findall(r"arXiv:\d{4}\.\d+", path.read_text(encoding="utf-8"))}
    assert named - set(re.findall(r"arXiv:\d{4}\.\d+", text + laws)) == set()
    folder = ROOT
    for name in re.findall(r"`((?:scaling/)?[a-z_/]+(?:\.py|/))`", text):
        path = ROOT / name if name.startswith("scaling/") else folder / name
        assert path.exists(), name
        folder = path.parent


def test_the_index_leads_to_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    linked = re.findall(r"\]\(([\w.]+\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    assert pages == set(linked)


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
