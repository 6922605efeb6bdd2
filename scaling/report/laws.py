"""The page of laws: what each law class states of itself, a few sentences, and a figure of an example."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from scaling.fitting.laws import GROUPS, LAWS
from scaling.fitting.laws.curve import Design, Schedule
from scaling.fitting.laws.form import limits
from scaling.report import figure, words

HEAD = """# Laws

Written by `scaling laws --page docs` from the law classes in `scaling/fitting/laws/`; change those, not this page.

Losses are in nats per token, N in parameters, D in tokens, C in FLOPs. `linear` names what follows by non-negative
least squares once the other parameters are known; the rest is searched on a grid, then all are polished together.
The figures show example values, not fits. A law says nothing about runs unlike those it was fitted to.
"""
TAIL = """## Not here

Farseer's full form (arXiv:2506.10972), L = exp(a3 N^g + b3) + exp(a2 N^b + b2) D^-exp(a1 N^a + b1), has nine
parameters of which two are linear: the grid for the other seven is too large to search, and ordinary tables do not tell
them apart. `interaction` stands for its idea with one parameter more than `chinchilla`. Broken laws of more than one
break are left out for the same reason: each adds three parameters that few tables identify.
"""

# name: (what it says, when to use something else)
EXPLAINED = {
    "chinchilla": (
        "A model of finite size and a finite number of tokens each add a term to the entropy of text, E. The optimum "
        "at a budget is a power of compute with exponent beta/(alpha + beta) for N.",
        "Not for repeated data, nor for runs at one ratio D/N, which cannot tell the two terms apart.",
    ),
    "chinchilla_tied": (
        "Size and data share an exponent, so the best D/N is the same at every budget.",
        "Not to learn how D/N changes with compute: this law has decided that it does not.",
    ),
    "kaplan": (
        "As D grows without end the bracket leaves the law of N, as N does the law of D.",
        "With a floor its parameters are not those of the paper, which has none.",
    ),
    "interaction": (
        "The exponent of the data term moves with size: gamma above zero means that data helps larger models more.",
        "Not far from the middle of the runs, where the exponent may change sign.",
    ),
    "overtraining": (
        "Written in tokens per parameter M and compute C: at any M the excess over E falls with the same power of "
        "compute. It is `chinchilla_tied` in other coordinates, with alpha = 2 eta, A = a 6^-eta and B = b 6^-eta, "
        "and predicts the same losses.",
        "Not beside `chinchilla_tied` in a choice between laws: the two are one law.",
    ),
    "data_constrained": (
        "Each further pass over the same tokens is worth less, and so is size beyond what the unique tokens support: "
        "R_D and R_N are the number of passes at which the worth of further ones has fallen by a factor of e. U_N "
        "follows from the law's own A, B, alpha and beta.",
        "Runs of up to a few epochs barely constrain R_D; then it ends on its bound and a fit says so.",
    ),
    "power": (
        "A power law above a floor E, which no amount of x removes. The variable may be any column.",
        "Without runs near the floor, E and alpha trade against each other; see the interval before the value.",
    ),
    "power_no_floor": (
        "A straight line in logarithms, for a loss far above its floor or a quantity that falls to zero.",
        "Not for extrapolation of a loss: it promises zero in the end.",
    ),
    "kaplan_n": (
        "Loss against size alone; Nc is the size at which the law reads 1 nat.",
        "It has no floor and is too low far above the sizes it was fitted to. Nc depends on the vocabulary.",
    ),
    "kaplan_d": (
        "Loss against data alone; Dc is the number of tokens at which the law reads 1 nat.",
        "It has no floor, and assumes a model large enough for the data.",
    ),
    "kaplan_c": (
        "Loss against compute alone on the frontier; Cc is the compute at which the law reads 1 nat.",
        "Only for runs on the frontier: others lie above it.",
    ),
    "broken": (
        "The exponent is c0 well below the break at d1 and c0 + c1 well above it; f1 is its width in ln x.",
        "With runs on one side of the break only, d1 and c1 are not told by them. It does not foresee a break.",
    ),
    "learning_rate": (
        "The learning rate with the least loss, for each size and horizon swept.",
        "Not across optimizers, schedules or batches other than those swept, nor far below the sizes fitted.",
    ),
    "batch_size": (
        "The batch with the least loss, for each size and horizon swept, in tokens.",
        "The valley around the best batch is wide, so the exponents are known less well than the loss.",
    ),
    "learning_rate_compute": (
        "The learning rate with the least loss at each budget, when D/N is near its optimum.",
        "Not for models trained far from the optimal D/N: use `learning_rate`.",
    ),
    "batch_size_compute": (
        "The batch with the least loss at each budget, in tokens, when D/N is near its optimum.",
        "Not for models trained far from the optimal D/N: use `batch_size`.",
    ),
    "critical_batch": (
        "The batch that balances steps against tokens, at each loss on the way; it grows as the loss falls.",
        "It has no floor of the loss in it, so it stays finite at the entropy of text.",
    ),
    "steps_examples": (
        "One loss is reached in few large steps or in many small ones; S_min steps and X_min examples are the limits "
        "and X_min/S_min is the critical batch.",
        "One loss at a time, with the learning rate tuned for each batch.",
    ),
    "downstream": (
        "Error on tasks falls from that of chance, eps, as the loss falls.",
        "For means over many tasks; a single task may move suddenly or not at all.",
    ),
    "tissue": (
        "The loss falls with the sum of learning rates S1, and an annealed learning rate takes off a further C for "
        "each unit of its annealed area S2, in which a fall goes on to count for about 1/(1 - lam) steps.",
        "Not for a schedule unlike the fitted ones: what a fall is worth grows without end here as training goes on. "
        "Fitted by `scaling curves`.",
    ),
    "multi_power": (
        "As Tissue's law, but what a fall of the learning rate is worth is itself a power law of the learning rates "
        "since, and ends at B for each unit.",
        "Seven parameters, of which C, beta and gamma are hardly told apart by three curves: trust its predictions "
        "more than its parameters. Fitted by `scaling curves`.",
    ),
}


def _example(name: str) -> tuple[Any, Any, list[tuple[str, tuple[Any, ...]]], str]:
    """A law with example values, x [X] of the figure, its curves as (label, variables), and the label of x."""
    n, x = np.geomspace(1e7, 1e10, 60), np.geomspace(1e2, 1e8, 80)
    budget, tokens = np.geomspace(1e17, 1e22, 40), [1e9, 1e10, 1e11]
    by_size = [(f"D = {words.short(d)}", (n, np.full_like(n, d))) for d in tokens]
    epochs = np.geomspace(1, 100, 60)
    repeated = [
        (f"N = {words.short(size)}", (np.full_like(epochs, size), 1e9 * epochs, np.full_like(epochs, 1e9)))
        for size in (1e7, 1e8, 1e9)
    ]
    over = [
        (f"M = {m}", (np.sqrt(budget / (6 * m)), np.sqrt(budget * m / 6)))  # tokens per parameter
        for m in (20, 160, 1280)
    ]
    logged, every = np.unique(np.geomspace(2000, 24000, 120).round().astype(int)), np.arange(24000)
    rates = {
        "constant": np.ones(24000), "cosine": 0.55 + 0.45 * np.cos(np.pi * every / 24000),
        "annealed at the end": np.minimum(1.0, (24000 - every) / 4800),
    }  # fmt: skip
    schedules = [(text, (Design((Schedule(lr=3e-4 * rate), logged)),)) for text, rate in rates.items()]
    losses, steps, size = np.linspace(2.2, 5.5, 60), np.geomspace(2.1e3, 1e5, 80), "N, parameters"
    examples: dict[str, tuple[dict[str, float], Any, list[tuple[str, tuple[Any, ...]]], str]] = {
        "chinchilla": ({"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}, n, by_size, size),
        "chinchilla_tied": ({"E": 1.8, "A": 400.0, "B": 1500.0, "alpha": 0.35}, n, by_size, size),
        "kaplan": ({"E": 0.0, "Nc": 8.8e13, "Dc": 5.4e13, "alpha_n": 0.076, "alpha_d": 0.095}, n, by_size, size),
        "interaction": (
            {"E": 1.7, "A": 400.0, "B": 0.6, "alpha": 0.34, "beta": 0.28, "gamma": 0.02, "n_mid": 3e8, "d_mid": 1e10},
            n, by_size, size,
        ),
        "overtraining": ({"E": 1.84, "a": 166.0, "b": 367.0, "eta": 0.136}, budget, over, figure.C_LABEL),
        "data_constrained": (
            {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3},
            epochs, repeated, "epochs over 1B unique tokens",
        ),
        "power": ({"E": 1.2, "A": 20.0, "alpha": 0.3}, x, [("", (x,))], "x"),
        "power_no_floor": ({"A": 20.0, "alpha": 0.3}, x, [("", (x,))], "x"),
        "kaplan_n": ({"Nc": 8.8e13, "alpha_n": 0.076}, n, [("", (n,))], size),
        "kaplan_d": ({"Dc": 5.4e13, "alpha_d": 0.095}, n * 10, [("", (n * 10,))], figure.D_LABEL),
        "kaplan_c": ({"Cc": 2.7e28, "alpha_c": 0.05}, budget, [("", (budget,))], figure.C_LABEL),
        "broken": ({"a": 0.1, "b": 4.0, "c0": 0.05, "c1": 0.5, "d1": 2e4, "f1": 0.4}, x, [("", (x,))], "x"),
        "learning_rate": ({"c": 1.79, "a": -0.713, "b": 0.307}, n, by_size, size),
        "batch_size": ({"c": 0.58, "a": 0.0, "b": 0.571}, n * 10, [("", (n, n * 10))], figure.D_LABEL),
        "learning_rate_compute": ({"c": 0.3, "a": -0.125}, budget, [("", (budget,))], figure.C_LABEL),
        "batch_size_compute": ({"c": 0.3, "a": 0.33}, budget, [("", (budget,))], figure.C_LABEL),
        "critical_batch": ({"B_star": 2e8, "alpha_B": 0.21}, losses, [("", (losses,))], figure.LOSS_LABEL),
        "steps_examples": ({"X_min": 3e6, "S_min": 2e3}, steps, [("", (steps,))], "S, steps"),
        "downstream": ({"eps": 0.86, "k": 2.2, "gamma": 0.75}, losses, [("", (losses,))], figure.LOSS_LABEL),
        "tissue": ({"L0": 2.78, "A": 0.6, "alpha": 0.45, "C": 0.77, "lam": 0.998}, logged, schedules, "step"),
        "multi_power": (
            {"L0": 2.78, "A": 0.6, "alpha": 0.44, "B": 470.0, "C": 0.33, "beta": 1.8, "gamma": 0.48}, logged,
            schedules, "step",
        ),
    }  # fmt: skip
    values, along, curves, label = examples[name]
    return LAWS[name](**values), along, curves, label


RESPONSES = {
    "loss": figure.LOSS_LABEL,
    "lr": "peak learning rate",
    "batch_tokens": "batch, tokens",
    "examples": "X, examples",
    "error": "error",
}


def draw(name: str) -> Figure:
    """The law with example values, on logarithmic axes."""
    law, x, curves, label = _example(name)
    sheet, axes = figure.sheet(label, RESPONSES[law.response])
    losses = [law(*at) for _, at in curves]
    y_as = words.short if max(float(y.max()) for y in losses) > 1e4 else None
    x_as = words.power if label == figure.C_LABEL else words.short
    figure.frame(axes, x, np.concatenate(losses), x_as=x_as, y_as=y_as)
    colours = figure.ordered(len(curves))
    for y, colour in zip(losses, colours, strict=True):
        axes.plot(x, y, color=colour, linewidth=1.8)
    figure.label_ends(
        axes,
        [(x[-1], y[-1], text, c) for (text, _), y, c in zip(curves, losses, colours, strict=True) if text],
    )
    return sheet


def page() -> str:
    """laws.md."""
    parts = [HEAD]
    for group, laws in GROUPS.items():
        parts.append(f"## {group[0].upper()}{group[1:]}\n")
        parts += [_section(name, law) for name, law in laws.items()]
    return "\n".join([*parts, TAIL])


def _section(name: str, law: Any) -> str:
    says, but = EXPLAINED[name]
    rows = [f"| `{p}` | {law.units[p] or 'none'} | {_range(law, p)} |" for p in law.names]
    return "\n".join([
        f"### {name}\n", f"    {law.formula}\n", f"{law.about} {says}\n", f"Limits: {but}\n",
        f"Variables: {', '.join(law.variables)}. Response: {law.response}. Linear: {', '.join(law.linear)}.\n",
        "| parameter | unit | range |", "|---|---|---|", *rows, "",
        f"Source: {law.source}.\n", f"![{name}: {RESPONSES[law.response]}](figures/laws/{name}.svg)\n",
    ])  # fmt: skip


def _range(law: Any, parameter: str) -> str:
    low, high = limits(law, parameter)
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"above {low:g}" if math.isfinite(low) else "any"


def write(folder: Path) -> Path:
    """Write laws.md and figures/laws/NAME.svg into `folder`; returns the page's path."""
    figures = folder / "figures" / "laws"
    figures.mkdir(parents=True, exist_ok=True)
    for name in LAWS:
        with matplotlib.rc_context(figure.RC | {"svg.fonttype": "path"}):
            draw(name).savefig(figures / f"{name}.svg", format="svg", facecolor="#ffffff", metadata={"Date": None})
    path = folder / "laws.md"
    path.write_text(page(), encoding="utf-8")
    return path
