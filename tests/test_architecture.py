"""Who may import whom. The table is the architecture; these tests keep it true."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scaling

ROOT = Path(scaling.__file__).parent

MAY_IMPORT = {
    "spec": set(),
    "cost": {"spec"},
    "data": {"spec"},
    "machine": {"spec", "record"},
    "plan": {"spec", "cost", "data", "machine"},
    "train": {"spec", "cost", "data", "record", "machine"},
    "record": {"spec", "cost"},
    "fitting": {"spec", "cost", "record"},
    "report": {"spec", "cost", "record", "fitting"},
    "launch": {"spec", "plan", "record", "machine"},
    "cli": {"spec", "cost", "data", "machine", "plan", "train", "record", "fitting", "report", "launch"},
}

# Package -> the rooms, or files, that may import it.
AT_HOME = {
    "jax": ("train",),
    "flax": ("train",),
    "optax": ("train",),
    "etils": ("record",),
    "orbax": ("train",),
    "matplotlib": ("report",),
    "subprocess": ("launch",),
    "submitit": ("launch",),
    "ray": ("launch",),
}


def sources() -> Iterator[tuple[Path, str, ast.Module]]:
    """(file, room, syntax tree) of every file in a room."""
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            yield path, room, ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their room"
            yield node.module or ""
            if node.module == "scaling":
                yield from (f"scaling.{alias.name}" for alias in node.names)


def test_rooms_import_only_upstream():
    strays = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, room, tree in sources()
        for name in imports(tree)
        if name.startswith("scaling.") and name.split(".")[1] not in MAY_IMPORT[room] | {room}
    ]
    assert not strays


def test_every_room_is_in_the_table():
    assert {room for _, room, _ in sources()} == set(MAY_IMPORT)


def test_heavy_packages_stay_at_home():
    strays = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, room, tree in sources()
        for name in imports(tree)
        if room not in AT_HOME.get(name.split(".")[0], (room,))
    ]
    assert not strays


def test_records_reach_the_laws_through_one_door():
    strays = [
        str(path.relative_to(ROOT))
        for path, room, tree in sources()
        for name in imports(tree)
        if room == "fitting" and name.startswith("scaling.record") and path.name != "observe.py"
    ]
    assert not strays


def test_nothing_evaluates_text():
    """No pickle, eval, exec or shell: a table, a spec or a name can never run."""
    for path, _, tree in sources():
        assert not {name.split(".")[0] for name in imports(tree)} & {"pickle", "marshal", "shelve", "yaml"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "os.system", "os.popen"), f"{path}:{node.lineno}"
                assert not any(keyword.arg == "shell" for keyword in node.keywords), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "room",
    [
        "spec",
        "cost",
        "data",
        "machine",
        "plan",
        "record",
        "record.store",
        "fitting.fit",
        "report.findings",
        "launch.local",
        "launch.bench",
        "launch.slurm",
        "launch.ray",
        "cli.engines",
    ],
)
def test_the_login_node_side_never_imports_jax(room: str):
    code = f"import sys, scaling.{room}; sys.exit(bool({{'jax', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
