"""What a population gains: optimizer steps of all its members in a second, over those of one run after another.

python benchmarks/population.py --out benchmarks/results/population.json

Byte models of 10k and 100k non-embedding parameters at 256 and 2048 tokens a step; on an accelerator 1M too. Sizes take
turns, in an order that turns around every round; medians with quartiles. One process with every device of this machine;
a copy of the weights on each that the batch has work for, as a single run would have.
"""

import argparse
import json
import statistics
from pathlib import Path

import jax
from train_step import spread, where

from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec, compiled_in
from scaling.train.placement import first
from scaling.train.population import member_steps_per_second
from scaling.train.program import program

MEMBERS = (1, 4, 16)
SHAPES = {"10k": (16, 3, 2), "100k": (64, 2, 4), "1M": (128, 5, 4)}  # width, layers, heads
TOKENS = (256, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shapes", nargs="*", default=["10k", "100k"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    found = {}
    for shape in options.shapes:
        for tokens in TOKENS:
            rates = measured(of_shape(*SHAPES[shape], tokens=tokens), options.rounds)
            found[f"{shape}, {tokens} tokens a step"] = rates
            gains = {m: [b / a for a, b in zip(rates[1], rates[m], strict=True)] for m in MEMBERS[1:]}
            said = ", ".join(f"{m} members {spread(of)}" for m, of in gains.items())
            print(f"{shape:>4} {tokens:5} tokens: {statistics.median(rates[1]):,.0f} steps/s alone; {said}", flush=True)
    if options.out:
        document = {"where": where() | {"device": jax.devices()[0].device_kind}, "member_steps_per_second": found}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def of_shape(d: int, layers: int, heads: int, *, tokens: int) -> RunSpec:
    context = min(128, tokens)
    return RunSpec(
        model=ModelSpec(
            n_layers=layers, d_model=d, d_ff=4 * d, d_head=d // heads, vocab_size=256, context=context
        ),
        optim=OptimSpec(peak_lr=1e-3, cooldown_steps=1),
        data=DataSpec(source="bytes:stdlib"),
        eval=EvalSpec(tokens=context),
        batch=tokens // context,
        steps=1000,
    )  # fmt: skip


def measured(run: RunSpec, rounds: int) -> dict[int, list[float]]:
    """Optimizer steps of all members in a second, by members and round."""
    programs = {
        m: program(run.model, compiled_in(run.optim), run.batch, run.model.context, first(run), members=m)
        for m in MEMBERS
    }
    rates: dict[int, list[float]] = {m: [] for m in MEMBERS}
    for turn in range(rounds):
        for m in MEMBERS[:: -1 if turn % 2 else 1]:
            rates[m].append(member_steps_per_second(run, programs[m]))
    return rates


if __name__ == "__main__":
    main()
