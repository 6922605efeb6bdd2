"""docs/reference/ is what the code says, and misses nothing of it."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from scaling.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
AGAIN = "run `python docs/make_reference.py` and commit what it writes"


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("make_reference")


def entries(page: str) -> dict[str, str]:
    """The text below each heading."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return dict(re.findall(r"(?ms)^##+ `(.*?)`\n(.*?)(?=^##+ `|\Z)", text))


def test_the_reference_is_what_the_code_says(maker: ModuleType):
    for page, text in {"command.md": maker.command(), "api.md": maker.api()}.items():
        same = text == (REFERENCE / page).read_text(encoding="utf-8")
        assert same, f"{page}: {AGAIN}"  # pytest's own account of two long texts would take its time


def test_every_public_name_says_what_it_is(maker: ModuleType):
    silent = [
        f"{module}.{one.name}"
        for module in maker.MODULES
        for one in maker.public(module)
        if not isinstance(one.node, ast.Assign) and not ast.get_docstring(one.node)
    ]
    assert not silent


def test_what_is_listed_is_there_and_called_as_it_says(maker: ModuleType):
    """By what Python itself says of each name; the room with JAX is read only."""
    written = entries("api.md")
    looked_at = 0
    for module in maker.MODULES:
        if module == "scaling.train":
            continue
        home = importlib.import_module(module)
        wanted = maker.ONLY.get(module, getattr(home, "__all__", ()))
        assert {f"{module}.{name}" for name in wanted if name not in ("GROUPS", "LAWS")} <= written.keys()
        for name in (name.rpartition(".")[2] for name in written if name.rpartition(".")[0] == module):
            if f"{module}.{name}" in maker.MODULES:
                continue
            value = getattr(home, name)
            if inspect.isfunction(value):
                (code,) = re.findall(r"```python\n(.*?)```", written[f"{module}.{name}"], re.DOTALL)[:1]
                (definition,) = ast.parse(f"def {code.strip()}: ...").body
                assert isinstance(definition, ast.FunctionDef)
                a = definition.args
                assert [arg.arg for arg in a.posonlyargs + a.args + a.kwonlyargs] == [
                    *inspect.signature(value).parameters
                ]
                looked_at += 1
    assert looked_at > 40


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_listed(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    printed = set(re.findall(r"(?m)^  (--[a-z-]+)", capsys.readouterr().out))
    assert set(re.findall(r"(?m)^\| `(--[a-z-]+)", entries("command.md")[f"scaling {name}"])) == printed
