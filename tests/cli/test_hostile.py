"""Requests, names and files that mean no good: refused in a line, shown as text, and nothing of them ever runs."""

import dataclasses
import errno
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from scaling.cli import main
from scaling.launch.local import Outcome
from scaling.plan import Analysis, Plan, Planned, Study, straight
from scaling.record import Ledger, table
from scaling.record.files import commit_json
from scaling.report import findings
from scaling.report.table import closing
from scaling.spec import Refusal, RunSpec
from tests.record.test_record import record_of

ESCAPE = "\x1b[2J\x1b]0;x\x07\u202e"  # clears a terminal, names its window, turns the direction of writing round
EXPERIMENT = """
from scaling.plan import Analysis, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec
MODEL = ModelSpec(n_layers=1, d_model=8, d_ff=16, d_head=8, vocab_size=192, context=12)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=1e-2, warmup_steps=2), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=1200), batch=8, steps=1,
)
STUDY = Study(name="tiny", question="?", plan=straight(BASE, [MODEL], [1920], group="grid"))
"""


@pytest.fixture
def ask(capsys: pytest.CaptureFixture):
    """ask(*words) -> (exit status, standard output, lines of standard error)."""

    def call(*words: str | Path) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return call


@pytest.fixture
def folder(tmp_path: Path, tiny: RunSpec) -> Path:
    """Of a study of one run, which is recorded."""
    tiny = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, schedule="constant", cooldown_steps=0))
    study = Study(name="s", question="?", plan=straight(tiny, [tiny.model], [1920], group="grid"))
    commit_json(tmp_path / "study.json", study.to_json() | {"command": "scaling run s"})
    ledger = Ledger(tmp_path)
    for planned in study.plan.runs:
        ledger.commit(record_of(planned.run, loss=2.0))
    table.write(ledger)
    return tmp_path


def changed(folder: Path, **changes: object) -> None:
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def broken_paths(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "study.json").mkdir()
    (tmp_path / "x.py").write_text(EXPERIMENT)
    return {"FILE": tmp_path / "file", "UNDER": tmp_path / "file" / "a", "LOOP": tmp_path / "loop" / "a",
            "LONG": tmp_path / ("a" * 300), "HELD": tmp_path / "held", "X": tmp_path / "x.py"}  # fmt: skip


@pytest.mark.parametrize("where", ["FILE", "UNDER", "LOOP", "LONG", "HELD"])
@pytest.mark.parametrize(
    "words",
    [
        ["status", "DIR"], ["table", "DIR"], ["verify", "DIR"], ["work", "DIR"], ["report", "DIR"],
        ["fit", "DIR", "--params", "n_params"], ["curves", "DIR"], ["run", "X", "--out", "DIR"],
        ["tune", "X", "--out", "DIR"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_refused_in_a_line(ask, broken_paths, words: list[str], where: str, monkeypatch):
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome(stopped=True))
    before = sorted(broken_paths["FILE"].parent.rglob("*"))
    paths = broken_paths | {"DIR": broken_paths[where]}
    status, out, err = ask(*(paths.get(word, word) for word in words))
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith(f"scaling {words[0]}: "), err
    assert sorted(broken_paths["FILE"].parent.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [["run", "X", "--out", "DIR"], ["tune", "X", "--out", "DIR"], ["work", "DIR"], ["report", "DIR"],
     ["fit", "DIR", "--params", "n_params", "--figures", "DIR"],
     ["forecast", "DIR", "--params", "n_params", "--compute", "1e9", "--register", "DIR/f.json"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_refused_before_any_compute(ask, folder: Path, monkeypatch, words):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed before it was refused")

    for name in ("scaling.fitting.fit.fit", "scaling.report.findings.find", "scaling.launch.local.LocalSweep.run"):
        monkeypatch.setattr(name, never)
    (folder / "x.py").write_text(EXPERIMENT)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    before = sorted(folder.rglob("*"))
    status, out, err = ask(*(word.replace("DIR", str(folder)).replace("X", str(folder / "x.py")) for word in words))
    assert (status, out, len(err)) == (2, "", 1) and f"{folder} cannot be written to" in err[0], err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_refused_in_a_line(ask, folder: Path):
    for name, words in (("study.json", ["status"]), ("runs.csv", ["fit", "--params", "n_params"])):
        (folder / name).chmod(0)
        status, _, err = ask(words[0], folder, *words[1:])
        assert (status, len(err)) == (2, 1) and "Permission denied" in err[0]


def test_a_full_disk_is_a_failure_and_not_a_refusal(ask, folder: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "runs.csv"))

    monkeypatch.setattr("scaling.record.table.write", full)
    status, _, err = ask("report", folder)
    assert (status, err) == (1, [f"scaling report: {folder / 'runs.csv'}: No space left on device"])


def test_a_fault_of_the_program_is_no_fault_of_the_request(ask, folder: Path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError("a fault of ours")

    monkeypatch.setattr("scaling.record.table.write", broken)
    with pytest.raises(OSError, match="a fault of ours"):
        ask("report", folder)


@pytest.mark.parametrize(
    "words",
    [["plan", f"{ESCAPE}\n"], ["plan", f"a{ESCAPE}/b.py"], ["fit", f"{ESCAPE}.csv"], ["laws", ESCAPE],
     ["status", f"no\n{ESCAPE}"], ["plan", "smoke", "--set", f"optim.peak_lr={ESCAPE}\n"]],
)  # fmt: skip
def test_a_refusal_is_one_line_that_a_terminal_shows_and_does_not_obey(ask, words: list[str]):
    status, out, (line,) = ask(*words)
    assert (status, out) == (2, "") and line.isprintable() and r"\x1b[2J" in line


@pytest.mark.parametrize(
    "name", ["x.py", "-x.py", "$(touch pwn).py", "it's; touch pwn.py", 'a "b"\n[red].py', "#ü☃.py"]
)
@pytest.mark.parametrize("command", ["run", "tune"])
def test_a_command_that_is_printed_can_be_pasted(ask, tmp_path: Path, monkeypatch, name: str, command: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scaling.launch.local.LocalSweep.run", lambda self: Outcome(stopped=True))
    Path(name).write_text(EXPERIMENT)
    out = name.removesuffix(".py") + " out"
    for words in (["--set", "optim.peak_lr=0.02", f"--out={out}", "--", name],):
        status, _, err = ask(command, *words)
        printed = "\n".join(err).split("To go on: ")[1]
        made = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
        again = shlex.split(printed)
        assert status == 75 and again[:2] == ["scaling", command]
        before = [path.read_bytes() for path in Path(out).rglob("study.json")]
        assert ask(*again[1:])[0] == 75
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == made
        assert [path.read_bytes() for path in Path(out).rglob("study.json")] == before != []


def test_a_command_in_a_file_is_shown_only_where_it_is_ours(ask, folder: Path):
    from scaling.report import provenance

    shown = {}
    for said in ("scaling run 'a b'", "scaling run s; rm -rf ~", "rm -rf ~", "scaling run $(rm x)", "scaling run '", 3):
        changed(folder, command=said)
        shown[said] = provenance.command(findings.find(Ledger(folder)))
    assert shown.pop("scaling run 'a b'") == "scaling run 'a b'"
    assert set(shown.values()) == {"scaling run s"}
    next(folder.glob("runs/*/record.json")).unlink()
    for said, shows in (("scaling run s", "scaling run s"), ("rm -rf ~", "scaling run EXPERIMENT")):
        changed(folder, command=said)
        assert json.loads(ask("status", folder, "--json")[1])["go_on"] == shows


def test_text_of_a_folder_reaches_neither_the_terminal_nor_the_page_as_an_order(folder: Path):
    from scaling.report import page

    changed(folder, name=f"a{ESCAPE}[red]", question=f"{ESCAPE}\ud83d\0[/bold]?")
    found = findings.find(Ledger(folder))
    text = io.StringIO()
    closing(found, Console(file=text, width=100), page.write(found, Ledger(folder)))
    assert all(line.isprintable() for line in text.getvalue().splitlines()) and "[/bold]?" in text.getvalue()
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not set(html) & {"\x1b", "\x07", "\0", "\ud83d"} and "[/bold]?" in html


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "name, text",
    [("forecast.json", text) for text in ("", DEEP, "3", "null", "[3]", '[{"run_id": 1}]', "\0\xff", '{"a": ')]
    + [("tuning.json", text) for text in ("", DEEP, "3", "[]", '{"groups": 3}')]
    + [("study.json", text) for text in ("", DEEP, "3", "{}", '{"plan": []}')],
)
def test_a_damaged_file_is_named_in_a_line(ask, folder: Path, name: str, text: str):
    (folder / name).write_text(text, encoding="latin1")
    status, _, (line,) = ask("report", folder)
    assert status == 2 and str(folder / name) in line and line.isprintable()


def test_a_giant_file_is_refused_by_its_size(ask, folder: Path):
    for name in ("forecast.json", "tuning.json", "study.json"):
        kept = (folder / name).read_bytes() if (folder / name).exists() else None
        with (folder / name).open("wb") as out:
            out.truncate(2**31)  # sparse
        status, _, (line,) = ask("report", folder)
        assert status == 2 and str(folder / name) in line and "MiB" in line
        (folder / name).write_bytes(kept) if kept else (folder / name).unlink()


@pytest.mark.parametrize(
    "field, value",
    [("params", "../../x"), ("params", []), ("laws", 5), ("laws", [3]), ("level", "0.9"), ("level", 2),
     ("algorithms", 1), ("known_entropy", None), ("bootstrap", "many")],
)  # fmt: skip
def test_an_analysis_that_is_none_is_refused_by_its_field(folder: Path, field: str, value: object):
    asked = json.loads((folder / "study.json").read_text())["analysis"]
    changed(folder, analysis=asked | {field: value})
    with pytest.raises(Refusal, match=rf"study.json: analysis.{field} says nothing"):
        findings.find(Ledger(folder))
    changed(folder, analysis="x", question=3)
    with pytest.raises(Refusal) as refused:
        findings.register(Ledger(folder))
    assert len(refused.value.faults) == 7


@pytest.mark.parametrize(
    "plan, said",
    [
        ((3,), "plan: 3: must be a Planned"),
        ([], "plan.runs = []: must be a tuple"),
        ({"run": None}, "plan: run = None: must be a RunSpec"),
        ({"group": 3}, "group = 3: must be text"),
        ({"role": "boss"}, "role = 'boss': must be one of trunk, fitted"),
        ({"group": "../../x"}, "group = '../../x': must be letters"),
        ({"group": ESCAPE}, "group = '\\x1b[2J"),
        ({"run": {"seed": 1j}}, "seed = 1j: must be a whole number"),
        ({"run": {"seed": 2**32}}, "seed = 4294967296: must be below 2**32"),
        ({"run": {"steps": 2**31}}, "steps = 2147483648: must be below 2**31"),
    ],
)
def test_what_is_no_plan_of_runs_is_said_by_its_field(tiny: RunSpec, plan, said: str):
    if isinstance(plan, dict):
        run = dataclasses.replace(tiny, **plan["run"]) if plan.get("run") else tiny
        plan = (
            Planned(**{"group": "g", "role": "fitted"} | plan | ({} if plan.get("run", 1) is None else {"run": run})),
        )
    study = Study(name="s", question="?", plan=Plan(plan))  # type: ignore[arg-type]
    assert [line for line in study.ill_typed() or study.faults() if line.startswith(said)]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"name": "../../x"}, "name = '../../x'"), ({"name": "/etc/x"}, "name = '/etc/x'"),
        ({"name": "a\n"}, "name = 'a\\n'"),
        ({"name": "<script>alert(1)</script>"}, "name = '<script>"), ({"name": "=cmd|' /C calc'!A0"}, 'name = "=cmd'),
        ({"question": ESCAPE}, "question = '\\x1b[2J"), ({"question": "\udcff"}, "question = '\\udcff'"),
        ({"analysis": Analysis(laws=5)}, "analysis.laws = 5"),  # type: ignore[arg-type]
        ({"analysis": Analysis(laws=(3,))}, "analysis.laws = (3,)"),  # type: ignore[arg-type]
        ({"analysis": Analysis(algorithms={"g": ESCAPE})}, "analysis.algorithms['g'] = "),
    ],
)  # fmt: skip
def test_a_study_that_no_folder_or_terminal_could_hold_is_refused(tiny: RunSpec, changes: dict, said: str):
    plan = Plan((Planned(run=tiny, group="g", role="fitted"),))
    study = dataclasses.replace(Study(name="s", question="one\nline more", plan=plan), **changes)
    (line,) = study.faults()
    assert line.startswith(said) and line.isprintable()


def test_one_bad_number_is_one_line_and_not_one_for_each_branch(ask, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = EXPERIMENT.replace("straight", "trunks").replace("[1920]", "[1920, 3840, 7680]")
    Path("x.py").write_text(text)
    for value in ("nan", "inf", "-1"):
        status, _, err = ask("run", "./x.py", "--set", f"optim.peak_lr={value}")
        assert status == 2 and len(err) == 1 and "optim.peak_lr = " in err[0]


def test_a_source_that_cannot_be_looked_for_is_named_by_its_field(ask, tmp_path: Path):
    (tmp_path / "x.py").write_text(EXPERIMENT)
    (tmp_path / "file").touch()
    for source in (f"text:{'a' * 5000}", f"tokens:{'a' * 5000}.npy", f"text:{tmp_path}/file/a"):
        status, _, err = ask("plan", tmp_path / "x.py", "--set", f"data.source={source}")
        assert status == 2 and all("data.source = " in line for line in err) and err


def test_the_same_table_gives_the_same_bytes_whatever_the_order_the_hashes_and_the_threads(tmp_path: Path):
    rows = [f"{n:.0f},{d:.0f},{1.7 + 400 * n**-0.34 + 410 * d**-0.28 + i % 5 / 500!r}\n"
            for i, (n, d) in enumerate((n, d) for n in (1e6, 4e6, 2e7, 1e8) for d in (1e9, 4e9, 2e10))]  # fmt: skip
    said = []
    for seed, order in (("0", rows), ("1", [*reversed(rows)])):
        (tmp_path / "runs.csv").write_text("n_params,tokens,loss\n" + "".join(order))
        threads = str(1 + int(seed))
        words = [sys.executable, "-m", "scaling", "fit", str(tmp_path / "runs.csv"), "--params", "n_params", "--json"]
        environ = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        said.append(subprocess.run([*words, "--bootstrap", "20"], capture_output=True, env=environ, check=True).stdout)
    assert said[0] == said[1] and json.loads(said[0])["status"] == "converged"


def test_output_that_cannot_show_a_sign_spells_it_out(monkeypatch):
    """A terminal in an old encoding, or a folder whose name is no text."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["plan", "smoke"]) == 0
    out.flush()
    assert rb"\xd7" in out.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["forecast.json", "runs.csv", "record.json"])
def test_a_link_that_leads_round_in_a_circle_is_a_fault_of_the_folder(ask, folder: Path, name: str):
    (run,) = (folder / "runs").iterdir()
    path = (run if name == "record.json" else folder) / name
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    status, out, err = ask("verify", folder)
    assert status == 1 and not err and f"{name}: a link" in out
