"""A run on several processes that are one JAX program, over gloo: its start is run on two, its end on one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.plan import Analysis, Study, straight
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.spec import ModelSpec, RunSpec
from scaling.train import train

STEPS = 400


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_two_processes_goes_on_on_one_and_is_that_of_one(tmp_path: Path, tiny: RunSpec):
    """The same losses, so the same batches. Stopped in the middle it leaves with 75, a checkpoint and one curve."""
    model = ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=60)
    run = replace(tiny, model=model, optim=replace(tiny.optim, peak_lr=1e-3), batch=16, steps=STEPS)
    two, one = tmp_path / "two", tmp_path / "one"
    plan = straight(run, [model], [run.tokens], group="grid")
    run = plan.runs[0].run
    study = Study(name="s", question="?", plan=plan, analysis=Analysis(laws=("chinchilla",)))
    commit_json(two / "study.json", study.to_json())
    command = [sys.executable, "-m", "scaling", "work", str(two)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    led = subprocess.Popen([*command, "--processes", "2"], env=environment, stderr=subprocess.PIPE, text=True)
    curve = two / "runs" / run.id / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (curve.exists() and len(curve.read_text().splitlines()) > 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    led.send_signal(signal.SIGTERM)
    _, said = led.communicate(timeout=60)
    assert led.returncode == 75, said
    assert not list((two / "teams").iterdir())
    begun = [json.loads(line) for line in curve.read_text().splitlines()]
    (saved,) = (int(path.name) for path in curve.parent.glob("checkpoints/*"))
    assert 0 < saved < STEPS and begun[-1]["step"] >= saved - 4

    together, alone = train(run, results=two), train(run, results=one)
    ours, theirs = Ledger(two).curve(run.id), Ledger(one).curve(run.id)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(4, STEPS + 1, 4))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    assert begun[:5] == ours[:5], "what was logged stands"
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
