"""Published fits of open tables of runs, repeated: docs/replications.md and results/replications.json.

python benchmarks/replications.py --data ../shared/data

Every procedure of `scaling fit --as` on its own table, and four tables whose papers have no procedure there; each
number beside the printed one, with the cause of each difference, and that cause switched where it can be. The tables
are public and no part of this project; `--data` is the folder that has them.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from scaling.fitting.approaches import NAMES, approaches
from scaling.fitting.fit import fit
from scaling.fitting.laws import LAWS
from scaling.fitting.observe import observe, read_table
from scaling.fitting.published import PROCEDURES, Quantity, Replication, as_published
from scaling.fitting.published.porian import PUBLISHED as PORIAN
from scaling.fitting.robust import Objective, at, estimate

Array = NDArray[Any]
ROOT = Path(__file__).parents[1]
TABLES = {
    "besiroglu2024": "epoch_chinchilla.csv",
    "hoffmann2022-3": "epoch_chinchilla.csv",
    "porian2024": "porian_isoflop.csv",
    "gadre2024": "gadre_overtrain_rpj.csv",
    "muennighoff2023": "muennighoff_repeat.csv",
    "steplaw2025": "steplaw_dense.csv",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "replications.md")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "replications.json")
    options = parser.parse_args()
    began = time.monotonic()
    parts: list[str] = []
    report: dict[str, Any] = {"machine": machine(), "replications": {}, "causes": {}}
    for name, table in TABLES.items():
        found = as_published(read_table(options.data / table), name)
        report["replications"][name] = found.to_json()
        parts.append(section(found, table))
        if name in CAUSES:
            words, document = CAUSES[name](options.data / table)
            report["causes"][name] = document
            parts.append(words)
    for name, measure in OTHERS.items():
        title, table, quantities, words = measure(options.data)
        report["replications"][name] = [q.__dict__ | {"agrees": q.agrees} for q in quantities]
        parts.append(f"## {title}\n\n`{table}`. {words}\n\n{rows(quantities, {})}")
    took = time.monotonic() - began
    report["seconds"] = round(took, 1)
    options.out.write_text(json.dumps(report, indent=1, default=float) + "\n")
    options.page.write_text(HEAD.format(**report["machine"], seconds=took) + "\n\n".join(parts) + "\n")
    print(f"{options.page.name}, {options.out.name}: {took:.1f} s")


HEAD = """# Replications

Written by `python benchmarks/replications.py --data ../shared/data`, which reads public tables of runs that are no part
of this project; change that, not this page. {date}, {cpus} cores of {processor}, Python {python}, NumPy {numpy}, SciPy
{scipy}, {seconds:.0f} s for everything. `scaling fit TABLE --as NAME` repeats one on any table with its columns.

A figure agrees when it lies in the published interval, or where none was published within the tolerance named. "Our
default" is `scaling fit` on the same table without a procedure: robust, on all rows. Curves of whole training runs,
the multi-power law, are in [curves.md](curves.md).

"""


def machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(), "cpus": os.cpu_count(), "processor": platform.machine(),
        "python": platform.python_version(), "numpy": version("numpy"), "scipy": version("scipy"),
    }  # fmt: skip


def section(found: Replication, table: str) -> str:
    dropped = "".join(f"; {count} left out: {reason}" for reason, count in found.dropped.items())
    lines = [
        f"## {found.name}: {found.paper}",
        f"`{table}`, {found.runs} runs{dropped}. Law: {PROCEDURES[found.name].law}. What is done: {found.words}.",
        rows(found.quantities, found.default),
        *(f"{warning[0].upper()}{warning[1:]}." for warning in found.warnings),
    ]
    return "\n\n".join(lines)


def rows(quantities: Any, default: dict[str, float]) -> str:
    """A table of quantities; reasons for differences below it, each once."""
    with_default = any(q.name in default for q in quantities)
    heads = ["", "here", "published", "agrees", *(["our default"] if with_default else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    notes: dict[str, list[str]] = {}
    for q in quantities:
        interval = "" if q.interval is None else f" [{q.interval[0]:g}, {q.interval[1]:g}]"
        published = "" if q.published is None else f"{q.published:.9g}{interval}"
        agrees = {True: "yes", False: "no", None: ""}[q.agrees]
        ours = f"{q.ours:.9g}" if q.tolerance is not None and q.tolerance < 1e-5 else f"{q.ours:.5g}"
        cells = [q.name, ours, published, agrees]
        if with_default:
            cells.append(f"{default[q.name]:.4g}" if q.name in default else "")
        lines.append("| " + " | ".join(cells) + " |")
        if q.agrees is False and q.why:
            notes.setdefault(q.why, []).append(q.name)
    said = [f"{', '.join(names)}: {why}." for why, names in notes.items()]
    return "\n\n".join(["\n".join(lines), *said])


def stopped_early(path: Path) -> tuple[str, dict[str, Any]]:
    """Hoffmann's fit with the cause switched: L-BFGS-B at its defaults on the mean and on the sum."""
    o = observe(read_table(path), params="n_params")
    log_n, log_d, log_loss = np.log(o.n), np.log(o.d), np.log(o.loss)
    rng = np.random.default_rng(0)
    grid = [
        np.arange(0, 30, 5),
        np.arange(0, 30, 5),
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    ]
    starts = np.stack([rng.choice(axis, 300) for axis in grid], axis=1)

    def objective(z: Array, scale: float) -> tuple[float, Array]:
        a, b, e, alpha, beta = z
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full(len(log_n), e)])
        peak = terms.max(axis=0)
        parts = np.exp(terms - peak)
        total = parts.sum(axis=0)
        r = peak + np.log(total) - log_loss
        inner = np.clip(r, -1e-3, 1e-3)
        share = parts / total * inner
        slope = [share[0].sum(), share[1].sum(), share[2].sum(), -(share[0] @ log_n), -(share[1] @ log_d)]
        return scale * float((inner * (r - inner / 2)).sum()), scale * np.array(slope)

    found: dict[str, Any] = {}
    for name, scale in (("mean", 1 / len(o)), ("sum", 1.0), ("sum, tolerance 1e-15", 1.0)):
        extra = {"options": {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5000}} if "tolerance" in name else {}
        ends = [
            scipy.optimize.minimize(objective, z, args=(scale,), jac=True, method="L-BFGS-B", **extra) for z in starts
        ]
        best = min(ends, key=lambda end: end.fun)
        a, b, e, alpha, beta = best.x
        found[name] = {
            "A": np.exp(a), "B": np.exp(b), "E": np.exp(e), "alpha": alpha, "beta": beta,
            "objective": best.fun / scale, "exponent of N*": beta / (alpha + beta),
        }  # fmt: skip
    head = "| minimised from 300 of the paper's 4,500 starts | A | B | E | alpha | beta | objective (sum) |\n"
    head += "|---|---|---|---|---|---|---|\n"
    body = "\n".join(
        f"| {name} | "
        + " | ".join(f"{v[key]:.4g}" for key in ("A", "B", "E", "alpha", "beta"))
        + f" | {v['objective']:.6g} |"
        for name, v in found.items()
    )
    return (
        "The cause, switched: SciPy's L-BFGS-B at its default tolerances, on the mean and on the sum of the same "
        f"objective, best of 300 starts.\n\n{head}{body}"
    ), found


def by_approach(path: Path) -> tuple[str, dict[str, Any]]:
    """Porian's groups by our approaches."""
    lines = ["| exponent of N* | published | " + " | ".join(NAMES.values()) + " |", "|" + "---|" * (len(NAMES) + 2)]
    document: dict[str, Any] = {}
    for group, (words, published, _) in PORIAN.items():
        found = approaches(observe(read_table(path), params="n_params", group=group))
        document[words] = [one.to_json() for one in found]
        cells = [
            "none"
            if one.exponent_n is None
            else f"{one.exponent_n.value:.3f} [{one.exponent_n.low:.3f}, {one.exponent_n.high:.3f}]"
            for one in found
        ]
        lines.append(f"| {words} | {published} | " + " | ".join(cells) + " |")
    return (
        "The same runs by our approaches, 90 % intervals. Where a whole surface says something else than the minima of "
        "its slices, the law's form does not hold over these sizes: warm-ups longer than the run and untuned rates "
        "fall on small sizes alone.\n\n" + "\n".join(lines)
    ), document


def by_rule(path: Path) -> tuple[str, dict[str, Any]]:
    """Step Law's exponents under several rules for the best point of a cell."""
    o = observe(read_table(path), params="n_params_nonemb", extra=["lr", "batch_tokens"])
    rate, batch = np.log(o.columns["lr"]), np.log(o.columns["batch_tokens"])
    cells = sorted(set(zip(o.n.tolist(), o.d.tolist(), strict=True)))
    log_n, log_d = np.log(np.array(cells)).T
    found: dict[str, Any] = {}
    for share in (0.0, 0.001, 0.0025, 0.005):
        picked = []
        for n, d in cells:
            here = np.flatnonzero((o.n == n) & (o.d == d))
            near = here[o.loss[here] <= o.loss[here].min() * (1 + share)]
            picked.append((rate[near].mean(), batch[near].mean()))
        lr, size = np.array(picked).T
        columns = np.stack([np.ones(len(cells)), log_n, log_d], axis=1)
        of_rate = np.linalg.lstsq(columns, lr, rcond=None)[0]
        of_batch = np.linalg.lstsq(columns[:, [0, 2]], size, rcond=None)[0]
        found[f"within {share:.2%} of the least loss"] = {
            "N in lr": of_rate[1],
            "D in lr": of_rate[2],
            "D in batch": of_batch[1],
        }
    lines = ["| grid points taken for the best, geometric mean | N in lr | D in lr | D in batch |", "|---|---|---|---|"]
    lines += [
        f"| {rule} | {v['N in lr']:.3f} | {v['D in lr']:.3f} | {v['D in batch']:.3f} |" for rule, v in found.items()
    ]
    return "The cause, switched: the exponents rest on what counts as the best point of a cell.\n\n" + "\n".join(
        lines
    ), found


CAUSES: dict[str, Callable[[Path], tuple[str, dict[str, Any]]]] = {
    "hoffmann2022-3": stopped_early,
    "porian2024": by_approach,
    "steplaw2025": by_rule,
}

Measured = tuple[str, str, list[Quantity], str]


def nanochat(data: Path) -> Measured:
    """Lines through the released optima under three counts of the same runs."""
    table = read_table(data / "nanochat_optima.csv")
    words = "four budgets to two digits; the release does not say how its lines were drawn"
    quantities = []
    for group, of_n, of_d in (
        ("Kaplan-style", 0.54, 0.49), ("Chinchilla-style", 0.37, 0.50), ("Transformer-only-style", 0.70, 0.41)
    ):  # fmt: skip
        part = table[table["group"] == group]
        log_c, log_n, log_d = (np.log(part[name].astype(float)) for name in ("flops", "n_opt", "d_opt"))
        for name, values, published in (("N*", log_n, of_n), ("D*", log_d, of_d)):
            quantities.append(
                Quantity(
                    name=f"exponent of {name}, {group}", ours=float(np.polyfit(log_c, values, 1)[0]),
                    published=published, tolerance=0.04, within=words, why=words,
                )
            )  # fmt: skip
    return (
        "nanochat: what counting does", "nanochat_optima.csv", quantities,
        "The optima of four budgets under three counts of parameters, least squares in logarithms; 4 % of the "
        "published exponent counts as agreement. The same runs give 0.37 to 0.70 for the exponent of N*.",
    )  # fmt: skip


def routing(data: Path) -> Measured:
    """Clark et al. 2022, arXiv:2202.01169, eq. 10: a bilinear law of N and a saturating count of experts."""
    o = observe(
        read_table(data / "routing_sbase.csv"),
        params="n_params",
        needs=("n",),
        extra=["n_experts", "k", "routing_frequency"],
    )
    rows = (o.columns["k"] == 1) & (o.columns["routing_frequency"] == 0.5) & (np.array(o.group) == "S-Base")
    n, experts, loss = o.n[rows], o.columns["n_experts"][rows], o.loss[rows]

    def residual(p: Array) -> Array:
        a, b, c, d, start, most = p[0], p[1], p[2], p[3], np.exp(p[4]), np.exp(p[5])
        count = 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
        return a * np.log10(n) + b * np.log10(count) + c * np.log10(n) * np.log10(count) + d - np.log10(loss)

    found = scipy.optimize.least_squares(
        residual,
        [-0.08, -0.1, 0.01, 1.1, np.log(2.0), np.log(300.0)],
        x_scale="jac",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
    )
    values = [*found.x[:4], *np.exp(found.x[4:])]
    why = (
        "which of the released rows the paper fitted is not said; E_start and E_max move by a factor of two between "
        "choices of rows"
    )
    quantities = [
        Quantity(name=name, ours=float(v), published=p, tolerance=0.1, within="10 %", why=why)
        for name, v, p in zip(
            ("a, of log N", "b, of log E", "c, of their product", "d", "E_start", "E_max"), values,
            (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478), strict=True,
        )
    ]  # fmt: skip
    off = float(np.sqrt((found.fun**2).mean()))
    quantities.append(Quantity(name="root mean square of log10 L", ours=off))
    return (
        "Routed models: Clark et al. 2022, arXiv:2202.01169", "routing_sbase.csv", quantities,
        f"{int(rows.sum())} runs with one expert a token in every second layer, least squares of log10 L by SciPy; "
        "the law of experts is not among ours, and the published values here are unverified against the paper.",
    )  # fmt: skip


def broken(data: Path) -> Measured:
    """Caballero et al. 2022, arXiv:2210.14891: four-digit addition, 14 points for the fit and 3 beyond."""
    table = read_table(data / "bnsl_4digit_addition.csv")
    x, y = table["dataset_size"].astype(float).to_numpy(), table["loss"].astype(float).to_numpy()
    inside = (table["split"] == "train").to_numpy()
    form = LAWS["broken"].form(x[inside])
    found = estimate(form, (x[inside],), y[inside], objective=Objective(kind="squares"))
    r = np.log(at(form, found.theta)(x) / y)
    whole = fit(observe(table.loc[inside], needs=("dataset_size",), extra=[]), "broken", x="dataset_size")
    train, test = (float(np.sqrt((r[rows] ** 2).mean())) for rows in (inside, ~inside))
    reason = "the paper prints no coefficients; the figures are an independent recomputation"
    quantities = [
        Quantity(name=name, ours=ours, published=published, tolerance=0.1, within="a recomputation", why=reason)
        for name, ours, published in (
            ("root mean square of ln y, 14 points fitted", train, 0.0006), ("the same, 3 points beyond", test, 0.0109)
        )
    ]  # fmt: skip
    return (
        "A broken power law: Caballero et al. 2022, arXiv:2210.14891", "bnsl_4digit_addition.csv", quantities,
        "Least squares of ln y with one break. `scaling fit --law broken` on the same 14 points says: "
        f"{whole.status.replace('_', ' ')}{'; ' + whole.warnings[0] if whole.warnings else ''}.",
    )  # fmt: skip


OTHERS: dict[str, Callable[[Path], Measured]] = {"nanochat": nanochat, "routing": routing, "broken": broken}


if __name__ == "__main__":
    main()
