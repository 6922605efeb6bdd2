"""The coordinate check over 8x in width: what a few steps move, under each parametrization.

python benchmarks/coordinate_check.py --out benchmarks/results

Writes coordinate_check.json, .svg and .png: the change of the residual stream and of the logits after 2, 4 and 10 steps
of AdamW, against the width. Level lines are what lets one learning rate serve every width.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from scaling.cost import at_width
from scaling.report.figure import INK, PAPER, RC, SOFT, ordered, save, ticks
from scaling.spec import ModelSpec, OptimSpec
from scaling.train.coordinates import movement

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
OPTIM = OptimSpec(peak_lr=5e-3, cooldown_steps=1)
WIDTHS, STEPS = (16, 32, 64, 128), (2, 4, 10)  # the first step moves the head alone, which starts at zero
WHAT = {"stream": "residual stream", "logits": "logits"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the figure and the numbers")
    options = parser.parse_args()
    found = {name: measured(name) for name in ("width", "standard")}
    for name, of in found.items():
        for what in WHAT:
            print(f"{name:9} {what:7} exponent in d_model after {STEPS[-1]} steps: {exponent(of[what][-1]):+.2f}")
    options.out.mkdir(parents=True, exist_ok=True)
    document = {"widths": WIDTHS, "steps": STEPS, "change": found}
    (options.out / "coordinate_check.json").write_text(json.dumps(document, indent=1) + "\n")
    with matplotlib.rc_context(RC):
        save(drawn(found), options.out, "coordinate_check")


def measured(parametrization: str) -> dict[str, list[list[float]]]:
    """Root mean square changes: by what moves, then by steps, then by width."""
    optim = replace(OPTIM, parametrization=parametrization)
    changes = [[movement(at_width(MODEL, d), optim, steps) for d in WIDTHS] for steps in STEPS]
    return {what: [[change[what] for change in row] for row in changes] for what in WHAT}


def exponent(changes: list[float]) -> float:
    return float(np.polyfit(np.log(WIDTHS), np.log(changes), 1)[0])


def drawn(found: dict[str, dict[str, list[list[float]]]]) -> Figure:
    figure = Figure(figsize=(7.4, 3.3), facecolor=PAPER)
    words = {"width": "width parametrization", "standard": "standard parametrization"}
    for panel, what in enumerate(WHAT):
        pooled = [x for of in found.values() for row in of[what] for x in row]
        for column, name in enumerate(found):
            axes = figure.add_axes((0.06 + 0.5 * panel + 0.22 * column, 0.16, 0.19, 0.66), facecolor="none")
            axes.set_xscale("log")
            axes.set_yscale("log")
            for steps, colour, row in zip(STEPS, ordered(len(STEPS)), found[name][what], strict=True):
                axes.plot(WIDTHS, row, "o-", color=colour, markersize=3.5, linewidth=1.4, label=f"{steps}")
            low, high = min(pooled) / 1.3, max(pooled) * 1.3
            axes.set_ylim(low, high)
            at = ticks(low, high)
            axes.set_yticks(at, [f"{value:.3g}" for value in at] if column == 0 else [""] * len(at))
            axes.set_yticks([], minor=True)
            axes.set_xticks(WIDTHS, [str(d) for d in WIDTHS])
            axes.set_xticks([], minor=True)
            axes.tick_params(length=0, labelcolor=SOFT)
            axes.grid(color="#dde1e5", linewidth=0.6)
            axes.spines["left"].set_visible(False)
            axes.set_title(words[name].split()[0], fontsize=8.5, color=SOFT, loc="left", pad=3)
            axes.set_xlabel("d_model", color=INK)
        figure.text(0.02 + 0.5 * panel, 0.93, f"RMS change of the {WHAT[what]}", color=INK)
    figure.axes[0].legend(title="steps", frameon=False, fontsize=8, title_fontsize=8, loc="upper left")
    return figure


if __name__ == "__main__":
    main()
