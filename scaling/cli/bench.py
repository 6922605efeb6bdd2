"""`scaling bench`: how fast this machine trains, by size; the table that `scaling plan` takes its times from."""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling import machine
from scaling.cli.exits import DONE, FAILED
from scaling.cli.locate import study_of
from scaling.cli.mesh import mesh_options, unfit, unfit_devices, words
from scaling.cli.options import json_option, size_option
from scaling.cost import count_params, flops_per_token
from scaling.launch.bench import Found, Team
from scaling.launch.local import default_workers
from scaling.launch.provenance import devices
from scaling.machine import Shape, Speed
from scaling.plan import Plan, Planned
from scaling.report.words import power, several, short
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, Refusal, RunSpec

WIDTH = 120  # characters that the table may take, whatever the terminal: it folds there and loses nothing
VOCABULARY = 50304  # of GPT-2, up to a multiple of 64


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", nargs="?", help="measure its shapes (default: standard ones)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, as `scaling run` would",
    )  # fmt: skip
    size_option(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes side by side (default: as a sweep)")
    parser.add_argument(
        "--largest-batch", action="store_true",
        help="also the largest batch whose step fits into a device, found by compiling and not by running out",
    )  # fmt: skip
    mesh_options(parser)
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    workers = default_workers() if arguments.workers is None else arguments.workers
    faults = [f"--workers = {workers}: must be at least 1"] if workers < 1 else []
    if (arguments.changes or arguments.size) and not arguments.experiment:
        option = "--set" if arguments.changes else "--size"
        faults.append(f"{option}: the standard shapes are fixed; name an EXPERIMENT whose runs to measure")
    planned = []
    if arguments.experiment:
        study, _ = study_of(arguments.experiment, arguments.changes, arguments.size)
        planned = [p.run for p in study.runs.runs]
    faults += unfit(arguments, planned)
    if faults:
        raise Refusal(faults)
    with tempfile.TemporaryDirectory() as folder:
        runs = distinct(planned) if planned else standard(_accelerated(), Path(folder))
        if faults := unfit(arguments, runs) + unfit_devices(arguments, _side_by_side(runs, workers), workers):
            raise Refusal(faults)
        start, found, kept = _measure(runs, workers, arguments, Path(folder))
    if arguments.json:
        print(json.dumps(as_json(found, workers, start), indent=1))
    else:
        show(found, workers, Console())
        for line in kept:
            Console().print(line, highlight=False, soft_wrap=True)
    return FAILED if any(one.reason for one in found) else DONE


def distinct(runs: list[RunSpec]) -> list[RunSpec]:
    """One run of each shape, the longest, in the order in which shapes first come."""
    longest: dict[Shape, RunSpec] = {}
    for run in runs:
        shape = Shape.of(run)
        if shape not in longest or run.steps > longest[shape].steps:
            longest[shape] = run
    return list(longest.values())


def standard(accelerated: bool, folder: Path) -> list[RunSpec]:
    """Four sizes in steps of 8,192 bytes of text, and two in the short steps of the small studies, which tell what a
    step costs whatever its tokens; on an accelerator two sizes of GPT-2 as well, on ids written to `folder`."""
    base = RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=64, vocab_size=256, context=32),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source="bytes:stdlib"),
        eval=EvalSpec(tokens=16_384),
        batch=8,
        steps=1000,
    )

    def model(layers: int, width: int, heads: int, context: int, **how: Any) -> ModelSpec:
        return replace(
            base.model, n_layers=layers, d_model=width, d_ff=4 * width, d_head=width // heads, context=context, **how
        )

    runs = [replace(base, model=model(2, width, width // 16, 32)) for width in (16, 64)]
    tied = {"positions": "learned", "tied": True}
    sizes = ((3, 16, 2), (2, 64, 4), (5, 128, 4), (6, 256, 8))  # 10k, 100k, 1M and 5M parameters without the embedding
    runs += [replace(base, model=model(*size, 128, **tied), batch=64) for size in sizes]
    if accelerated:
        ids = folder / "ids.npy"
        np.save(ids, np.random.default_rng(0).integers(VOCABULARY, size=4_000_000, dtype=np.uint16))
        half = tied | {"vocab_size": VOCABULARY, "compute_dtype": "bfloat16"}
        gpt2 = ((12, 768, 12), (24, 1024, 16))  # 124M and 350M
        runs += [
            replace(base, model=model(*size, 1024, **half), batch=8, data=DataSpec(source=f"tokens:{ids}"))
            for size in gpt2
        ]
    return runs


def _accelerated() -> bool:
    """Whether JAX computes on something else than the processor; `Refusal` where it computes on nothing."""
    seen = devices(sys.executable)
    if "error" in seen:
        raise Refusal(f"jax sees no device: {seen['error']}; `scaling doctor` says more")
    return seen["backend"] != "cpu"


def _side_by_side(runs: list[RunSpec], workers: int) -> Plan:
    """What the workers train at a time: each shape on all of them."""
    return Plan(tuple(Planned(run=runs[0], group="bench", role="compare") for _ in range(workers)))


def _measure(
    runs: list[RunSpec], workers: int, arguments: argparse.Namespace, folder: Path
) -> tuple[float, list[Found], list[str]]:
    """Seconds to a ready worker, what was found, and what became of the table, which has each shape as it is done."""
    say = Console(stderr=True)

    def command(number: int) -> list[str]:
        # The largest batch does not depend on who asks.
        asked = ["--largest-batch"] if arguments.largest_batch and number == 0 else []
        return [sys.executable, "-m", "scaling", "bench_worker", str(folder), *asked, *words(arguments)]

    found, kept = [], {}
    with Team(command, workers, folder) as team:
        for count, run in enumerate(runs, 1):
            one = team.measure(run)
            found.append(one)
            said = (
                f"[red]{escape(one.reason)}[/red]"
                if one.reason
                else f"{1 / one.middle('train'):,.0f} tokens/s a worker"
            )
            say.print(f"{count:3d}/{len(runs)} {name(run)}: {said}", highlight=False, soft_wrap=True)
            if not one.reason and words(arguments):
                kept["not kept: `scaling plan` estimates times by the placement that a sweep finds by itself"] = None
            elif not one.reason:
                kept |= dict.fromkeys(_keep(one.by_worker[0]["device"], team.start, [speed_of(one, workers)]))
        return team.start, found, list(kept)


def speed_of(found: Found, workers: int) -> Speed:
    first = found.by_worker[0]
    names = ("train", "spread", "evaluate", "compile_cold", "compile_cached", "per_run")
    return Speed(
        shape=Shape.of(found.run),
        workers=workers,
        memory=first["memory"],
        largest_batch=first.get("largest_batch"),
        date=datetime.now(UTC).date().isoformat(),
        **{name: found.middle(name) for name in names},
    )


def _keep(device: str, start: float, speeds: list[Speed]) -> list[str]:
    """What became of the table, in lines."""
    path = machine.table_path()
    try:
        fault = machine.keep(device, start, speeds)
    except OSError as error:
        return [f"not kept: {path} cannot be written ({error.strerror}); `scaling plan` knows nothing of it"]
    return [*([fault] if fault else []), f"kept in {path}: `scaling plan` estimates times by it"]


def name(run: RunSpec) -> str:
    """A shape in a few words: layers x width, rows x context, optimizer."""
    m = run.model
    kind = "" if m.attention == "causal" else f" {m.attention}"
    return f"{m.n_layers} x {m.d_model}{kind}, {run.batch} x {m.context}, {run.optim.name}"


def rates(found: Found) -> dict[str, float]:
    """Tokens and FLOPs a second, of a worker and of all, and the share of the peak that a worker reaches."""
    per_token = flops_per_token(found.run.model, "exact")
    every = sum(1 / one["train"] for one in found.by_worker)
    each = 1 / found.middle("train")
    return {
        "tokens_per_second": each,
        "tokens_per_second_all": every,
        "flops_per_second": each * per_token,
        "flops_per_second_all": every * per_token,
        "mfu": each * per_token / found.middle("peak"),
    }


def as_json(found: list[Found], workers: int, start: float) -> dict[str, Any]:
    shapes = []
    for one in found:
        shape = {"name": name(one.run), "n_params": count_params(one.run.model).matmul}
        if one.reason:
            shapes.append(shape | {"failed": one.reason})
        else:
            speed = speed_of(one, workers)
            values = {
                field: getattr(speed, field) for field in ("spread", "evaluate", "compile_cold", "compile_cached")
            }
            shapes.append(
                shape | rates(one) | values | {
                    "per_run": speed.per_run, "memory": speed.memory, "largest_batch": speed.largest_batch,
                    "peak_flops": one.middle("peak"), "peak_source": one.by_worker[0]["peak_source"],
                    "ceiling_flops": one.middle("ceiling"), "calls": [w["calls"] for w in one.by_worker],
                }
            )  # fmt: skip
    table = str(machine.table_path())
    return {"machine": machine.key(), "workers": workers, "start": start, "shapes": shapes, "table": table}


def show(found: list[Found], workers: int, console: Console) -> None:
    console.width = max(console.width, WIDTH)
    searched = any("largest_batch" in worker for one in found for worker in one.by_worker)
    table = Table(box=None, header_style="dim", pad_edge=False)
    names = ["shape", "N", "tokens/s", f"of {workers}", "FLOP/s", "MFU", "compile", "cached", "memory"]
    for column in [*names, *["largest batch"] * searched]:
        table.add_column(column, justify="left" if column == "shape" else "right", no_wrap=True)
    for one in found:
        row = [name(one.run), short(count_params(one.run.model).matmul)]
        if not one.reason:
            rate, first = rates(one), one.by_worker[0]
            row += [f"{rate['tokens_per_second']:,.0f}", f"{rate['tokens_per_second_all']:,.0f}"]
            row += [power(rate["flops_per_second_all"]), f"{rate['mfu']:.0%}"]
            row += [f"{one.middle(field):.2g} s" for field in ("compile_cold", "compile_cached")]
            row += [f"{first['memory'] / 1e6:,.0f} MB", *([_largest(first)] if searched else [])]
        table.add_row(*row)
    console.print(table)
    for dtype in dict.fromkeys(one.run.model.compute_dtype for one in found if not one.reason):
        of_type = next(one for one in found if not one.reason and one.run.model.compute_dtype == dtype)
        console.print(_ceiling(of_type, dtype), highlight=False, soft_wrap=True)
    for one in found:
        if one.reason:
            console.print(f"[red]failed[/red] {name(one.run)}: {escape(one.reason)}", highlight=False, soft_wrap=True)


def _largest(first: dict[str, Any]) -> str:
    if not first["largest_batch"]:
        return f"not even this one, in {first['memory_limit'] / 1e9:.3g} GB"
    return f"{first['largest_batch']:,} rows in {first['memory_limit'] / 1e9:.3g} GB"


def _ceiling(one: Found, dtype: str) -> str:
    first = one.by_worker[0]
    of = f"{several(first['devices'], 'device')} a worker ({first['device']}), {os.cpu_count()} cores here"
    best = f"the best matrix product measured does {power(one.middle('ceiling'))} FLOP/s in {dtype}"
    if first["peak_source"] == "documented":
        return f"MFU: of the documented dense peak, {power(first['peak'])} FLOP/s in {dtype}; {best}; {of}"
    return f"MFU: of the measured ceiling, since no peak is documented for this device: {best}; {of}"
