"""How far rounding alone moves a curve: the same run with its sums in another order.

python benchmarks/rounding.py --out benchmarks/results/rounding.json

A batch of 8 windows of 32 bytes at width 32, 150 steps on eight simulated devices, against the run on one. Below the
edge of stability the difference stays where float32 puts it; above, training multiplies it every few steps, and no
order of sums is nearer to the truth than another.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from scaling.record import Ledger
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec
from scaling.train import Placement, train, train_population

RUN = RunSpec(
    model=ModelSpec(n_layers=2, d_model=32, d_ff=128, d_head=8, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99, cooldown_steps=30),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=8192),
    batch=8,
    steps=150,
)
RUNS = {
    "peak_lr 0.00125": replace(RUN, optim=replace(RUN.optim, peak_lr=1.25e-3)),
    "peak_lr 0.0025": replace(RUN, optim=replace(RUN.optim, peak_lr=2.5e-3)),
    "peak_lr 0.005": RUN,
    "peak_lr 0.01": replace(RUN, optim=replace(RUN.optim, peak_lr=1e-2)),
    "peak_lr 0.005, batch 32": replace(RUN, batch=32),
}
ORDERS = {
    "eight copies": Placement(data=8),
    "weights cut in four": Placement(fsdp=2, tensor=2),
    "four microbatches": Placement(microbatches=4),
    "rematerialised": Placement(remat="blocks"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the differences as JSON")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    found: dict[str, dict[str, float]] = {}
    for name, run in RUNS.items():
        alone = curve(run, Placement())
        apart = {how: np.abs(curve(run, placement) / alone - 1) for how, placement in ORDERS.items()}
        apart["population of two"] = np.abs(curve(run, Placement(), members=2) / alone - 1)
        found[name] = {how: float(difference.max()) for how, difference in apart.items()}
        print(name, ", ".join(f"{how} {difference:.1e}" for how, difference in found[name].items()), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def curve(run: RunSpec, placement: Placement, members: int = 1) -> np.ndarray:
    """Training loss of each step, [150]."""
    with tempfile.TemporaryDirectory() as folder:
        if members == 1:
            train(run, results=Path(folder), placement=placement)
        else:
            runs = [replace(run, seed=seed) for seed in range(members)]
            list(train_population(runs, results=Path(folder), placement=placement))
        return np.array([row["loss"] for row in Ledger(Path(folder)).curve(run.id)])


if __name__ == "__main__":
    main()
