"""A disk that fills up: what cannot be saved has failed and says so, the rest is done, and room mends it."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from scaling.record import Ledger

from .ground import Found, Ground, Results, Row, ended, shown, wait_for

MIB = 1 << 20
SMALL, LARGE = 16 * MIB, 256 * MIB  # the file system, and after there is room
BIG = 9  # seed of the run whose weights are too large for it

# Three small runs, and one whose single checkpoint fills most of 16 MiB.
STUDY = f"""
from dataclasses import replace
from scaling.cost import at_width
from scaling.plan import Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=5e-3), data=DataSpec(source="zipf-facts"),
               eval=EvalSpec(tokens=6600), batch=8, steps=1)
BIG = straight(replace(BASE, seed={BIG}), [at_width(MODEL, 256)], [1e4], group="big", role="compare")
STUDY = Study(name="disk", question="Is there room?",
              plan=repeated(straight(BASE, [MODEL], [1.5e5], group="small", role="compare"), seeds=range(3)) + BIG)
"""


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """In a file system of 16 MiB: one that is too small for one run of four, and one that is filled meanwhile.

    In a process with mounts of its own, so that none is left behind.
    """
    command = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        return Row(storm="disk full", skipped="this user may not mount a small file system (unshare)")
    out = ground.folder / "disk"
    here = [sys.executable, "-m", "storms.disk", str(out), str(ground.cache), str(seed), "1" if short else "5"]
    done = subprocess.run([*command, *here], env=ground.environment(out), capture_output=True, text=True)
    if done.returncode:
        row = Row(storm="disk full")
        row.judge("the process", Found(wrong=done.stderr.strip().splitlines()[-1:]))
        return row
    return Row.from_json(json.loads(done.stdout))


def mounted(folder: Path, cache: Path, seed: int, fills: int) -> Row:
    row, rng = Row(storm="disk full"), random.Random(seed)
    ground = Ground(folder, STUDY, cache=cache)
    reference, seconds = ground.undisturbed()
    for turn in range(fills + 1):
        home = folder / f"small-{turn}"
        home.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "storm", str(home)], check=True)
        what, out = "filled meanwhile" if turn else "too small for one run", home / "out"
        process = ground.start(out)
        if turn:
            wait_for(lambda out=out: any(out.glob("runs/*/metrics.jsonl")), 60)
            wait_for(lambda process=process: process.poll() is not None, rng.uniform(0.0, seconds / 4))
            _fill(home / "filler")
        status = ended(process)
        found = _ended_well(out, reference, status, ground.last_words(process), exact=not turn)
        (home / "filler").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(home)], check=True)
        row.judge(what, found + ground.completed(out))
        subprocess.run(["umount", str(home)], check=True)
    row.said = {"file system": f"{SMALL // MIB} MiB"}
    return row


def _fill(path: Path) -> None:
    try:
        with open(path, "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
    except OSError:
        return


def _ended_well(out: Path, reference: Results, status: int, said: str, exact: bool) -> Found:
    """By itself, with the failures that it says, and nothing wrong among what is done."""
    ledger, wrong = Ledger(out), []
    if status != 1:
        wrong.append(f"it ended with status {status}: {said}")
    done = {path.parent.name for path in out.glob("runs/*/record.json")}
    if exact:
        big = {path.parent.name for path in out.glob("runs/*/spec.json")
               if json.loads(path.read_text())["seed"] == BIG}  # fmt: skip
        failures = {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/failure.json")}
        if {run_id: failure.get("kind") for run_id, failure in failures.items()} != dict.fromkeys(big, "disk_full"):
            wrong.append(f"failures {failures}, and run {', '.join(big) or '?'} alone had no room")
        if done != set(reference.records) - big:
            wrong.append(f"{len(done)} runs are done, and {len(reference.records) - 1} had room")
    silent = [f"run {i}: another result" for i in done if shown(ledger[i]) != reference.records.get(i)]
    return Found(wrong=wrong, silent=silent)


if __name__ == "__main__":
    found = mounted(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(found.to_json()))
