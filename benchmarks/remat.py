"""What rematerialisation costs and saves on this machine's device, layers apart (4) and in a loop (12).

python benchmarks/remat.py --out benchmarks/results/remat.json      on an accelerator, a minute

A transformer of width 512 and bfloat16 activations, 64 windows of 512 bytes a step, 100 steps; the memory is what XLA
says of the compiled program, the rate that of the training clock, compilation left out.
"""

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import jax

from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec, compiled_in
from scaling.train.loop import train
from scaling.train.placement import Placement, Remat
from scaling.train.program import program

LAYERS = (4, 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    rows = [measured(layers, remat) for layers in LAYERS for remat in get_args(Remat)]
    document = {
        "date": datetime.now(UTC).date().isoformat(), "device": jax.devices()[0].device_kind, "cpus": os.cpu_count(),
        "python": platform.python_version(), "versions": {name: version(name) for name in ("jax", "flax", "optax")},
        "rows": rows,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def measured(layers: int, remat: Remat) -> dict[str, Any]:
    run = RunSpec(
        model=ModelSpec(
            n_layers=layers, d_model=512, d_ff=2048, d_head=64, vocab_size=256, context=512, compute_dtype="bfloat16"
        ),
        optim=OptimSpec(
            peak_lr=2e-3, warmup_steps=10, cooldown_steps=20, parametrization="complete", base_width=512, base_layers=12
        ),
        data=DataSpec(source="bytes:stdlib"), eval=EvalSpec(tokens=65_536), batch=64, steps=100,
    )  # fmt: skip
    placement = Placement(remat=remat)
    memory = program(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement).memory
    with tempfile.TemporaryDirectory() as folder:
        clock = train(run, results=Path(folder), placement=placement).clock
    assert clock is not None
    row = {
        "layers": layers, "remat": remat, "mebibytes": round(memory / 2**20),
        "tokens_per_second": round(clock.tokens_per_second), "compile_seconds": round(clock.compile, 1),
    }  # fmt: skip
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
