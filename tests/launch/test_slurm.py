"""SLURM by stand-ins: sbatch runs the file that it is given with sh, srun its command, and squeue says what it is told.

A real SLURM runs in tests/cluster (./check --slurm).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.launch import slurm
from scaling.launch.slurm import Request, Task
from scaling.spec import Refusal

SBATCH = """#!/bin/sh
[ ! -f "$SLURM_FAKE/refuse" ] || { echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }
echo x >>"$SLURM_FAKE/calls"
id=$((6 + $(wc -l <"$SLURM_FAKE/calls")))
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 "${last:-0}"); do
    SLURM_JOB_ID=$id$task SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task sh "$1" >>"$SLURM_FAKE/batch.log" 2>&1 &
done
echo "Submitted batch job $id"
"""
SRUN = """#!/bin/sh
name() { echo "$1" | sed "s/%A/$SLURM_ARRAY_JOB_ID/; s/%a/$SLURM_ARRAY_TASK_ID/; s/%t/0/"; }
while :; do
    case $1 in
    --output) out=$(name "$2") && shift 2 ;;
    --error) err=$(name "$2") && shift 2 ;;
    --*) shift ;;
    *) break ;;
    esac
done
exec "$@" >>"$out" 2>>"$err"
"""
SQUEUE = """#!/bin/sh
[ ! -f "$SLURM_FAKE/error" ] || { cat "$SLURM_FAKE/error" >&2; exit 1; }
cat "$SLURM_FAKE/states"
"""

HOSTILE = "a b'c\"d$(touch pwn)`touch pwn`;touch pwn;é #&|*"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the stand-ins keep what they were told."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "states").write_text("")
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_hostile_names_do_no_harm(cluster: Path, tmp_path: Path):
    """Every task runs in the very folder, and no word of its name runs as a command."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    mark = "import sys, os, pathlib; pathlib.Path(sys.argv[1], 'mark-' + os.environ['SLURM_ARRAY_TASK_ID']).touch()"
    request = Request(hours=1, options={"comment": HOSTILE}, account="$(touch pwn)", partition="`touch pwn`")
    job_id = slurm.submit(request, "study", folder, [[sys.executable, "-c", mark, str(folder)]] * 2)
    until(lambda: len(list(slurm.logs(folder).glob(f"{job_id}_*_result.pkl"))) == 2)
    assert sorted(path.name for path in folder.glob("mark-*")) == ["mark-0", "mark-1"]
    assert not list(tmp_path.rglob("pwn"))
    assert {path.suffix for path in slurm.logs(folder).glob("7_0_0_log.*")} == {".err", ".out"}


@pytest.mark.parametrize("name", ["a\ntouch pwn\n", "50%j", "back\\slash"])
def test_a_folder_that_slurm_cannot_name_is_refused(name: str, tmp_path: Path):
    assert any(fault.startswith("--out") for fault in Request(hours=1).faults(tmp_path / name))


def test_line_breaks_never_reach_the_file_that_is_submitted(tmp_path: Path):
    bad = Request(hours=1, partition="p\ntouch pwn", options={"comment": "\ntouch pwn", "x y": ""}, qos="q\r")
    assert [fault.partition(" ")[0] for fault in bad.faults(tmp_path)] == ["--partition", "--qos", "--slurm", "--slurm"]


def test_what_is_printed_is_what_is_submitted(cluster: Path, tmp_path: Path):
    request = Request(hours=0.35, cpus=3, gpus=2, memory_gb=1.5, qos="low", options={"exclusive": ""}, setup=["date"])
    for tasks, submitted in ((1, "7_submission.sh"), (3, "8_submission.sh")):
        text = slurm.script(request, "study", tmp_path, tasks)
        assert slurm.submit(request, "study", tmp_path, [["true"]] * tasks) == submitted[0]
        assert (slurm.logs(tmp_path) / submitted).read_text() == text
        for line in ("--time=21", "--cpus-per-task=3", "--gpus-per-node=2", "--mem=1536M", "--exclusive", "--requeue"):
            assert f"#SBATCH {line}\n" in text
        assert ("--array=0-2%3" in text) == (tasks > 1) and "wckey" not in text and "\ndate\n" in text


def test_what_sbatch_refuses_is_refused_in_its_words(cluster: Path, tmp_path: Path):
    (cluster / "refuse").touch()
    with pytest.raises(Refusal, match="invalid partition specified: nowhere"):
        slurm.submit(Request(hours=1), "study", tmp_path, [["true"]])


def test_states_are_counted_and_a_silent_controller_is_no_end(cluster: Path):
    (cluster / "states").write_text("RUNNING|None\nRUNNING|None\nPENDING|Priority\nCOMPLETED|None\nCANCELLED|None\n")
    assert slurm.states("7") == {("RUNNING", "None"): 2, ("PENDING", "Priority"): 1}
    (cluster / "error").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert not slurm.states("7")
    (cluster / "error").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(Refusal, match="Unable to contact"):
        slurm.states("7")


@pytest.fixture
def requeued(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """submitit's own handling of a task's signals, on a clock that is told the time; yields (signal, queued again)."""
    from submitit.core import job_environment, utils  # pyright: ignore[reportMissingImports]
    from submitit.slurm import slurm as theirs  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(slurm, "LIMITS", 2)
    again: list[int] = []
    now = [time.time()]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr(theirs.SlurmJobEnvironment, "_requeue", lambda self, left: again.append(left))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (cluster / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    job = slurm._executor(Request(hours=1), "study", tmp_path, 1).submit(Task(["true"]))

    def signalled_after(minutes: float) -> None:
        """A task that starts now is signalled so many minutes later."""
        delayed = utils.DelayedSubmission.load(job.paths.submitted_pickle)
        handler = job_environment.SignalHandler(theirs.SlurmJobEnvironment(), job.paths, delayed)
        now[0] += 60 * minutes
        handler.checkpoint_and_try_requeue(signal.SIGUSR2)

    return signalled_after, again


def test_preemptions_are_free_and_time_limits_are_counted(requeued):
    """Preempted at 30 minutes of 60: queued again, as often as it takes; at its limit: so many times."""
    from submitit.core.utils import UncompletedJobError  # pyright: ignore[reportMissingImports]

    signalled_after, again = requeued
    for minutes in (30, 59, 30, 58, 30, 30):
        with pytest.raises(SystemExit):
            signalled_after(minutes)
    assert again == [2, 1, 1, 0, 0, 0]
    with pytest.raises(UncompletedJobError, match="timed-out too many times"):
        signalled_after(59)
    assert len(again) == 6


TASK = """
import signal, sys
from scaling.launch import slurm
slurm._notice = lambda: signal.SIGUSR2
signal.signal(signal.SIGTERM, lambda *_: print("let pass", flush=True))  # as submitit has it
signal.signal(signal.SIGUSR2, lambda *_: print("queued again", flush=True))
child = (
    "import sys, signal, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(int(sys.argv[1])));"
    "print('up', flush=True); time.sleep(60)"
)
print("status", slurm.Task([sys.executable, "-c", child, sys.argv[1]])(), flush=True)
"""


@pytest.mark.parametrize(
    "state, status, said",
    [
        ("RUNNING", 75, ["queued again", "status 75"]),  # preempted: it would count as done if it just ended
        ("COMPLETING", 75, ["status 75"]),  # cancelled, or queued again by somebody
        ("RUNNING", 0, ["status 0"]),  # it had just finished
        ("RUNNING", 3, []),
    ],
)
def test_a_task_that_is_told_to_end_is_queued_again_unless_it_was_cancelled(
    cluster: Path, state: str, status: int, said: list[str]
):
    (cluster / "states").write_text(f"{state}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", TASK, str(status)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert out.splitlines() == said
    assert (process.returncode != 0) == (status == 3) == ("ended with status 3" in err)


def test_last_words_are_those_of_every_task(tmp_path: Path):
    folder = slurm.logs(tmp_path)
    folder.mkdir(parents=True)
    for name, text in (("7_0_0_log.err", "x\nno room\n\n"), ("7_0_0_log.out", "hm\n"), ("7_1_0_log.out", "end\n")):
        (folder / name).write_text(text)
    (folder / "8_0_0_log.err").write_text("another job\n")
    assert [words for _, words in slurm.last_words(tmp_path, "7")] == ["no room", "end"]
