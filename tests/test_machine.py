"""The table of a machine's speeds: nobody's numbers but this machine's, and nothing lost by a bad file."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scaling import machine
from scaling.machine import Measured, Shape, Speed
from scaling.spec import RunSpec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "scaling"


def speed(run: RunSpec, **how) -> Speed:
    values = dict(workers=2, train=1e-6, spread=0.01, evaluate=3e-7, compile_cold=6.0, compile_cached=1.0, per_run=0.3)
    return Speed(**({"shape": Shape.of(run), "memory": 1_000_000, "date": "2026-11-26"} | values | how))


def test_what_is_kept_is_what_is_read(tiny: RunSpec, own_cache: Path):
    assert machine.measured() == (None, "")
    speeds = [speed(tiny), speed(replace(tiny, batch=3), largest_batch=48)]
    assert machine.keep("cpu", 2.5, speeds) == ""
    assert machine.measured() == (Measured(device="cpu", start=2.5, speeds=tuple(speeds)), "")
    assert [path.name for path in own_cache.iterdir() if not path.name.startswith(".")] == ["machine.json"]


def test_a_shape_measured_again_is_replaced_and_the_others_stay(tiny: RunSpec):
    other = replace(tiny, optim=replace(tiny.optim, name="sgd"))
    machine.keep("cpu", 1.0, [speed(tiny), speed(other), speed(tiny, workers=1)])
    machine.keep("cpu", 2.0, [speed(replace(tiny, optim=replace(tiny.optim, peak_lr=1.0), steps=99), train=9e-6)])
    entry, _ = machine.measured()
    assert entry.speeds == (speed(other), speed(tiny, workers=1), speed(tiny, train=9e-6))


def test_machines_that_share_a_home_keep_apart(tiny: RunSpec, monkeypatch: pytest.MonkeyPatch):
    machine.keep("cpu", 1.0, [speed(tiny)])
    here = machine.key()
    for name, other in (
        ("processor", lambda: ("Another CPU", "0badf00d")),
        ("accelerators", lambda: "8 x NVIDIA H100 80GB HBM3"),
    ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(machine, name, other)
            assert machine.key() != here and machine.measured() == (None, "")
            machine.keep("there", 5.0, [speed(tiny, train=7e-6)])
    entry, _ = machine.measured()
    assert entry.speeds == (speed(tiny),) and len(json.loads(machine.table_path().read_text())["machines"]) == 3


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"version": 99, "machines": {}}', '{"version": 1}', '{"version": 1, "machines": {"x": {}}}',
        '{"version": 1, "machines": {"x": {"speeds": [{"shape": {}}]}}}', b"\xff\xfe".decode("latin1"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_said_ignored_and_kept_beside_the_next(tiny: RunSpec, own_cache: Path, text: str):
    own_cache.mkdir()
    machine.table_path().write_text(text, encoding="latin1")
    entry, fault = machine.measured()
    assert entry is None and str(machine.table_path()) in fault and "ignored" in fault
    assert "machine.unread.json" in machine.keep("cpu", 1.0, [speed(tiny)])
    assert (own_cache / "machine.unread.json").read_text(encoding="latin1") == text
    entry, fault = machine.measured()
    assert entry.speeds == (speed(tiny),) and not fault


def test_a_time_that_cannot_be_is_no_time(tiny: RunSpec):
    for wrong in (-1e-6, float("nan")):
        machine.keep("cpu", 1.0, [speed(tiny, workers=4)])
        text = machine.table_path().read_text()
        machine.table_path().write_text(text.replace('"train": 1e-06', f'"train": {json.dumps(wrong)}'))
        entry, fault = machine.measured()
        assert entry is None and "train" in fault


def test_a_ceiling_is_the_best_that_was_seen():
    assert [machine.keep_ceiling("float32, 1 core", value) for value in (5e10, 9e10, 7e10)] == [5e10, 9e10, 9e10]


def test_the_ceiling_of_a_pinned_worker_is_its_own():
    code = "from scaling import machine; print(machine.ceiling_key('float32', 1)); print(machine.key())"
    core = str(min(os.sched_getaffinity(0)))
    pinned = subprocess.run(["taskset", "-c", core, sys.executable, "-c", code], capture_output=True, text=True)
    name, key = pinned.stdout.splitlines()
    assert name == "float32, 1 cores, 1 devices" and key == machine.key()
