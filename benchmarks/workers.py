"""How many more runs an hour one pinned worker per core makes than one worker with every core.

python benchmarks/workers.py --out benchmarks/results/workers.json

The same sweep through `scaling run`, with --workers 1 and with one a core, taking turns in fresh folders: eight runs of
a model of 10k non-embedding parameters. Wall time of the whole command, start-up and compilation from the cache
included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train_step import spread, where

STUDY = """
from scaling.plan import Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=3, d_model=16, d_ff=64, d_head=8, vocab_size=256, context={context})
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=5e-3, warmup_steps=50), data=DataSpec(source="bytes:stdlib"),
               eval=EvalSpec(tokens=65_536), batch={batch}, steps=1)
STUDY = Study(name="workers", question="How fast?",
              plan=repeated(straight(BASE, [MODEL], [{tokens}], group="runs", role="compare"), seeds=range(8)))
"""
KINDS = {"256 tokens a step": (32, 8, 1e6), "8192 tokens a step": (128, 64, 1e6)}  # context, batch, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="sweeps with each number of workers, after one that warms up"
    )
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    cores, found = len(os.sched_getaffinity(0)), {}
    for kind, (context, batch, tokens) in KINDS.items():
        taken: dict[int, list[float]] = {1: [], cores: []}
        for turn in range(options.rounds + 1):
            for workers in list(taken)[:: -1 if turn % 2 else 1]:
                seconds = sweep(STUDY.format(context=context, batch=batch, tokens=tokens), workers)
                if turn:
                    taken[workers].append(seconds)
        ratios = [one / many for one, many in zip(taken[1], taken[cores], strict=True)]
        print(f"{kind}: {cores} workers make {spread(ratios)} times the runs an hour of one "
              f"({8 * 3600 / statistics.median(taken[cores]):,.0f} runs an hour)", flush=True)  # fmt: skip
        found[kind] = {"seconds": taken, "runs": 8}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"where": where(), "measured": found}, indent=1) + "\n")


def sweep(study: str, workers: int) -> float:
    """Seconds that the whole command takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workers.py"
        path.write_text(study)
        command = [
            sys.executable,
            "-m",
            "scaling",
            "run",
            str(path),
            "--workers",
            str(workers),
            "--out",
            f"{folder}/out",
        ]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began


if __name__ == "__main__":
    main()
