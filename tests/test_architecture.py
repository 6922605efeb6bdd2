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
    "chips": {"spec"},
    "cost": {"spec"},
    "roofline": {"spec", "chips", "cost"},
    "data": {"spec"},
    "machine": {"spec", "record"},
    "plan": {"spec", "cost", "data", "machine"},
    "train": {"spec", "chips", "cost", "roofline", "data", "record", "machine"},
    "record": {"spec", "cost"},
    "fitting": {"spec", "cost", "record"},
    "report": {"spec", "chips", "cost", "roofline", "record", "fitting"},
    "launch": {"spec", "plan", "record", "machine"},
    "cli": {
        "spec",
        "chips",
        "cost",
        "roofline",
        "data",
        "machine",
        "plan",
        "train",
        "record",
        "fitting",
        "report",
        "launch",
    },
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


UNSAFE_MODULES = {
    "pickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "yaml",
    "code", "codeop", "pty", "runpy",
}  # fmt: skip
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}  # also as builtins.eval
UNSAFE_ATTRIBUTES = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.load", "exec_module",
    "load_module", "read_pickle", "to_pickle", "run_path", "create_subprocess_shell",
}  # fmt: skip
ITS_JOB = {
    ("scaling/cli/locate.py", "exec_module"),  # the experiment, which is the user's own program
    ("benchmarks/storms/sabotage/sitecustomize.py", "exec_module"),  # a module of ours, to be broken on purpose
    ("tests/test_tutorial.py", "exec"),  # the tutorial's own code
    ("tests/test_tutorial.py", "compile"),
    ("tests/record/test_store.py", "__import__"),  # a client that is not there
    ("tests/data/test_check.py", "allow_pickle=True"),  # makes the file that is refused
}


def unsafe(tree: ast.Module) -> Iterator[str]:
    """Every way in this code by which text or a file could come to run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").split(".")[0]} & UNSAFE_MODULES
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & UNSAFE_ATTRIBUTES
        elif isinstance(node, ast.Attribute):  # called or handed on
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            yield from {node.attr, f"{of}.{node.attr}"} & UNSAFE_ATTRIBUTES
            yield from {node.attr} & UNSAFE_CALLS if of == "builtins" else ()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield from {node.id} & UNSAFE_CALLS
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                said = f"{keyword.arg}={ast.unparse(keyword.value)}"
                if keyword.arg in ("shell", "allow_pickle") and not said.endswith("=False"):
                    yield said


def test_nothing_evaluates_text():
    """No pickle, eval, exec or shell: a table, a spec or a name can never run."""
    rooms = [
        path
        for name in ("scaling", "benchmarks", "experiments", "tests", "docs")
        for path in ROOT.parent.glob(f"{name}/**/*.py")
    ]
    files = {path.relative_to(ROOT.parent).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in rooms}
    assert {"scaling/spec.py", "tests/conftest.py"} <= files.keys() and len(files) > 100
    assert {(name, what) for name, tree in files.items() for what in unsafe(tree)} == ITS_JOB


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from cloudpickle import load", "import yaml.loader", "eval(x)", "f = exec", "__import__(x)",
        "compile(x, '', 'exec')", "import builtins; builtins.eval(x)", "os.system(x)", "from os import popen",
        "subprocess.run(x, shell=True)", "subprocess.getoutput(x)", "np.load(x, allow_pickle=True)", "torch.load(x)",
        "pandas.read_pickle(x)", "import runpy", "spec.loader.exec_module(m)", "run(x, shell=maybe)",
    ],
)  # fmt: skip
def test_every_way_to_evaluate_text_is_seen(code: str):
    assert [*unsafe(ast.parse(code))]
    assert not [*unsafe(ast.parse("re.compile(x); np.load(x, allow_pickle=False); evaluate(x); program.compile()"))]


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
