"""The cache of compiled programs: one compilation a shape and machine, nothing of other machines, a bounded size."""

import importlib.metadata
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from scaling import machine
from scaling.train import host

# Compiles one small shape and says how many programs were compiled and how many were read back.
COMPILE = """
import os, sys, time
from pathlib import Path
import jax
from scaling import machine
from scaling.train import host

if sys.argv[2]:
    machine.processor = lambda: ("Another CPU", sys.argv[2])
host.keep_compiled_programs(Path(sys.argv[1]))
counts = {}
def count(event, **_):
    name = event.rsplit("/", 1)[-1]
    counts[name] = counts.get(name, 0) + 1
jax.monitoring.register_event_listener(count)

from scaling.spec import EvalSpec, ModelSpec, OptimSpec
from scaling.train.placement import Placement
from scaling.train.program import compiled_in, program
model = ModelSpec(n_layers=1, d_model=8, d_ff=8, d_head=8, vocab_size=16, context=4)
optim = compiled_in(OptimSpec(name="sgd", peak_lr=1.0))
jax.random.key(0)  # what is compiled on the way is not a shape's
counts = {}
home, crowd = Path(sys.argv[1]), int(sys.argv[3])
(home / f"here-{os.getpid()}").touch()
while len([*home.glob("here-*")]) < crowd:
    time.sleep(0.01)
program(model, optim, 2, 8, Placement())
print(counts.get("cache_misses", 0), counts.get("cache_hits", 0))
"""


def start(home: Path, processor: str = "", crowd: int = 1) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMPILE, str(home), processor, str(crowd)], stdout=subprocess.PIPE, text=True
    )


def counted(process: subprocess.Popen) -> tuple[int, int]:
    out, _ = process.communicate(timeout=120)
    misses, hits = out.split()
    return int(misses), int(hits)


@pytest.mark.slow
def test_a_shape_is_compiled_once_by_processes_that_come_together_and_never_again(tmp_path: Path):
    together = [start(tmp_path, crowd=2), start(tmp_path, crowd=2)]
    assert sorted(counted(process) for process in together) == [(0, 3), (3, 0)]  # first weights, step, evaluation
    assert counted(start(tmp_path)) == (0, 3)
    assert counted(start(tmp_path, processor="0badf00d")) == (3, 0)  # a shared home, seen from another machine
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2


def fill(folder: Path, count: int, size: int = 1000) -> list[Path]:
    """Files, the first of them used last."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}-cache" for i in range(count)]
    for age, path in enumerate(paths):
        path.write_bytes(b"x" * size)
        os.utime(path, (1e9 - age, 1e9 - age))
    return paths


def test_what_was_not_used_for_longest_goes_first_whatever_version_it_is_of(tmp_path: Path):
    new, old = fill(tmp_path / "this jaxlib", 6), fill(tmp_path / "older jaxlib", 2)
    os.utime(new[5], (2e9, 1.0))  # written long ago, read just now
    host.bound(tmp_path, 6000)
    assert [path.exists() for path in (*new, *old)] == [True] * 3 + [False, False, True] + [True, True]
    host.bound(tmp_path, 6000)
    assert sum(path.exists() for path in (*new, *old)) == 6
    host.bound(tmp_path, 0)
    assert not any(path.exists() for path in (*new, *old))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Keeps programs below this test's folder, at most 20,000 bytes of them."""
    monkeypatch.setattr(host, "_kept", [])
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    yield lambda: host.keep_compiled_programs(tmp_path, limit=20_000)
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_bounded_when_it_is_opened_and_with_each_program_that_is_added(tmp_path: Path, kept):
    old = fill(tmp_path / "older jaxlib", 30)
    kept()
    assert sum(path.exists() for path in old) == 20
    folder = tmp_path / machine.program_key()
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    fill(folder, 5)
    jax.monitoring.record_event("/jax/compilation_cache/cache_misses")  # as JAX says when it writes
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 20_000


def test_the_key_names_the_compiler_and_the_processor():
    assert importlib.metadata.version("jaxlib") in machine.program_key()
    assert machine.processor()[1] in machine.program_key()


def test_who_waits_for_a_compilation_goes_on_when_it_is_over(kept):
    kept()
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with host.compiled_once("shape", 1):
            inside.set()
            leave.wait(10)
            order.append("first")

    def second() -> None:
        with host.compiled_once("shape", 1):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    with host.compiled_once("another shape"):
        order.append("another")
    time.sleep(0.2)  # in which the second would be through
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["another", "first", "second"]


def test_a_home_that_cannot_be_written_to_costs_the_cache_and_no_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").touch()
    host.keep_compiled_programs(tmp_path / "file")
    assert "are not kept" in capsys.readouterr().err
    with host.compiled_once("shape"):
        pass
