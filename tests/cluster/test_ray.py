"""Sweeps on a real Ray cluster of two nodes, one of which dies: ./check --ray."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import STUDY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default::ResourceWarning"),  # ray leaves the pipes of its daemons to the collector
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]


@pytest.fixture
def cluster() -> Iterator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to be disturbed: some seconds a run."""
    path = tmp_path_factory.mktemp("study") / "tiny.py"
    path.write_text(STUDY.replace("[2000, 4000, 8000]", "[50_000, 100_000, 200_000]").replace("[16000]", "[400_000]"))
    return path


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a sweep on this machine that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference") / "out"
    done = subprocess.run(command(study, out, "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (out / "runs.csv").read_bytes()


def command(study: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "scaling", "run", str(study), "--out", str(out), *words]


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def records(out: Path) -> int:
    return len(list(out.glob("runs/*/record.json")))


def begun(out: Path) -> int:
    return len(list(out.glob("runs/*/metrics.jsonl"))) - records(out)


def participants(out: Path) -> list[str]:
    found = subprocess.run(["pgrep", "--full", "--list-full", f"scaling wor.*{out}"], capture_output=True, text=True)
    return found.stdout.splitlines()


def test_a_node_that_dies_and_an_interrupt_cost_nothing(study: Path, reference: bytes, tmp_path: Path, cluster):
    out = tmp_path / "a b'c$(touch pwn)"
    words = command(study, out, "--on", "ray", "--address", cluster.address)
    refused = subprocess.run([*words, "--gpus", "64"], capture_output=True, text=True)
    assert refused.returncode == 2 and "no node of the cluster has as much" in refused.stderr and not out.exists()
    first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until(lambda: records(out) >= 1 and begun(out) >= 1)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 75 and "stopped; what is done is kept" in said, said
    until(lambda: not participants(out), 5)
    assert not list((out / "holders").iterdir()), "an interrupted participant takes its leave"
    kept = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/record.json")}

    second = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until(lambda: begun(out) >= 1 and records(out) > len(kept))
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert (out / "runs.csv").read_bytes() == reference
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in out.glob("runs/*/record.json")}.items()
    assert not list(tmp_path.rglob("pwn"))
