"""Write docs/reference/ from the code: command.md from the parser, api.md from signatures and docstrings.

    python docs/make_reference.py

Change the docstrings and help texts, and run it again; a test compares what is committed with what it would write.
Source is read and not imported, so that JAX is not needed, and the text is the same under every Python.
"""

import argparse
import ast
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scaling.cli.main import COMMANDS, DESCRIPTION, parser_of

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = "Written by `python docs/make_reference.py` from the code; change {}, not this page."
# Modules that Python users name, in reading order; of a package what it exports.
MODULES = (
    "scaling", "scaling.spec", "scaling.cost", "scaling.plan", "scaling.plan.design", "scaling.data", "scaling.train",
    "scaling.record", "scaling.fitting.table", "scaling.fitting.observe", "scaling.fitting.fit",
    "scaling.fitting.fitted", "scaling.fitting.uncertainty", "scaling.fitting.laws", "scaling.fitting.tournament",
    "scaling.fitting.forecast", "scaling.fitting.calibrate", "scaling.fitting.approaches", "scaling.fitting.isoflop",
    "scaling.fitting.envelope", "scaling.fitting.compare", "scaling.fitting.rescale", "scaling.fitting.ladder",
    "scaling.fitting.tuning", "scaling.fitting.curves", "scaling.fitting.laws.curve", "scaling.fitting.published",
)  # fmt: skip
# Of modules that hold more than a user needs.
ONLY = {
    "scaling.spec": (
        "Refusal", "RunSpec", "ModelSpec", "OptimSpec", "DataSpec", "EvalSpec", "Branch", "faults", "refuse_faulty",
        "override", "to_json", "from_json",
    ),
    "scaling.fitting.table": ("read_table",),
    "scaling.fitting.observe": ("Observations", "load_runs", "observe"),
    "scaling.fitting.fit": ("fit", "hold_out", "influence", "profile_intervals"),
    "scaling.fitting.fitted": ("Fit", "fit_from_json"),
    "scaling.fitting.uncertainty": ("Interval",),
    "scaling.fitting.laws": ("Chinchilla", "Kaplan", "Interaction", "PowerLaw", "Optimum"),
    "scaling.fitting.calibrate": ("Coverage", "Calibration", "calibrate"),
    "scaling.fitting.isoflop": ("Slice", "Valley", "IsoFlop", "slices", "isoflop"),
    "scaling.fitting.compare": ("Noise", "Comparison", "seed_noise", "compare"),
    "scaling.fitting.rescale": ("Rescaling", "rescale"),
    "scaling.fitting.laws.curve": ("Schedule",),
    "scaling.fitting.published": ("Replication", "Quantity", "as_published"),
}  # fmt: skip
ESTIMATORS = {"form", "basis", "from_basis", "names", "grid"}  # of a law, for who estimates it
WIDTH = 100  # of a signature in one line

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign


class Public(NamedTuple):
    """A public name: where it is defined, and its node there."""

    name: str
    source: "Source"
    node: Definition


class Source:
    """A file of the package."""

    def __init__(self, module: str):
        folder = ROOT / module.replace(".", "/")
        self.path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        text = self.path.read_text(encoding="utf-8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.package = folder.is_dir()

    def text(self, node: ast.AST) -> str:
        """As it is written, in one line."""
        assert isinstance(node, ast.expr | ast.arg) and node.end_lineno
        encoded = [line.encode() for line in self.lines[node.lineno - 1 : node.end_lineno]]
        encoded[-1] = encoded[-1][: node.end_col_offset]
        encoded[0] = encoded[0][node.col_offset :]
        joined = " ".join(line.decode().split("  #")[0].strip() for line in encoded)
        return re.sub(r"(?<=[(\[]) | (?=[)\]])|,(?= ?[)\]])", "", joined)

    def comment(self, node: ast.stmt) -> str:
        """The one behind a field, or above it."""
        assert node.end_lineno
        _, mark, behind = self.lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().partition("# ")
        if mark:
            return re.sub(r"\s*# fmt: skip", "", behind)
        above: list[str] = []
        for line in reversed(self.lines[: node.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip()[2:])
        return " ".join(above)


def public(module: str) -> Iterator[Public]:
    """What a module offers: of a package what it exports, else what it defines, in the order of the source."""
    source = Source(module)
    defined = dict(_definitions(source))
    exported = _exported(source.tree) if source.package else {}
    for name in ONLY.get(module) or _listed(source.tree) or [*exported, *defined]:
        if name in defined:
            yield Public(name, source, defined[name])
        elif name in exported:
            home = Source(exported[name])
            found = dict(_definitions(home)).get(name)
            if found:
                yield Public(name, home, found)


def _listed(tree: ast.Module) -> list[str]:
    """`__all__`, where it is written out."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _exported(tree: ast.Module) -> dict[str, str]:
    """Name -> module, of the names that a package imports from its own files."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scaling.")
        for alias in node.names
        if node.module and (alias.asname == alias.name or _listed(tree))
    }


def _definitions(source: Source) -> Iterator[tuple[str, Definition]]:
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):  # another name of a type
                yield name, node


def signature(source: Source, node: ast.FunctionDef, *, method: bool = False, width: float = WIDTH) -> str:
    """As it is called; a line for each argument where it is longer than `width`."""
    a = node.args
    words = [_argument(source, arg, default) for arg, default in _paired(a.posonlyargs + a.args, a.defaults)]
    if a.posonlyargs:
        words.insert(len(a.posonlyargs), "/")
    if method:
        words = words[1:]
    if a.vararg:
        words.append(f"*{_argument(source, a.vararg, None)}")
    elif a.kwonlyargs:
        words.append("*")
    words += [_argument(source, arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg:
        words.append(f"**{_argument(source, a.kwarg, None)}")
    returns = f" -> {source.text(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(words)}){returns}"
    if len(line) <= width:
        return line
    return f"{node.name}(\n" + "".join(f"    {word},\n" for word in words) + f"){returns}"


def _paired(args: list[ast.arg], defaults: list[ast.expr]) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    yield from zip(args, [None] * (len(args) - len(defaults)) + defaults, strict=True)


def _argument(source: Source, arg: ast.arg, default: ast.expr | None) -> str:
    said = f"{arg.arg}: {source.text(arg.annotation)}" if arg.annotation else arg.arg
    if default is None:
        return said
    return f"{said} = {source.text(default)}" if arg.annotation else f"{said}={source.text(default)}"


def prose(text: str) -> str:
    """A docstring as Markdown; what is set out in columns stays so."""
    blocks = [_block(block) for block in re.split(r"\n\s*\n", text.strip())]
    joined = "\n\n".join(blocks)
    return re.sub(r"\n```\n\n```text\n", "\n\n", joined)  # neighbours are one block


def _block(block: str) -> str:
    lines = block.splitlines()
    if any(line.startswith("    ") or re.search(r"\S {2,}\S", line) for line in lines):
        return f"```text\n{textwrap.dedent(block).rstrip()}\n```"
    return words(block)


def words(text: str) -> str:
    """A sentence as Markdown, with papers linked."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("*", r"\*").replace("<", "&lt;").replace("~", r"\~")
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _fields(source: Source, node: ast.ClassDef) -> list[str]:
    rows = [
        _row(
            _code(item.target.id),
            _code(source.text(item.annotation)),
            _code(_default(source, item.value)),
            words(source.comment(item)),
        )
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
        if "ClassVar" not in source.text(item.annotation)
    ]
    return ["| field | type | default | |", "|---|---|---|---|", *rows, ""] if rows else []


def _default(source: Source, value: ast.expr | None) -> str:
    """An empty one is written as what it is empty of."""
    said = source.text(value) if value else ""
    made = re.search(r"default_factory=(dict|list|tuple)\b", said)
    return {"dict": "{}", "list": "[]", "tuple": "()"}[made[1]] if made else said


def _members(source: Source, node: ast.ClassDef) -> list[str]:
    """Public properties and methods, a line or more each."""
    lines = []
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or item.name in ESTIMATORS:
            continue
        if item.name.startswith("_") and item.name != "__call__":
            continue
        made_by = {source.text(decorator).split("(")[0] for decorator in item.decorator_list}
        if made_by & {"property", "functools.cached_property"}:
            said = f"{item.name}: {source.text(item.returns)}" if item.returns else item.name
        else:
            said = signature(source, item, method="staticmethod" not in made_by, width=math.inf)
        text = " ".join(words(ast.get_docstring(item) or "").split())
        lines.append(f"- `.{said}`" + (f": {text}" if text else ""))
    return [*lines, ""] if lines else []


def entry(module: str, one: Public) -> list[str]:
    lines = [f"### `{module}.{one.name}`", ""]
    if isinstance(one.node, ast.Assign):
        return [*lines, "```python", f"{one.name} = {one.source.text(one.node.value)}", "```", ""]
    if isinstance(one.node, ast.FunctionDef):
        lines += ["```python", signature(one.source, one.node), "```", ""]
    text = ast.get_docstring(one.node)
    lines += [prose(text), ""] if text else []
    if isinstance(one.node, ast.ClassDef):
        lines += _fields(one.source, one.node) + _members(one.source, one.node)
    return lines


def anchors(text: str) -> list[tuple[str, str]]:
    """(heading, what a link to it says) of a page of Markdown, as GitHub has it: a repeated one is numbered."""
    seen: dict[str, int] = {}
    found = []
    for heading in re.findall(r"(?m)^#+ +(.*?) *$", re.sub(r"(?ms)^```.*?^```$", "", text)):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append((heading, f"{name}-{seen[name]}" if name in seen else name))
        seen[name] = seen.get(name, 0) + 1
    return found


def api() -> str:
    """The page of the Python API."""
    offered = {module: [*public(module)] for module in MODULES}
    body: list[str] = []
    for module, names in offered.items():
        body += ["", f"## `{module}`", "", prose(ast.get_docstring(Source(module).tree) or ""), ""]
        for one in names:
            body += entry(module, one)
        while body[-1] == "":
            body.pop()
    lines = ["# Python API", "", WRITTEN.format("the docstrings"), ""]
    lines += [
        "Losses are in nats per token, N in parameters, D in tokens, C in FLOPs. A shape stands in brackets or as the",
        "suffix of a name. What a user can get wrong raises `scaling.spec.Refusal`, one line a fault. Laws, each with",
        "its formula, are on [a page of their own](../laws.md); `scaling.train` alone imports JAX.",
        "",
    ]
    to = {heading: f"#{anchor}" for heading, anchor in anchors("\n".join(body))}
    for module, names in offered.items():
        links = ", ".join(f"[`{one.name}`]({to[f'`{module}.{one.name}`']})" for one in names)
        lines.append(f"- [`{module}`]({to[f'`{module}`']}): {links}")
    return "\n".join(lines + body) + "\n"


def command() -> str:
    """The page of the command."""
    lines = ["# The command", "", WRITTEN.format("the options in `scaling/cli/`"), "", words(DESCRIPTION), ""]
    lines += [f"- [`scaling {name}`](#scaling-{name}): {words(said)}" for name, (said, _) in COMMANDS.items()]
    for name, (said, example) in COMMANDS.items():
        parser = parser_of(name)
        actions = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
        positional = [_usage(action) for action in actions if not action.option_strings]
        some = " [OPTIONS]" if len(positional) < len(actions) else ""
        lines += ["", f"## `scaling {name}`", "", f"{said[0].upper()}{words(said[1:])}.", ""]
        lines += [f"    scaling {name}{''.join(f' {word}' for word in positional)}{some}", f"    {example}", ""]
        for group in parser._action_groups:
            members = [action for action in actions if action in group._group_actions]
            if not members:
                continue
            if group.description:
                lines += [f"{group.title}: {words(group.description)}", ""]
            if not any(line.startswith("| ") for line in lines[-2:-1]):
                lines += ["| | |", "|---|---|"]
            else:
                lines.pop()
            lines += [*(_row(_code(_usage(action)), words(_help(action))) for action in members), ""]
        apart = [group._group_actions for group in parser._mutually_exclusive_groups]
        lines += [f"At most one of {', '.join(_code(a.option_strings[0]) for a in group)}." for group in apart]
        while lines[-1] == "":
            lines.pop()
    return "\n".join(lines) + "\n"


def _usage(action: argparse.Action) -> str:
    """An option or an argument as one types it."""
    value = ""
    if action.nargs != 0:
        value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if action.choices:
            value = "|".join(str(choice) for choice in action.choices)
        if action.nargs == "?":
            value = f"[{value}]"
    return " ".join(filter(None, [", ".join(action.option_strings), value]))


def _help(action: argparse.Action) -> str:
    values: dict[str, Any] = vars(action)
    return (action.help or "") % values


def write() -> list[Path]:
    """Both pages; returns their paths."""
    pages = {"command.md": command(), "api.md": api()}
    folder = ROOT / "docs" / "reference"
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


if __name__ == "__main__":
    for path in write():
        print(path.relative_to(ROOT))
