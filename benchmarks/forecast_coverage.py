"""How often the intervals of `scaling forecast` hold what was planted, over many simulated studies.

OMP_NUM_THREADS=1 python benchmarks/forecast_coverage.py --studies 200 --out benchmarks/results/forecast_coverage.json

A study has 8 sizes x 8 horizons of a law with noise of 0.4 % in the loss. All laws forecast, by the weights of the
tournament, at 5 and 20 times the largest compute; beside it the law that made the runs, alone.
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from scaling.fitting.fit import fit
from scaling.fitting.forecast import Target, project
from scaling.fitting.laws import Chinchilla, Kaplan
from scaling.fitting.observe import observe
from scaling.fitting.tournament import tournament
from scaling.spec import Refusal

TRUTHS: dict[str, Any] = {
    "chinchilla": Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37),
    "kaplan": Kaplan(E=0.5, Nc=3e3, Dc=3e5, alpha_n=0.35, alpha_d=0.5),
}
NOISE, LEVEL = 0.004, 0.9
FURTHER = (5.0, 20.0)  # times the largest compute


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    began, found = time.perf_counter(), {}
    for name, truth in TRUTHS.items():
        cells: dict[str, list[dict[str, Any]]] = {}
        for seed in range(options.studies):
            for key, hit in asked(name, truth, seed):
                cells.setdefault(key, []).append(hit)
        found[name] = {
            key: {number: float(np.mean([hit[number] for hit in hits if number in hit])) for number in hits[0]}
            for key, hits in cells.items()
        }
        print(name, json.dumps(found[name], indent=1))
    document = {
        "date": datetime.now(UTC).date().isoformat(), "studies": options.studies, "level": LEVEL,
        "seconds": round(time.perf_counter() - began), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")}, "found": found,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def asked(name: str, truth: Any, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """(who at what compute, which numbers lie inside, and the half width of the loss's interval)."""
    rng = np.random.default_rng(seed)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(4e3, 1e6, 8), np.geomspace(2e5, 5e7, 8)))
    loss = truth(n, d) * np.exp(NOISE * rng.normal(size=len(n)))
    o = observe(pandas.DataFrame({"n_params": n, "tokens": d, "loss": loss}), params="n_params")
    held = tournament(o, level=LEVEL)
    fits = {law: fit(o, law, level=LEVEL) for law in held.weights}
    hits = []
    for factor in FURTHER:
        c = factor * float(o.flops.max())
        best = truth.optimum(c, o.cost)
        values = {
            "loss": best.loss, "run": best.loss * np.exp(NOISE * rng.normal()), "n": best.n, "d": best.d
        }  # fmt: skip
        for who, some in (("all laws", list(fits.values())), (f"{name} alone", [fits[name]])):
            try:
                said = project(some, Target(c=c), weights=held.weights, level=LEVEL, far=True).numbers
            except Refusal:
                hits.append((f"{who}, {factor:g} Cmax", {"answered": False}))
                continue
            hit: dict[str, Any] = {"answered": True}
            hit |= {key: bool(said[key].low <= float(value) <= said[key].high) for key, value in values.items()}
            hit["half width of ln loss"] = float(np.log(said["loss"].high / said["loss"].low) / 2)
            hits.append((f"{who}, {factor:g} Cmax", hit))
    return hits


if __name__ == "__main__":
    main()
