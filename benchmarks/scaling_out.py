"""Step time against chips, on paper: a model of 135M parameters on slices of v5e from 4 to 256 chips.

.venv/bin/python benchmarks/scaling_out.py [--compile]

Strong: 256 rows of 2,048 tokens a step, whatever the chips. Weak: 4 rows a chip. Every chip holds a copy of the weights
(data = chips) and takes at most 4 rows at once. Curves are the formula of `scaling.roofline.expected`; with --compile
the programs of 4, 16, 64 and 256 chips are compiled, and their FLOPs, memory traffic and collectives take the formula's
place, as points (needs libtpu and no TPU; about a minute of one core each). Writes benchmarks/results/scaling_out.json,
of which the figure docs/figures/scaling_out.svg is drawn. All of it is estimated: no slice has been timed.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from scaling.chips import topology
from scaling.cli.compile import ENVIRONMENT
from scaling.cli.locate import studies_in
from scaling.report.compiled import verdict
from scaling.report.terms import Panel, draw
from scaling.spec import RunSpec

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "scaling_out.json"
SLICES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
COMPILED = ("2x2", "4x4", "8x8", "16x16")
WIDTH, ROWS, BATCH = 768, 4, 256
LABELS = {
    "strong": f"milliseconds a step, {BATCH} rows in all",
    "weak": f"milliseconds a step, {ROWS} rows a chip",
}


def grown(how: str, chips: int) -> RunSpec:
    planned = [p.run for p in studies_in(ROOT / "experiments" / "compute.py")["pod"].runs.runs]
    run = next(run for run in planned if run.model.d_model == WIDTH)
    return replace(run, batch=BATCH if how == "strong" else ROWS * chips)


def measure(compiling: bool) -> dict:
    from scaling.train import ahead, rank
    from scaling.train.placement import Placement

    found: dict = {"model": {"d_model": WIDTH}, "seconds": {}}
    kept = json.loads(OUT.read_text())["seconds"] if OUT.exists() else {}
    done: dict = {}  # both ways of growing meet where a chip has its rows
    for how in LABELS:
        formula, compiled = {}, {}
        for shape in SLICES:
            of = topology(f"v5e:{shape}")
            run = grown(how, of.chips)
            placement = Placement(data=of.chips, microbatches=max(1, run.batch // of.chips // ROWS))
            formula[of.chips] = rank.formula(run, placement, of).terms
            if compiling and shape in COMPILED:
                one = done.get((run, placement)) or ahead.compile_for(run, placement, of)
                done[run, placement] = one
                said = one.to_json(run, of)
                print(how, of.name, verdict(said), flush=True)
                if one.estimate:
                    compiled[of.chips] = one.estimate.terms | {
                        "flops_ratio": said["flops"]["ratio"],
                        "sent": sum(kind["sent"] for kind in said["collectives"].values()),
                    }
        found["seconds"][how] = {
            "formula": formula,
            "compiled": compiled if compiling else kept.get(how, {}).get("compiled", {}),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    os.environ |= ENVIRONMENT
    found = json.loads(json.dumps(measure(arguments.compile)))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    panels = [
        Panel(
            label=label,
            formula={int(n): terms for n, terms in found["seconds"][how]["formula"].items()},
            compiled={int(n): terms for n, terms in found["seconds"][how]["compiled"].items()},
        )
        for how, label in LABELS.items()
    ]
    draw(panels, ROOT / "docs" / "figures", "scaling_out")


if __name__ == "__main__":
    main()
