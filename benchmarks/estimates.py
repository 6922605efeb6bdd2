"""How well `scaling plan` knows the time of an experiment once `scaling bench` has measured its shapes.

python benchmarks/estimates.py quickstart --out benchmarks/results/estimates.json

Three commands in a temporary results folder and with a temporary $XDG_CACHE_HOME: `scaling bench EXPERIMENT`, `scaling
plan EXPERIMENT --json`, `scaling run EXPERIMENT`. Compared are the wall time of the whole last command, and by run the
seconds that it kept its worker: training, evaluation and weights, compilation left out.
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
from train_step import spread, where  # beside this file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    measured = {experiment: compare(experiment) for experiment in options.experiments}
    Console(width=110).print(table(measured))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"where": where(), "measured": measured}, indent=1) + "\n")


def compare(experiment: str) -> dict[str, Any]:
    """Seconds as estimated and as they were."""
    with tempfile.TemporaryDirectory() as folder:
        out, environment = str(Path(folder) / "results"), os.environ | {"XDG_CACHE_HOME": str(Path(folder) / "cache")}

        def scaling(*words: str) -> tuple[str, float]:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "scaling", *words], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"scaling {' '.join(words)}: ended with status {done.returncode}\n{done.stderr}")
            return done.stdout, time.monotonic() - began

        _, bench_seconds = scaling("bench", experiment)
        plan = json.loads(scaling("plan", experiment, "--out", out, "--json")[0])
        _, wall = scaling("run", experiment, "--out", out)
        records = [json.loads(path.read_text()) for path in Path(out).glob("runs/*/record.json")]
    runs = {}
    for record in records:
        clock = record["clock"]
        seconds = clock["train"] + clock["evaluate"] + clock["checkpoint"]
        runs[record["id"]] = {"estimated": plan["seconds_by_run"][record["id"]], "actual": round(seconds, 3)}
    return {
        "workers": plan["workers"],
        "from": plan["seconds_from"],
        "bench_seconds": round(bench_seconds, 1),
        "wall": {"estimated": plan["seconds"], "actual": round(wall, 1)},
        "runs": runs,
    }


def table(measured: dict[str, Any]) -> Table:
    shown = Table(
        "experiment", "bench, s", "estimated wall, s", "actual, s", "ratio", "runs: estimated / actual", "worst"
    )
    for experiment, found in measured.items():
        wall = found["wall"]
        ratios = [run["estimated"] / run["actual"] for run in found["runs"].values()]
        worst = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
        shown.add_row(
            experiment, f"{found['bench_seconds']:.0f}", f"{wall['estimated']:.1f}", f"{wall['actual']:.1f}",
            f"{wall['estimated'] / wall['actual']:.2f}", spread(ratios),
            f"{worst:.2f}",
        )  # fmt: skip
    return shown


if __name__ == "__main__":
    main()
