"""`scaling work` as a child of an engine's task, with stand-ins that log what reaches them."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from scaling import machine
from scaling.launch import participant, process
from scaling.launch.participant import Participant

# Logs each signal; ends with 75 some time after the first one, as a participant that saves does. argv: log, seconds
SAVES = """
import os, signal, sys, time
log, asked = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND), []
def say(*words):
    os.write(log, (" ".join(map(str, words)) + "\\n").encode())
def heard(number, _):
    say(signal.Signals(number).name)
    asked.append(time.monotonic())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, heard)
say("ready", os.environ.get("SCALING_CORES"), os.environ.get("JAX_PLATFORMS"))
while not asked or time.monotonic() < asked[0] + float(sys.argv[2]):
    time.sleep(0.01)
sys.exit(75)
"""


def started(log: Path, seconds: float, **how) -> Participant:
    child = Participant([sys.executable, "-c", SAVES, str(log), str(seconds)], **{"granted": 1_000_000} | how)
    while not (log.is_file() and log.read_text().endswith("\n")):
        time.sleep(0.01)
    return child


def test_a_participant_hears_of_a_stop_once_however_often_its_engine_signals(tmp_path: Path):
    child = started(tmp_path / "log", 0.3)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGHUP):
        os.kill(child._process.pid, number)  # as an engine does that signals every process of a task
    child.ask()
    assert child.stop() == 75 and child.stop() == 75
    assert (tmp_path / "log").read_text().splitlines()[1:] == ["SIGINT"]


def test_the_engines_signals_reach_the_task_itself(tmp_path: Path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    child = started(tmp_path / "log", 0.0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    child.stop()


def test_a_participant_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(participant, "GRACE_SECONDS", 0.2)
    assert started(tmp_path / "log", 60.0).stop() == -signal.SIGKILL


def test_a_participant_knows_its_cores_and_its_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, cores, platform, said in (("a", 2, "", "2 None"), ("b", 4, "cpu", "4 cpu")):
        started(tmp_path / name, 0.0, granted=cores, platform=platform).stop()
        assert (tmp_path / name).read_text().splitlines()[0] == f"ready {said}"


def test_workers_keep_to_the_cores_that_their_task_was_given(monkeypatch: pytest.MonkeyPatch):
    """Where the task sees more than that, none is pinned: two tasks of one machine would take its first core."""
    monkeypatch.setattr(machine, "cores", lambda: [4, 5, 6])
    for name, said, given in (
        ("SLURM_CPUS_PER_TASK", "3", 3),
        ("SLURM_CPUS_PER_TASK", "2", 2),
        ("SCALING_CORES", "1", 1),
    ):
        monkeypatch.setenv(name, said)
        assert machine.given_cores() == given and machine.cores_are_ours() == (given == 3)
        assert process._cores_in_words(alone=True) == {"NPROC": "1", "SCALING_CORES": "1"}
        assert process._cores_in_words(alone=False) == ({} if given == 3 else {"NPROC": str(given)})


def test_workers_that_share_an_accelerator_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    """JAX would take three quarters of it in the first, and leave the second too little."""
    monkeypatch.delenv(process.MEMORY_SHARE, raising=False)
    assert process._memory_in_words(1) == {}
    for sharers in (2, 3, 8):
        (share,) = process._memory_in_words(sharers).values()
        assert 0.8 < sharers * float(share) < 0.95
    monkeypatch.setenv(process.MEMORY_SHARE, "0.3")
    assert process._memory_in_words(2) == {}
