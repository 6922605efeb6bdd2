"""Shapes measured side by side, by stand-in workers that speak the protocol."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.launch.bench import Team
from scaling.spec import RunSpec

# Says its number, its cores and when it was at work; the seed of the run says how it ends.
WORKER = """
import os, signal, sys, time
from scaling.launch.worker import serve

def make(job, progress, stop):
    (run,) = job.runs
    began = time.monotonic()
    time.sleep(0.3)
    if run.seed == 1 and sys.argv[1] == "1":
        raise ValueError("no such luck")
    if run.seed == 2 and sys.argv[1] == "1":
        print("its last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    progress({"number": int(sys.argv[1]), "cores": sorted(os.sched_getaffinity(0)), "began": began,
              "ended": time.monotonic()})
    yield run.id, "measured"

sys.exit(serve(make))
"""


@pytest.fixture
def team(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with Team(lambda number: [sys.executable, str(script), str(number)], 2, tmp_path) as team:
        yield team


def test_all_workers_are_at_one_shape_at_the_same_time_each_on_its_core(team: Team, tiny: RunSpec):
    found = team.measure(tiny)
    first, second = found.by_worker
    assert not found.reason and [first["number"], second["number"]] == [0, 1] and team.start > 0
    assert max(first["began"], second["began"]) < min(first["ended"], second["ended"])
    here = sorted(os.sched_getaffinity(0))
    assert [first["cores"], second["cores"]] == [[here[0]], [here[1 % len(here)]]]
    assert found.middle("number") == 0.5


@pytest.mark.parametrize(
    "seed, said", [(1, "ValueError: no such luck"), (2, "signal 9, as when memory runs out: its last words")]
)
def test_a_shape_that_fails_has_a_reason_and_the_next_is_measured(team: Team, tiny: RunSpec, seed: int, said: str):
    lost = team.measure(replace(tiny, seed=seed))
    assert said in lost.reason and lost.by_worker == ()
    assert len(team.measure(tiny).by_worker) == 2


def test_a_worker_that_cannot_start_is_a_reason_and_no_wait(tmp_path: Path, tiny: RunSpec):
    began = time.monotonic()
    with Team(lambda number: [sys.executable, "-c", "raise SystemExit('no jax here')"], 2, tmp_path) as team:
        assert "no jax here" in team.measure(tiny).reason
    assert time.monotonic() - began < 10
