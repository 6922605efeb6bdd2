"""Python imports this as it starts where the folder is on PYTHONPATH: a storm reaches every process of a sweep.

So the package itself has no hook to break it. The variable STORM is a JSON object:

    set    {"scaling.train.loop.CHECKPOINT_SECONDS": 0.2, ...}: constants to replace; one that is not there is an error
    faults {"7": "nan", ...}: what befalls the runs of a seed (`FAULTS`)
    marks  a folder: marks/<pid> says what a process trains, saves or evaluates at this moment;
           marks/committed has a line for every record, written right after its commit, marks/befallen one for every
           fault, and marks/<pid>.hangs is there once a process was made to hang
"""

import ctypes
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

STORM: dict[str, Any] = json.loads(os.environ.get("STORM", "{}"))
BROKEN_STEP = 6  # the last before the seventh


def _constants(module: ModuleType, values: dict[str, Any]) -> None:
    for name, value in values.items():
        getattr(module, name)  # renamed: the storm would rage beside its aim
        setattr(module, name, value)


class Finder(importlib.abc.MetaPathFinder):
    """Lets the other finders find, and changes what they loaded."""

    def __init__(self, changes: dict[str, list[Callable[[ModuleType], None]]]):
        self._changes = changes

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self._changes:
            return None
        changes = self._changes.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            for change in changes:
                change(module)

        spec.loader.exec_module = execute_and_change
        return spec


def _mark(what: str) -> None:
    (Path(STORM["marks"]) / str(os.getpid())).write_text(what)


def _line(name: str, text: str) -> None:
    """Appended at once, by any number of processes."""
    file = os.open(Path(STORM["marks"]) / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.write(file, f"{text}\n".encode())
    os.close(file)


def _watched(module: ModuleType) -> None:
    """scaling.train.loop: say which phase the process is in."""
    begin = module.Watch.__init__

    def init(self: Any, **how: Any) -> None:
        begin(self, **how)
        said = self.progress

        def progress(values: dict[str, Any]) -> None:
            _mark(values["phase"])
            said(values)

        object.__setattr__(self, "progress", progress)

    module.Watch.__init__ = init


def _saves(module: ModuleType) -> None:
    """scaling.train.checkpoint: say that it saves."""
    save = module.Checkpoints.save

    def marked(self: Any, *args: Any, **how: Any) -> Any:
        _mark("save")
        try:
            return save(self, *args, **how)
        finally:
            _mark("train")

    module.Checkpoints.save = marked


def _commits(module: ModuleType) -> None:
    """scaling.record.ledger: count what was finished."""
    commit = module.Ledger.commit

    def counted(self: Any, record: Any, *args: Any, **how: Any) -> Any:
        done = commit(self, record, *args, **how)
        _line("committed", f"{record.run.id} {os.getpid()}")
        return done

    module.Ledger.commit = counted


def _out_of_memory() -> None:
    import jax

    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345678 bytes.")


def _once(name: str) -> bool:
    try:
        os.close(os.open(Path(STORM["marks"]) / name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def _hang() -> None:
    (Path(STORM["marks"]) / f"{os.getpid()}.hangs").touch()
    time.sleep(3600)


FAULTS: dict[str, Callable[[Any], object]] = {
    "segv": lambda run: ctypes.memset(0, 0, 1),
    "exit": lambda run: os._exit(3),
    "hang": lambda run: _hang(),
    "oom": lambda run: _out_of_memory(),
    "oom once": lambda run: _out_of_memory() if _once(f"{run.seed} ran out of memory") else None,
    "error": lambda run: {}["no such key"],
    "slow": lambda run: time.sleep(0.2),
}
RATES = {"nan": float("nan"), "inf": float("inf")}


def _faults(module: Any) -> None:
    """scaling.train.loop: break chosen runs as they ask for the learning rates of the chunk with the seventh step.

    A rate that is no number spoils the weights by the arithmetic of the step itself.
    """
    rates, broken = module.learning_rates, STORM["faults"]

    def spoiled(run: Any, start: int, count: int) -> Any:
        values, fault = rates(run, start, count), broken.get(str(run.seed), "")
        if fault == "slow" or (fault in FAULTS and start <= BROKEN_STEP < start + count):
            if fault != "slow":
                _line("befallen", str(run.seed))
            FAULTS[fault](run)
        elif fault in RATES and start <= BROKEN_STEP < start + count:
            values[BROKEN_STEP - start] = RATES[fault]
        return values

    module.learning_rates = spoiled


def _arrange() -> None:
    changes: dict[str, list[Callable[[ModuleType], None]]] = {}
    by_module: dict[str, dict[str, Any]] = {}
    for path, value in STORM.get("set", {}).items():
        module, _, name = path.rpartition(".")
        by_module.setdefault(module, {})[name] = value
    for module, values in by_module.items():
        changes.setdefault(module, []).append(lambda loaded, values=values: _constants(loaded, values))
    if "marks" in STORM:
        changes.setdefault("scaling.train.loop", []).append(_watched)
        changes.setdefault("scaling.train.checkpoint", []).append(_saves)
        changes.setdefault("scaling.record.ledger", []).append(_commits)
    if "faults" in STORM:
        changes.setdefault("scaling.train.loop", []).append(_faults)
    if changes:
        sys.meta_path.insert(0, Finder(changes))


_arrange()
