"""Which rule forecasts runs best: one law, the law that did best before, or all laws together.

python benchmarks/forecast_rules.py --data ../shared/data --out benchmarks/results/forecast_rules.json

Open tables of runs, each ended at several budgets as if there were no more: laws fitted to the runs at or below a
budget forecast those of 2 to 12 times that budget. The error of a rule at a budget is the median of |forecast / L - 1|
over these runs; budgets of one table share runs, so a rule is judged by the mean over tables too. The tables are public
and no part of this project; `--data` is the folder that has them.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.observe import Observations, observe, read_table
from scaling.fitting.tournament import tournament
from scaling.spec import Refusal

Array = NDArray[Any]
ROOT = Path(__file__).parents[1]
LAWS = ("chinchilla", "kaplan", "interaction")
KEPT, OUT = 15, 2  # runs, at least
REACH = (2.0, 12.0)  # times the largest compute kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    began, budgets = time.perf_counter(), []
    for table, runs in tables(options.data):
        for kept, out in ended(runs):
            if said := judged(kept, out):
                budgets.append({"table": table, "flops_max": float(kept.flops.max()), "kept": len(kept)} | said)
                print(table, f"{kept.flops.max():.1e}", {rule: f"{e:.2%}" for rule, e in said["errors"].items()})
    found = {rule: summary(budgets, rule) for rule in (*LAWS, "chosen", "weighed", "mean", "median")}
    inside = float(np.mean([one["inside"] for one in budgets]))
    for rule, line in found.items():
        print(f"{rule:12} {line['median']:.2%} median, {line['mean']:.2%} mean of {line['budgets']} budgets; "
              f"{line['tables_median']:.2%}, {line['tables_mean']:.2%} of tables")  # fmt: skip
    print(f"inside the interval over all laws: {inside:.0%}")
    if options.out:
        machine = {"system": platform.system(), "cpus": os.cpu_count(), "python": platform.python_version()}
        document = {
            "date": datetime.now(UTC).date().isoformat(), "machine": machine,
            "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
            "seconds": round(time.perf_counter() - began), "rules": found, "inside": inside, "budgets": budgets,
        }  # fmt: skip
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def tables(data: Path) -> Iterator[tuple[str, Observations]]:
    """Open tables of runs over N and D."""
    runs = read_table(data / "epoch_chinchilla.csv")
    yield "hoffmann2022", observe(runs.loc[runs["dropped_by_besiroglu"] != "True"], params="n_params")
    yield "gadre2024", observe(read_table(data / "gadre_overtrain_rpj.csv"), params="n_params")
    runs = read_table(data / "porian_isoflop.csv")
    for group in runs["group"].unique():
        yield f"porian2024 {group}", observe(runs.loc[runs["group"] == group], params="n_params")
    runs = read_table(data / "muennighoff_repeat.csv")
    fresh = runs.loc[runs["epochs"].astype(float) <= 1].drop_duplicates("run_id")
    yield "muennighoff2023", observe(fresh, params="n_params")


def ended(runs: Observations) -> Iterator[tuple[Observations, Observations]]:
    """The runs up to a budget, and those beyond it; budgets a factor of 2 apart."""
    seen: set[int] = set()
    log_c = np.log(runs.flops)
    for budget in np.exp(np.arange(log_c.min(), log_c.max(), math.log(2))):
        below = runs.flops <= 1.02 * budget
        largest = runs.flops[below].max()
        out = (runs.flops > 0.99 * REACH[0] * largest) & (runs.flops <= REACH[1] * largest)
        if below.sum() >= KEPT and out.sum() >= OUT and below.sum() not in seen:
            seen.add(int(below.sum()))
            yield runs.pick(below), runs.pick(out)


def judged(kept: Observations, out: Observations) -> dict[str, Any] | None:
    """Every rule's error; None where fewer than two laws are told."""
    fits = {law: found for law in LAWS if (found := fit(kept, law)).law is not None}
    if len(fits) < 2:
        return None
    places = list(zip(out.n, out.d, strict=True))
    log = {law: np.log([float(found.predict(*place)) for place in places]) for law, found in fits.items()}
    reach = np.array([[found.interval(*place) for place in places] for found in fits.values()])
    inside = (reach[..., 0].min(0) <= out.loss) & (out.loss <= reach[..., 1].max(0))
    every = np.array([*log.values()])
    said = {**log, "chosen": log[_chosen(fits)], "mean": every.mean(0), "median": np.median(every, 0)}
    try:
        weights = tournament(kept, [*fits]).weights
        said["weighed"] = sum(weight * log[law] for law, weight in weights.items())
    except Refusal:
        pass  # no law can be tested
    errors = {rule: float(np.median(np.abs(np.exp(value) / out.loss - 1))) for rule, value in said.items()}
    return {"out": len(out), "errors": errors, "inside": float(inside.mean())}


def _chosen(fits: Mapping[str, Fit]) -> str:
    """The law of least error over the quarter of most compute, left out."""
    held = {law: (found.holdout or {}).get("error", math.inf) for law, found in fits.items()}
    return min(held, key=lambda law: held[law])


def summary(budgets: list[dict[str, Any]], rule: str) -> dict[str, float]:
    by_table: dict[str, list[float]] = {}
    for one in budgets:
        if rule in one["errors"]:
            by_table.setdefault(one["table"], []).append(one["errors"][rule])
    every = [error for errors in by_table.values() for error in errors]
    return {
        "budgets": len(every), "median": float(np.median(every)), "mean": float(np.mean(every)),
        "tables_median": float(np.median([np.median(errors) for errors in by_table.values()])),
        "tables_mean": float(np.mean([np.mean(errors) for errors in by_table.values()])),
    }  # fmt: skip


if __name__ == "__main__":
    main()
