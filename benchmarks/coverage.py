"""How often 90 % intervals hold the truth: simulated studies of L = E + A N^-alpha + B D^-beta.

OMP_NUM_THREADS=1 python benchmarks/coverage.py --studies 1000 --out benchmarks/results/coverage.json

Designs: tiny, usual and wide grids of sizes and horizons around the best split, and one trunk per size (all horizons
of a size cut from one trajectory, which share a deviation). Noise of ln L: independent and normal; Student's t with 3
degrees of freedom, which has gross errors; shared by the runs of a size, half of the variance. Its standard deviation,
0.3 % for a run, is between what seeds do (0.1 to 0.2 %) and what untuned sizes do (0.5 to 1 %). Each study is a table
of runs and nothing else: the noise that made it is not known to the fit. A study whose runs cannot tell the law gets no
interval and is counted as such.
"""

import argparse
import json
import math
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from scaling.fitting.identify import by_design
from scaling.fitting.laws import LAWS, Chinchilla
from scaling.fitting.observe import Observations, observe
from scaling.fitting.robust import Objective
from scaling.fitting.solve import shared_by, solve
from scaling.fitting.uncertainty import spread

Array = NDArray[Any]
TRUTH = Chinchilla(E=1.8172, A=477.8, B=2143.0, alpha=0.3473, beta=0.3671)  # arXiv:2404.10102
COST = (6.0, 1.0)
LEVEL, SD, SHARED = 0.9, 0.003, 0.5
# sizes, horizons, least and largest size in parameters, least and largest tokens per parameter
DESIGNS = {
    "tiny": (4, 4, 2e7, 1e9, 2.0, 200.0),
    "usual": (6, 6, 1e7, 2e9, 2.0, 400.0),
    "wide": (9, 10, 5e6, 5e9, 1.0, 1000.0),
}
NOISES = ("normal", "t3", "size")
CELLS = [(design, noise) for design in DESIGNS for noise in NOISES] + [("usual", "trunk")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="for each cell")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    found = {}
    with ProcessPoolExecutor(options.workers) as pool:
        for design, noise in CELLS:
            seeds = [(design, noise, seed) for seed in range(options.studies)]
            studies = list(pool.map(study, seeds, chunksize=max(options.studies // (8 * options.workers), 1)))
            found[f"{design}, {noise}"] = cell(studies)
            print(row(f"{design}, {noise}", found[f"{design}, {noise}"]), flush=True)
    if options.out:
        report = {
            "date": datetime.now(UTC).date().isoformat(), "studies": options.studies, "level": LEVEL,
            "sd": SD, "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
            "numpy": version("numpy"), "scipy": version("scipy"), "cells": found,
        }  # fmt: skip
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def design(name: str) -> tuple[Array, Array]:
    """N and D, each [R]: horizons of a size are multiples of it."""
    sizes, horizons, least, most, few, many = DESIGNS[name]
    n, ratio = np.meshgrid(np.geomspace(least, most, sizes), np.geomspace(few, many, horizons), indexing="ij")
    return n.ravel(), (n * ratio).ravel()


def runs(name: str, noise: str, seed: int) -> Observations:
    n, d = design(name)
    rng = np.random.default_rng([seed, CELLS.index((name, noise))])
    label = np.unique(n, return_inverse=True)[1]
    if noise == "normal":
        e = rng.normal(size=len(n))
    elif noise == "t3":
        e = rng.standard_t(3, size=len(n))
    else:
        e = (
            math.sqrt(1 - SHARED) * rng.normal(size=len(n))
            + math.sqrt(SHARED) * rng.normal(size=label.max() + 1)[label]
        )
    columns = {"n_params": n, "tokens": d, "loss": TRUTH(n, d) * np.exp(SD * e), "flops": 6 * n * d}
    if noise == "trunk":
        columns["trunk"] = np.array([f"trunk of size {i}" for i in label])
    return observe(pandas.DataFrame(columns), params="n_params")


QUANTITIES = {
    "ln N*(C)": (lambda law, c: np.log(law.optimum(c, COST).n), 1.0),
    "ln N* at 100x": (lambda law, c: np.log(law.optimum(c, COST).n), 100.0),
    "L* at 100x": (lambda law, c: law.optimum(c, COST).loss, 100.0),
    "E": (lambda law, c: law.E, 1.0),
    "alpha": (lambda law, c: np.log(law.alpha), 1.0),
}


def study(what: tuple[str, str, int]) -> dict[str, tuple[bool, float]] | None:
    """Whether each interval holds the truth, and its half width; None where the runs cannot tell the law."""
    o = runs(*what)
    x, form = (o.n, o.d), LAWS["chinchilla"].form(o.n, o.d)
    if by_design(o, "chinchilla", x)[0]:
        return None
    solved = solve(form, x, o.loss, objective=Objective(), shared=shared_by(o))
    if solved.unidentified or solved.uncertain is None:
        return None
    top = float(o.flops.max())
    found = {}
    for name, (function, reach) in QUANTITIES.items():
        c = np.array([reach * top])
        if name in solved.found.at_bound:
            continue
        item = spread(
            form, solved.found.theta, lambda law, f=function, c=c: f(law, c), covariance_z=solved.uncertain.covariance,
            dof=solved.uncertain.dof_of, level=LEVEL,
        ).at(0)  # fmt: skip
        truth = float(np.ravel(function(TRUTH, c))[0])
        low = max(item.low, 0.0) if name == "E" else item.low
        found[name] = (bool(low <= truth <= item.high), (item.high - item.low) / 2)
    return found


def cell(studies: list[dict[str, tuple[bool, float]] | None]) -> dict[str, Any]:
    told = [one for one in studies if one is not None]
    document: dict[str, Any] = {"studies": len(studies), "unidentified": len(studies) - len(told), "coverage": {}}
    for name in QUANTITIES:
        held = [one[name][0] for one in told if name in one]
        share = float(np.mean(held))
        document["coverage"][name] = {
            "share": share, "se": math.sqrt(share * (1 - share) / len(held)), "intervals": len(held),
            "half_width": float(np.median([one[name][1] for one in told if name in one])),
        }  # fmt: skip
    return document


def row(name: str, found: dict[str, Any]) -> str:
    shares = " ".join(f"{key} {100 * item['share']:.1f}" for key, item in found["coverage"].items())
    return f"{name:14} {shares}; unidentified {found['unidentified']}"


if __name__ == "__main__":
    main()
