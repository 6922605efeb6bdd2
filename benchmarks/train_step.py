"""How fast one training step is, alone or beside other programs at the same shape.

python benchmarks/train_step.py 10k 100k 1M --rounds 15 --out benchmarks/results/train_step.json
python benchmarks/train_step.py 10k --beside "nanoGPT=python worker.py"

Every program is a process that answers lines of JSON on stdin with lines on stdout, ours included (`--worker`):
{"op": "setup", "d_model": .., "n_layers": .., "n_heads": .., "context": .., "batch": .., "vocab": .., "positions": ..,
"steps": K} builds the model and runs K steps once -> {"params": ..}; {"op": "run"} -> {"seconds": .., "cpu_seconds":
.., "loss": ..}: the first two per step, over K steps after which the loss is on the host. One program runs at a time,
in an order that turns around each round, so that what else the machine does falls on all alike.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Byte vocabulary throughout. The first four are compared with others, so they have learned positions and a tied head.
SHAPES: dict[str, dict[str, Any]] = {
    name: {"d_model": d, "n_layers": n, "n_heads": h, "context": 128, "batch": 64, "positions": "learned", "steps": k}
    for name, d, n, h, k in (("10k", 16, 3, 2, 16), ("100k", 64, 2, 4, 8), ("1M", 128, 5, 4, 2), ("5M", 256, 6, 8, 1))
}
# What the small studies run: two layers, heads of 16, 256 tokens a step.
SHAPES |= {
    f"d{d}": {"d_model": d, "n_layers": 2, "n_heads": max(1, d // 16), "context": 32, "batch": 8, "positions": "rotary",
              "steps": 200} for d in (8, 16, 32, 48, 64, 96)
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shapes", nargs="*", default=["10k", "100k", "1M"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=11, help="calls of each program, after one that warms up")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=COMMAND", help="another program")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    parser.add_argument("--worker", action="store_true", help="be one of the programs")
    options = parser.parse_args()
    if options.worker:
        return work()
    if unknown := [name for name in options.shapes if name not in SHAPES]:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    commands = {"ours": [sys.executable, __file__, "--worker"]}
    commands |= {name: shlex.split(command) for name, _, command in (text.partition("=") for text in options.beside)}
    with contextlib.ExitStack() as stack:
        programs = {name: stack.enter_context(program(command)) for name, command in commands.items()}
        measured = {shape: compare(programs, SHAPES[shape], options.rounds) for shape in options.shapes}
    Console(width=110).print(table(measured))
    if options.out:
        document = {"where": where(), "rounds": options.rounds, "shapes": SHAPES, "measured": measured}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")


@contextlib.contextmanager
def program(command: list[str]) -> Iterator[Any]:
    """A function that sends one message to a worker and waits for its answer."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    questions, answers = process.stdin, process.stdout
    assert questions and answers

    def ask(**message: Any) -> dict[str, Any]:
        print(json.dumps(message), file=questions, flush=True)
        answer = answers.readline()
        if not answer:
            raise SystemExit(f"{shlex.join(command)}: ended with status {process.wait()} at {message}")
        return json.loads(answer)

    try:
        yield ask
    finally:
        questions.close()
        process.wait()


def compare(programs: dict[str, Any], shape: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Every program's seconds per step, round by round."""
    setups = {name: ask(op="setup", vocab=256, **shape) for name, ask in programs.items()}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for turn in range(rounds):
        for name in list(programs)[:: -1 if turn % 2 else 1]:
            answers[name].append(programs[name](op="run"))
    tokens = shape["batch"] * shape["context"]
    return {
        name: {
            "params": setups[name]["params"],
            "versions": setups[name].get("versions", {}),
            "tokens_per_second": tokens / statistics.median(a["seconds"] for a in got),
            "seconds": [round(a["seconds"], 7) for a in got],  # per step
            "cpu_seconds": [round(a["cpu_seconds"], 7) for a in got],  # per step, over all threads
        }
        for name, got in answers.items()
    }


def table(measured: dict[str, Any]) -> Table:
    """Medians with quartiles, and how many of our steps fit into one of theirs: median of the ratios by round."""
    shown = Table("shape", "program", "parameters", "ms a step", "CPU ms", "tokens/s", "ours is faster by")
    for shape, programs in measured.items():
        for name, got in programs.items():
            ratios = [b / a for a, b in zip(programs["ours"]["seconds"], got["seconds"], strict=True)]
            shown.add_row(
                shape, name, f"{got['params']:,}", spread([1e3 * s for s in got["seconds"]]),
                f"{1e3 * statistics.median(got['cpu_seconds']):.3g}", f"{got['tokens_per_second']:,.0f}",
                "" if name == "ours" else spread(ratios),
            )  # fmt: skip
    return shown


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def where() -> dict[str, Any]:
    processor = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor,
        "cores": _cores(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def work() -> None:
    """Our side: a chunk of steps as a run executes it, from windows on the host to rows of its curve on disk.

    One copy of the weights for each core that this process may use, where the batch has a part for each.
    """
    import jax
    import numpy as np

    from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec, compiled_in
    from scaling.train.curve import Curve, probed
    from scaling.train.optim import Knobs, blends, learning_rates
    from scaling.train.placement import first
    from scaling.train.program import program
    from scaling.train.step import Chunk

    jax.config.update("jax_num_cpu_devices", _cores())
    folder, taken = Path(tempfile.mkdtemp(prefix="train_step")), 0
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for line in sys.stdin:
            message = json.loads(line)
            if message["op"] == "setup":
                d, steps, context = (message[name] for name in ("d_model", "steps", "context"))
                run = RunSpec(
                    model=ModelSpec(
                        n_layers=message["n_layers"], d_model=d, d_ff=4 * d, d_head=d // message["n_heads"],
                        vocab_size=message["vocab"], context=context, positions=message["positions"],
                        tied=message["positions"] == "learned",
                    ),
                    optim=OptimSpec(peak_lr=1e-3, schedule="cosine", warmup_steps=10, weight_decay=0.1),
                    data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=context), batch=message["batch"],
                    steps=100_000,
                )  # fmt: skip
                compiled = program(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, first(run))
                state = jax.device_put(compiled.initial(jax.random.key(0)), compiled.layout)
                curve = stack.enter_context(Curve(folder / f"{d}.jsonl", run, [], 0))
                window_BxM = np.random.default_rng(0).integers(256, size=(run.batch, context + 1), dtype=np.uint8)
                taken, params = 0, sum(leaf.size for leaf in jax.tree.leaves(state.params))
                window_KxBxM = np.broadcast_to(window_BxM, (compiled.chunk, *window_BxM.shape))
            began, cpu_began = time.perf_counter(), time.process_time()
            end = taken + steps
            while taken < end:
                count = min(end - taken, compiled.chunk)
                columns = (learning_rates(run, taken, count), blends(run, taken, count), probed(taken, count))
                lr_K, blend_K, probed_K = (np.resize(column, compiled.chunk) for column in columns)
                chunk = Chunk(window_KxBxM, lr_K, blend_K, probed_K, np.int32(count))
                state, _, metrics = compiled.steps(state, np.array(True), chunk, Knobs.of(run.optim))
                curve.add(taken, taken + count, metrics)
                taken += count
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            answer = {"seconds": seconds / steps, "cpu_seconds": cpu_seconds / steps, "loss": curve.loss}
            print(json.dumps({"params": params} if message["op"] == "setup" else answer), flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
