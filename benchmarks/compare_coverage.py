"""How often the intervals of `scaling compare` hold what was planted, over many simulated studies.

OMP_NUM_THREADS=1 python benchmarks/compare_coverage.py --studies 500 --out benchmarks/results/compare_coverage.json

A study has two algorithms on 4 sizes x 5 horizons of one law, three seeds at one size, noise of 0.6 % in the loss, half
of its variance shared by the horizons of a trunk. The other algorithm keeps all its tokens, 70 % of them, or a share
that falls with compute. Both methods see the same studies: the shared law (`rescale`) and matched losses (`compare`).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from scaling.fitting.compare import compare
from scaling.fitting.laws import Chinchilla
from scaling.fitting.observe import Observations, observe
from scaling.fitting.rescale import rescale

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)
SIZES = (3.6e3, 1e4, 3.3e4, 6.8e4)
HORIZONS = (5e5, 1e6, 2e6, 4e6, 8e6)
NOISE = 0.006
LEVEL = 0.9
KEPT: dict[str, tuple[Callable[[float], float], float | None]] = {  # share of tokens kept at N D; the multiplier
    "the same algorithm": (lambda nd: 1.0, 1.0),
    "drops 30 % of its tokens": (lambda nd: 0.7, 0.7),
    "a gain that shrinks": (lambda nd: 3.0 * (nd / 1e10) ** -0.25, None),
}


def study(keep: Callable[[float], float], seed: int) -> Observations:
    rng, rows = np.random.default_rng(seed), []
    for group in ("base", "other"):
        for n in SIZES:
            for replicate in range(3 if n == 1e4 else 1):
                shared = rng.normal()
                for d in HORIZONS:
                    seen = d * keep(n * d) if group == "other" else d
                    noise = NOISE * np.sqrt(0.5) * (shared + rng.normal())
                    rows.append((n, d, TRUTH(n, seen) * np.exp(noise), group, replicate, f"{group} {n} {replicate}"))
    table = pandas.DataFrame(rows, columns=["n_params", "tokens", "loss", "group", "seed", "trunk"])
    return observe(table, params="n_params")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    began, found = time.perf_counter(), {}
    for name, (keep, truth) in KEPT.items():
        studies = [study(keep, seed) for seed in range(options.studies)]
        found[name] = {
            "shared law": summary([rescale(o, "base", level=LEVEL)[0] for o in studies], truth),
            "matched losses": summary([compare(o, "base", level=LEVEL)[0] for o in studies], truth),
        }
        print(name, json.dumps(found[name], indent=1))
    document = {
        "date": datetime.now(UTC).date().isoformat(), "studies": options.studies, "level": LEVEL,
        "seconds": round(time.perf_counter() - began), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")}, "found": found,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def summary(results: list[Any], truth: float | None) -> dict[str, float]:
    """Shares of the studies; the multiplier is a geometric mean. Where it changes with scale it has no one truth."""
    told = [one for one in results if one.multiplier is not None]
    turned = [one.slope for one in results if one.slope is not None]
    summed = {
        "told": len(told) / len(results),
        "multiplier": float(np.exp(np.mean([np.log(one.multiplier.value) for one in told]))),
        "slope": float(np.mean([slope.value for slope in turned])),
        "slope below 0": float(np.mean([slope.high < 0 for slope in turned])),
        "slope above 0": float(np.mean([slope.low > 0 for slope in turned])),
        "called unresolved": float(np.mean([_unresolved(one.verdict) for one in results])),
    }
    if truth is not None:
        summed["interval holds the truth"] = float(
            np.mean([one.multiplier.low <= truth <= one.multiplier.high for one in told])
        )
        summed["half width of ln m"] = float(
            np.mean([np.log(one.multiplier.high / one.multiplier.low) / 2 for one in told])
        )
    return summed


def _unresolved(verdict: str) -> bool:
    return "a difference is not resolvable" in verdict or "no difference in compute is resolved" in verdict


if __name__ == "__main__":
    main()
