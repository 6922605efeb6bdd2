"""What `scaling compile` says of four sizes of the pod study, 25M to 3B parameters, on three slices.

.venv/bin/python benchmarks/compile_reports.py [--topologies v5e:4x4 v5e:16x16 v5p:4x4x4] [--tries 1]
.venv/bin/python benchmarks/compile_reports.py --table      what is there, as the table of docs/compile.md

Needs libtpu (pip install -e '.[tpu]') and no TPU; a minute or more of one core for each compile. Of the largest model
`--tries` placements are compiled beside that of the rule, of the others that one alone, or as many of the rule's as it
takes until one fits. Writes benchmarks/results/compile/TOPOLOGY.json, size by size, as `scaling compile compute --size
pod --topology TOPOLOGY --run IDS --json` would; a size that is there is kept. The figures are of compiled programs, the
times in them estimates.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from scaling.cli.locate import studies_in
from scaling.cost import train_flops
from scaling.report.compiled import seconds
from scaling.spec import RunSpec

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "compile"
TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4", "v5e:4x4")
WIDTHS = (2560, 256, 1536, 768)


def runs() -> list[RunSpec]:
    """Of each width the run of most compute."""
    planned = [p.run for p in studies_in(ROOT / "experiments" / "compute.py")["pod"].runs.runs]
    return [max((run for run in planned if run.model.d_model == width), key=train_flops) for width in WIDTHS]


def report(topology: str, run: RunSpec, tries: int) -> dict:
    words = ["compile", "compute", "--size", "pod", "--topology", topology, "--run", run.id, "--tries", str(tries)]
    done = subprocess.run([sys.executable, "-m", "scaling", *words, "--json"], stdout=subprocess.PIPE, cwd=ROOT)
    if done.returncode not in (0, 1):
        raise SystemExit(f"scaling {' '.join(words)}: exit {done.returncode}")
    return json.loads(done.stdout)


def _size(shape: dict) -> int:
    return shape["n_params"]


def table() -> str:
    """Of each size and slice what the rule places, and what is proposed where that is another."""
    rows = [
        "| model | slice | placement | HBM a chip | step, least | if nothing hides | bound by | MFU, most | run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for topology in TOPOLOGIES:
        path = OUT / f"{topology.replace(':', '-')}.json"
        for shape in json.loads(path.read_text())["shapes"] if path.exists() else ():
            for one in (shape["asked"], *shape["tried"]):
                rows.append(_row(topology, shape, one))
    return "\n".join(rows)


def _row(topology: str, shape: dict, one: dict) -> str:
    mesh = f"**{one['mesh']}**" if one["mesh"] == shape["proposed"] else one["mesh"]
    hbm = f"{one['hbm']['peak'] / 2**30:.1f} of {one['hbm']['limit'] / 2**30:.4g} GiB"
    if not one["fits"]:
        return f"| {shape['name']} | {topology} | {mesh} | {hbm}: does not fit | | | | | |"
    of = one["estimate"]
    times = " | ".join(seconds(of[name]) for name in ("seconds", "seconds_in_turn"))
    hours = shape["runs"][0]["steps"] * of["seconds"] / 3600
    said = f"{times} | {of['bound']} | {of['mfu']:.0%} | {_hours(hours)}"
    return f"| {shape['name']} | {topology} | {mesh} | {hbm} | {said} |"


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.2g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    OUT.mkdir(parents=True, exist_ok=True)
    for topology in arguments.topologies:
        path = OUT / f"{topology.replace(':', '-')}.json"
        document: dict = json.loads(path.read_text()) if path.exists() else {"shapes": []}
        kept = {run["id"] for shape in document["shapes"] for run in shape["runs"]}
        planned = runs()
        for run in planned:
            if run.id in kept:
                continue
            one = report(topology, run, arguments.tries if run == planned[0] else 0)
            document = one | {"shapes": sorted([*document["shapes"], *one["shapes"]], key=_size)}
            path.write_text(json.dumps(document, indent=1) + "\n")
            print(f"{path.relative_to(ROOT)}: {one['shapes'][0]['name']}", flush=True)


if __name__ == "__main__":
    main()
