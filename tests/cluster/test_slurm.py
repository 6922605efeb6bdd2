"""Sweeps on a real SLURM, disturbed in every way that a cluster has: ./check --slurm (as root; see slurm.sh)."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import STUDY

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
HOSTILE = "a b'c\"d$(touch pwn)`touch pwn`;touch pwn;é #&|*"
ON_SLURM = ("--on", "slurm", "--hours", "1", "--partition", "tests", "--at-once", "2")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        script = HERE / "slurm.sh"
        subprocess.run([script, "start", folder], check=True)
        patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user", "root"])
            subprocess.run([script, "stop", folder])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to be disturbed: some seconds a run."""
    path = tmp_path_factory.mktemp("study") / "tiny.py"
    path.write_text(STUDY.replace("[2000, 4000, 8000]", "[100_000, 200_000, 400_000]").replace("[16000]", "[800_000]"))
    return path


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a sweep on this machine that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference") / "out"
    done = scaling("run", str(study), "--out", str(out), "--workers", "2")
    assert done.returncode == 0, done.stderr
    return (out / "runs.csv").read_bytes()


def scaling(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "scaling", *words], capture_output=True, text=True)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def records(out: Path) -> int:
    return len(list(out.glob("runs/*/record.json")))


def begun(out: Path) -> int:
    """Runs that are being trained: they have a curve and no record."""
    return len(list(out.glob("runs/*/metrics.jsonl"))) - records(out)


def shown(task: str) -> str:
    return subprocess.run(["scontrol", "show", "job", task], capture_output=True, text=True).stdout


def test_a_killed_and_a_preempted_task_cost_nothing(study: Path, reference: bytes, tmp_path: Path):
    """In a folder with a hostile name: one task is killed for good, one gets notice of its preemption. Coming back with
    the same command follows the sweep; its table is that of an undisturbed one, byte for byte."""
    out = tmp_path / HOSTILE
    words = ("run", str(study), "--out", str(out), *ON_SLURM)
    printed = scaling(*words, "--dry-run").stdout
    assert not out.exists()
    assert scaling(*words, "--detach").returncode == 0
    job = json.loads((out / "jobs.json").read_text())["id"]
    assert (out / "logs/slurm" / f"{job}_submission.sh").read_text() == printed
    until(lambda: records(out) >= 1 and begun(out) == 2)
    subprocess.run(["scancel", "--signal=KILL", f"{job}_0"], check=True)
    subprocess.run(["scancel", "--signal=USR2", f"{job}_1"], check=True)
    until(lambda: "Restarts=1" in shown(f"{job}_1"))
    assert records(out) < 13
    done = scaling(*words)
    assert done.returncode == 0, done.stderr
    assert f"already submitted, as job {job}" in done.stderr
    assert (out / "runs.csv").read_bytes() == reference
    assert "JobState=CANCELLED" in shown(f"{job}_0") and "Restarts=0" in shown(f"{job}_0")
    assert not list(tmp_path.rglob("pwn")) and not list(Path.cwd().glob("pwn"))
    cores = {json.loads(path.read_text())["machine"]["cores"] for path in out.glob("runs/*/record.json")}
    assert cores == {"1"}


def test_leaving_requeuing_and_cancelling_cost_nothing(study: Path, reference: bytes, tmp_path: Path):
    """Ctrl-C leaves the tasks alone; a task that an administrator requeues goes on; a cancelled sweep says what is
    missing, and the same command submits it again."""
    out = tmp_path / "out"
    words = [sys.executable, "-m", "scaling", "run", str(study), "--out", str(out), *ON_SLURM]
    first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until(lambda: begun(out) == 2)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)
    job = json.loads((out / "jobs.json").read_text())["id"]
    assert first.returncode == 75 and f"scancel {job}" in said
    subprocess.run(["scontrol", "requeue", f"{job}_1"], check=True)
    until(lambda: "Restarts=1" in shown(f"{job}_1"))
    second = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until(lambda: records(out) >= 2 and begun(out) >= 1)
    subprocess.run(["scancel", job], check=True)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 1 and f"no task of job {job} is left" in said and "Restarts=1" in shown(f"{job}_1")
    assert not list((out / "holders").iterdir()), "a cancelled participant takes its leave"
    done = scaling(*words[3:])
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "jobs.json").read_text())["id"] != job
    assert (out / "runs.csv").read_bytes() == reference


LONG = """
from scaling.plan import Analysis, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=60)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=1e-3, warmup_steps=2, cooldown_steps=4), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=12000), batch=16, steps=1,
)
STUDY = Study(
    name="long", question="?", plan=straight(BASE, [MODEL], [960 * 2000], group="grid"),
    analysis=Analysis(laws=("chinchilla",), bootstrap=0),
)
"""


def test_a_run_on_two_nodes_loses_a_process_and_is_requeued_and_is_that_of_one_node(tmp_path: Path):
    path, out, alone = tmp_path / "long.py", tmp_path / "out", tmp_path / "alone"
    path.write_text(LONG)
    words = ("run", str(path), "--out", str(out), *ON_SLURM, "--nodes", "2")
    assert scaling(*words, "--detach").returncode == 0
    job = json.loads((out / "jobs.json").read_text())["id"]

    def rows() -> int:
        return sum(len(curve.read_text().splitlines()) for curve in out.glob("runs/*/metrics.jsonl"))

    def follower() -> str:
        found = subprocess.run(["pgrep", "-f", f"scaling worker {out} .*--process 1"], capture_output=True, text=True)
        return found.stdout.split()[0]

    until(lambda: rows() > 10)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until(lambda: "Restarts=1" in shown(job))
    kept = [kept.name for kept in out.glob("runs/*/checkpoints/*") if kept.name.isdecimal()]
    assert kept, "it saved before it was queued again"
    before = rows()
    until(lambda: rows() > before + 5)
    led = subprocess.run(["pgrep", "-f", f"scaling work {out} .*--process 1"], capture_output=True, text=True)
    task = subprocess.run(["ps", "-o", "ppid=", "-p", led.stdout.split()[0]], capture_output=True, text=True)
    subprocess.run(["kill", "-TERM", task.stdout.strip()], check=True)  # as where one node alone is taken away
    until(lambda: "Restarts=2" in shown(job), 300)
    before = rows()
    until(lambda: rows() > before + 5)
    subprocess.run(["kill", "-9", follower()], check=True)
    done = scaling(*words)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(path.read_text()) for path in out.glob("runs/*/record.json")]
    assert record["machine"]["processes"] == "2"
    (curve,) = out.glob("runs/*/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in curve.read_text().splitlines()]
    assert steps == list(range(20, 2001, 20))
    scaling("run", str(path), "--out", str(alone), "--workers", "1")
    (single,) = [json.loads(path.read_text()) for path in alone.glob("runs/*/record.json")]
    assert record["loss"] == pytest.approx(single["loss"], rel=1e-5)


def test_one_command_on_two_nodes_finds_the_others_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """But for the address, which is the first node's name: those of virtual nodes lead nowhere."""
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:28476")
    path, out = tmp_path / "long.py", tmp_path / "out"
    path.write_text(LONG)
    command = [sys.executable, "-m", "scaling", "run", str(path), "--out", str(out), "--distributed", "auto"]
    nodes = ["srun", "--partition", "tests", "--nodes", "2", "--ntasks-per-node", "1"]
    done = subprocess.run([*nodes, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(path.read_text()) for path in out.glob("runs/*/record.json")]
    assert record["machine"]["processes"] == "2"
