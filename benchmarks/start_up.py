"""How much of a sweep's time is not training steps: 12 runs of 4 shapes, with nothing in the cache and again with all.

python benchmarks/start_up.py --out benchmarks/results/start_up.json
python benchmarks/start_up.py --horizons 4e4 8e4      # a quick look that it works; its shares mean nothing

Runs `scaling run` in a temporary results folder and with a temporary $XDG_CACHE_HOME, twice. A worker-second is a
second of one worker. From the records' clocks: compile, train, checkpoint (opening, restoring, saving weights) and
evaluate. From the times at which records were written: start (until the first run begins, imports included), close
(after the last record: forecast, fits, page) and idle, which is the rest: waiting for work, and handing it over.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from train_step import where  # beside this file

HORIZONS = (1.5e6, 6e6)  # tokens; about the longest that the standard library has text for
PHASES = ("start", "compile", "train", "checkpoint", "evaluate", "idle", "close")

STUDY = """
from scaling.cost import at_width
from scaling.plan import Analysis, Study, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99), data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144), batch=8, steps=1,
)
STUDY = Study(
    name="start_up", question="How much of a sweep is training?",
    plan=trunks(BASE, [at_width(MODEL, d) for d in (16, 32, 48, 64)], {horizons}, group="grid"),
    analysis=Analysis(laws=("chinchilla",)),
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--horizons", type=float, nargs=2, default=HORIZONS, metavar="D", help="tokens of the runs")
    parser.add_argument("--workers", type=int, help="worker processes (default: as `scaling run`)")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "start_up.py"
        study.write_text(STUDY.format(horizons=[*options.horizons]))
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(folder) / "cache")}
        measured = {
            cache: sweep(study, Path(folder) / cache, environment, options.workers)
            for cache in ("cold cache", "warm cache")
        }
    Console(width=110).print(table(measured))
    if options.out:
        document = {"where": where(), "horizons": [*options.horizons], "measured": measured}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def sweep(study: Path, out: Path, environment: dict[str, str], workers: int | None) -> dict[str, Any]:
    """Worker-seconds of one sweep by phase."""
    command = [sys.executable, "-m", "scaling", "run", str(study), "--out", str(out)]
    command += ["--workers", str(workers)] if workers else []
    began = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with status {done.returncode}\n{done.stderr}")
    plan = subprocess.run(
        [sys.executable, "-m", "scaling", "plan", str(study), "--out", str(out), "--json"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    workers = workers or int(json.loads(plan.stdout)["workers"])
    records = [(path.stat().st_mtime, json.loads(path.read_text())) for path in out.glob("runs/*/record.json")]
    clocks = [record["clock"] for _, record in records]
    known = ("compile", "train", "checkpoint", "evaluate")
    phases = {name: float(sum(clock[name] for clock in clocks)) for name in known}
    first = min(at - sum(record["clock"][name] for name in known) for at, record in records)
    last = max(at for at, _ in records)
    phases["start"], phases["close"] = workers * (first - began), workers * (ended - last)
    phases["idle"] = workers * (ended - began) - sum(phases.values())
    return {
        "runs": len(records),
        "workers": workers,
        "wall_seconds": round(ended - began, 3),
        "worker_seconds": {name: round(phases[name], 3) for name in PHASES},
        "outside_training": round(1 - phases["train"] / (workers * (ended - began)), 4),
    }


def table(measured: dict[str, Any]) -> Table:
    shown = Table("worker-seconds", *measured)
    for phase in PHASES:
        shown.add_row(phase, *(f"{found['worker_seconds'][phase]:.1f}" for found in measured.values()))
    shown.add_row("wall x workers", *(f"{f['wall_seconds']:.1f} x {f['workers']}" for f in measured.values()))
    shown.add_row("outside training", *(f"{found['outside_training']:.1%}" for found in measured.values()))
    return shown


if __name__ == "__main__":
    main()
