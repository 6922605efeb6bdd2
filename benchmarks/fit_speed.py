"""How long a fit of L = E + A N^-alpha + B D^-beta takes to 240 runs: ours, and SciPy one fit after another.

OMP_NUM_THREADS=1 python benchmarks/fit_speed.py --rounds 5 --out benchmarks/results/fit_speed.json

Two tasks, both on the sum of Huber's function (delta 1e-3) of ln L residuals:

- bootstrap: 4,000 resamples of the runs. Beside it the procedure that arXiv:2404.10102 describes: one BFGS for each
  resample, from the parameters of arXiv:2203.15556, on the logarithm of a sum of exponentials.
- starts: the 4,500 starts of arXiv:2203.15556, appendix D.3. Beside it one L-BFGS-B for each start, and `estimate`,
  which needs none of them.

SciPy is timed on a sample, which is scaled up to the whole; it has the gradient in closed form or, "differences", takes
it by finite differences, which is its default. All take turns, in an order that turns around each round. Reads
../shared/data/epoch_chinchilla.csv, or draws a table of the same shape.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize

from scaling.fitting.laws import LAWS
from scaling.fitting.robust import Objective, at, estimate, polish
from scaling.fitting.uncertainty import resample

TABLE = Path(__file__).parents[2] / "shared" / "data" / "epoch_chinchilla.csv"
DELTA, DRAWS, LANES = 1e-3, 4000, 100
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])  # ln A, ln B, ln E, alpha, beta
STARTS = [
    (a, b, e, alpha, beta)
    for a, b in itertools.product(np.arange(0, 30, 5), repeat=2)
    for e in np.arange(-1, 1.5, 0.5)
    for alpha, beta in itertools.product(np.arange(0, 2.5, 0.5), repeat=2)
]  # ln A, ln B, ln E, alpha, beta
COMMAND = """
import sys
import numpy as np
from scaling.fitting.laws import LAWS
from scaling.fitting.robust import estimate
from scaling.fitting.uncertainty import resample
n, d, loss = np.load(sys.argv[1])
form = LAWS["chinchilla"].form(n, d)
found = estimate(form, (n, d), loss)
resample(form, found, (n, d), loss, np.ones(5, bool), [str(i) for i in range(len(loss))], 4000, 0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=40, help="fits of SciPy's that are timed in each round")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    (n, d, loss), source = table()
    seconds: dict[str, list[float]] = {}
    checks: dict[str, float] = {}
    for i in range(options.rounds):
        rng = np.random.default_rng(i)
        pairs = [
            ("bootstrap, ours", lambda: our_bootstrap(n, d, loss)),
            ("bootstrap, SciPy BFGS", lambda r=rng: scipy_bootstrap(n, d, loss, options.sample, r)),
            ("bootstrap, SciPy BFGS, differences", lambda r=rng: scipy_bootstrap(n, d, loss, options.sample, r, False)),
            ("minimum, ours", lambda: our_minimum(n, d, loss)),
            ("starts, ours", lambda: our_starts(n, d, loss)),
            ("starts, SciPy L-BFGS-B", lambda r=rng: scipy_starts(n, d, loss, options.sample, r)),
        ]
        for name, call in pairs if i % 2 == 0 else pairs[::-1]:
            began = time.perf_counter()
            factor, found = call()
            seconds.setdefault(name, []).append((time.perf_counter() - began) * factor)
            for key, value in found.items():
                checks[f"{name}: {key}"] = value
    seconds["bootstrap of the MM fit, ours, a whole process"] = [process(n, d, loss) for _ in range(options.rounds)]
    ratios = {
        f"{theirs} / {ours}": [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
        for theirs, ours in (
            ("bootstrap, SciPy BFGS", "bootstrap, ours"),
            ("bootstrap, SciPy BFGS, differences", "bootstrap, ours"),
            ("starts, SciPy L-BFGS-B", "starts, ours"),
            ("starts, SciPy L-BFGS-B", "minimum, ours"),
        )
    }
    print(f"{source}, {len(loss)} runs")
    for name, values in seconds.items():
        print(f"{name:48} {statistics.median(values):9.2f} s   [{min(values):.2f}, {max(values):.2f}]")
    for task, values in ratios.items():
        print(f"{task:60} {statistics.median(values):9.0f} x   [{min(values):.0f}, {max(values):.0f}]")
    for name, value in checks.items():
        print(f"{name:48} {value:.9g}")
    if options.out:
        report: dict[str, Any] = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"), "table": source, "runs": len(loss),
            "rounds": options.rounds, "sample": options.sample, "seconds": seconds, "ratio": ratios, "checks": checks,
            "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
            "load": os.getloadavg(), "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
            "python": platform.python_version(), "numpy": version("numpy"), "scipy": version("scipy"),
        }  # fmt: skip
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def table() -> tuple[np.ndarray, str]:
    """N, D and L, [3, R], and where they come from."""
    if TABLE.is_file():
        import pandas

        t = pandas.read_csv(TABLE)
        t = t[~t.dropped_by_besiroglu.astype(bool)]
        return np.array([t.n_params, t.tokens, t.loss], float), TABLE.name
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log(5e7), np.log(1.5e10), 240)), np.exp(rng.uniform(np.log(1e9), np.log(5e11), 240))
    loss = 1.82 + 482 * n**-0.348 + 2085 * d**-0.366
    return np.array([n, d, loss * np.exp(0.006 * rng.standard_t(4, 240))]), "simulated"


def our_bootstrap(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> tuple[float, dict[str, float]]:
    form = LAWS["chinchilla"].form(n, d)
    found = estimate(form, (n, d), loss, objective=Objective(kind="huber", delta=DELTA))
    draws = resample(form, found, (n, d), loss, np.ones(5, bool), [str(i) for i in range(len(loss))], DRAWS, 0)
    return 1.0, {"objective of the estimate": found.objective, "standard error of beta": float(draws[:, 4].std(ddof=1))}


def our_minimum(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> tuple[float, dict[str, float]]:
    found = estimate(LAWS["chinchilla"].form(n, d), (n, d), loss, objective=Objective(kind="huber", delta=DELTA))
    return 1.0, {"objective": found.objective}


def our_starts(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> tuple[float, dict[str, float]]:
    form, a = LAWS["chinchilla"].form(n, d), np.array(STARTS)
    theta = np.stack([np.exp(a[:, 2]), np.exp(a[:, 0]), np.exp(a[:, 1]), a[:, 3], a[:, 4]], axis=1)
    rule = Objective(kind="huber", delta=DELTA)
    parts = np.array_split(theta, len(theta) // LANES)
    ends = np.concatenate([polish(form, part, (n, d), loss, objective=rule) for part in parts])
    value = huber(np.log(at(form, ends)(n, d)) - np.log(loss)).sum(axis=1)
    near = value < value.min() * 1.001
    return 1.0, {"least objective": float(value.min()), "share within 0.1 %": float(near.mean())}


def huber(r: np.ndarray) -> np.ndarray:
    return np.where(np.abs(r) <= DELTA, r**2 / 2, DELTA * (np.abs(r) - DELTA / 2))


def objective(z: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum over runs and its gradient at z = ln A, ln B, ln E, alpha, beta."""
    terms = np.stack([z[0] - z[3] * log_n, z[1] - z[4] * log_d, np.full_like(log_n, z[2])])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    r = top + np.log(total) - log_loss
    psi = np.clip(r, -DELTA, DELTA) * parts / total
    return huber(r).sum(), np.array(
        [psi[0].sum(), psi[1].sum(), psi[2].sum(), -(psi[0] * log_n).sum(), -(psi[1] * log_d).sum()]
    )


def scipy_bootstrap(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, sample: int, rng: np.random.Generator, closed: bool = True
) -> tuple[float, dict[str, float]]:
    logs, ends = np.log([n, d, loss]), []
    function = objective if closed else lambda *arguments: objective(*arguments)[0]
    for _ in range(sample):
        drawn = logs[:, rng.integers(len(loss), size=len(loss))]
        ends.append(scipy.optimize.minimize(function, HOFFMANN, args=tuple(drawn), jac=closed, method="BFGS").x)
    return DRAWS / sample, {"standard error of beta, of the sample": float(np.std(np.array(ends)[:, 4], ddof=1))}


def scipy_starts(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, sample: int, rng: np.random.Generator
) -> tuple[float, dict[str, float]]:
    logs = tuple(np.log([n, d, loss]))
    value = np.array(
        [
            scipy.optimize.minimize(objective, STARTS[i], args=logs, jac=True, method="L-BFGS-B").fun
            for i in rng.choice(len(STARTS), size=sample, replace=False)
        ]
    )
    return len(STARTS) / sample, {
        "least objective of the sample": float(value.min()), "share within 0.1 %": float((value < 0.00101929).mean())
    }  # fmt: skip


def process(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> float:
    """Seconds of a process that imports, fits and resamples 4,000 times."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.npy"
        np.save(path, np.array([n, d, loss]))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, str(path)], check=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
