"""Several processes that are one JAX program over gloo: what is disturbed, and where it goes on, changes no number."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.plan import straight
from scaling.record import Ledger, manifest
from scaling.spec import ModelSpec, Refusal, RunSpec
from scaling.train import Placement, team, train
from scaling.train.checkpoint import Checkpoints
from scaling.train.placement import sharding
from scaling.train.step import TrainState

follow = importlib.import_module("scaling.train.follow")  # the function has its name
STEPS = 400
STUDY = """
from scaling.plan import Analysis, Study, straight
from scaling.spec import RunSpec, from_json
RUN = from_json(RunSpec, {run!r})
STUDY = Study(
    name="s", question="?", plan=straight(RUN, [RUN.model], [RUN.tokens], group="grid"),
    analysis=Analysis(laws=("chinchilla",), bootstrap=0),
)
"""


@pytest.fixture
def run(tiny: RunSpec) -> RunSpec:
    model = ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=60)
    one = replace(tiny, model=model, optim=replace(tiny.optim, peak_lr=1e-3), batch=16, steps=STEPS)
    return straight(one, [model], [one.tokens], group="grid").runs[0].run


def hosts(study: Path, out: Path, *words: str) -> "list[subprocess.Popen[str]]":
    """The same command on two of them, here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "scaling", "run", str(study), "--out", str(out), *words]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "SCALING_CORES": "1"}
    return [
        subprocess.Popen(
            [*command, "--distributed", f"127.0.0.1:{port},2,{k}"], env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for k in range(2)
    ]  # fmt: skip


def ended(processes: "list[subprocess.Popen[str]]") -> list[int]:
    try:
        said = [process.communicate(timeout=90)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print("\n".join(said))
    return [process.returncode for process in processes]


def rows_beyond(curve: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        lines = curve.read_text().splitlines() if curve.exists() else []
        if any(json.loads(line)["step"] > step for line in lines if line.endswith("}")):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no row beyond step {step}")


@pytest.mark.slow
def test_a_disturbed_run_on_two_hosts_goes_on_anywhere_and_is_that_of_one(tmp_path: Path, run: RunSpec):
    """SIGTERM to one that is led: all save their shards and end with 75. SIGKILL to its worker: all end with 75. One
    process goes on from what they saved, and the losses are those of one that did it all."""
    from scaling.spec import to_json

    study, two, one = tmp_path / "s.py", tmp_path / "two", tmp_path / "one"
    study.write_text(STUDY.format(run=to_json(run)))
    curve = two / "runs" / run.id / "metrics.jsonl"
    begun = hosts(study, two, "--mesh", "fsdp=2")
    rows_beyond(curve, 20)
    begun[1].send_signal(signal.SIGTERM)
    assert ended(begun) == [75, 75]
    (saved,) = Ledger(two).checkpoint_steps(run.id)
    assert 0 < saved < STEPS
    folder = curve.parent / "checkpoints" / str(saved)
    assert not manifest.check(folder) and {p.name for p in folder.rglob("ocdbt.process_*")} == {
        "ocdbt.process_0", "ocdbt.process_1"
    }, "each has written its own shards"  # fmt: skip

    again = hosts(study, two, "--mesh", "fsdp=2")
    rows_beyond(curve, saved)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(again[1].pid)], capture_output=True, text=True)
    os.kill(int(listed.stdout), signal.SIGKILL)
    assert ended(again) == [75, 75]
    assert not list((two / "teams").iterdir())
    assert Ledger(two).checkpoint_steps(run.id) == {saved}

    here = Placement(data=2)
    together, alone = train(run, results=two, placement=here), train(run, results=one, placement=here)
    ours, theirs = Ledger(two).curve(run.id), Ledger(one).curve(run.id)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(4, STEPS + 1, 4))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)


class Here:
    """A process that is led, without being one."""

    def __init__(self) -> None:
        self.follower, self.said = follow.Follower(), []

    def send(self, message: bytes) -> None:
        do, arrays, what = team.unpack(message)
        answer = getattr(self.follower, f"do_{do}")(*arrays, **what)
        self.said += [json.dumps(answer).encode()] if answer is not None else []

    def receive(self) -> bytes:
        return self.said.pop(0)


@pytest.fixture
def led(monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    other = Here()
    monkeypatch.setattr(follow.platform, "node", lambda: "node-7")
    team.lead([other])
    yield other
    team._others.clear()


def test_a_text_that_a_node_has_not_is_refused_by_node_and_name(led: Here, run: RunSpec, monkeypatch):
    team.open_everywhere(run)
    theirs = team.texts(run)
    monkeypatch.setattr(follow, "texts", lambda _: [theirs[0] | {"sha256": "b" * 64}, theirs[1]])
    with pytest.raises(Refusal, match=r"^node-7: zipf-facts is another than on the lead's node \(sha256: there bbb"):
        team.open_everywhere(run)

    def lacks(*_: object) -> None:
        raise Refusal("data.source = 'text:/data/a.txt': there is no file or folder /data/a.txt")

    monkeypatch.setattr(follow, "data", SimpleNamespace(open_source=lacks))
    with pytest.raises(Refusal, match=r"^node-7: data.source = 'text:/data/a.txt': there is no file"):
        team.open_everywhere(run)


def test_where_the_others_do_not_see_the_folder_the_lead_writes_all(led: Here, tmp_path: Path):
    """And the file is that of one process: it is read back by one."""
    mesh = Placement(fsdp=8).mesh()
    leaf = jax.device_put(np.arange(64.0, dtype=np.float32).reshape(16, 4), sharding(mesh, "embed", None))
    state = TrainState({"w": leaf}, (), None)
    team._shared[0], team._state[0], led.follower.state = False, state, state
    (tmp_path / "run").mkdir()
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.open()
        checkpoints.save(3, state)
        assert isinstance(checkpoints.restore(3, state).params["w"], np.ndarray), "on the host, to be sent to all"
    team._others.clear()
    with Checkpoints(tmp_path / "run") as checkpoints:
        found = checkpoints.restore(3, state).params["w"]
    assert found.sharding == leaf.sharding
    np.testing.assert_array_equal(np.asarray(found), np.asarray(leaf))
