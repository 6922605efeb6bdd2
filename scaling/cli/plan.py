"""`scaling plan`: what would run, what it costs, what it could resolve."""

import argparse
import json
import math
from collections.abc import Callable, Container

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.cli.locate import results_of, study_of
from scaling.cli.options import json_option, study_options
from scaling.cost import count_params, train_flops
from scaling.launch.local import default_workers
from scaling.plan import Plan, Study
from scaling.plan.clock import estimator
from scaling.plan.design import Design, design
from scaling.record import Ledger
from scaling.report.words import power, short


def arguments(parser: argparse.ArgumentParser) -> None:
    study_options(parser)
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    study, path = study_of(arguments.experiment, arguments.changes, arguments.size)
    folder = results_of(study, path, arguments.out)
    workers = default_workers()
    if arguments.json:
        print(json.dumps(as_json(study, Ledger(folder), workers), indent=1))
    else:
        show(study, Ledger(folder), workers, Console())
    return 0


def as_json(study: Study, ledger: Ledger, workers: int) -> dict:
    workers = min(workers, len(study.runs))  # a plan of one run has one, with every core
    judged, pending, clock = _judged(study), study.runs.pending(ledger), estimator(workers)
    return study.to_json() | {
        "flops": study.runs.flops,
        "pending_flops": pending.flops,
        "pending": [p.run.id for p in pending.runs],
        "seconds": round(clock.wall(pending, workers), 1),
        "seconds_by_run": {p.run.id: round(clock.seconds(p), 3) for p in pending.runs},
        "seconds_from": clock.source(pending),
        "workers": workers,
        "design": judged.to_json() if judged else None,
    }


def show(study: Study, ledger: Container[str], workers: int, console: Console) -> None:
    """`ledger` has what is done; no `workers` are a machine whose speed this one cannot tell."""
    workers = min(workers, len(study.runs))
    pending = study.runs.pending(ledger)
    console.print(f"[bold]{study.name}[/bold]: {escape(study.question)}", soft_wrap=True)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("group", "runs", "trunks", "parameters N", "tokens D", "D/N", "FLOPs C"):
        table.add_column(name, justify="left" if name == "group" else "right", no_wrap=True)
    for group in dict.fromkeys(p.group for p in study.runs.runs):
        members = [p for p in study.runs.runs if p.group == group]
        runs = [p.run for p in members if p.role != "trunk"]
        n = [count_params(run.model).matmul for run in runs]
        table.add_row(
            group,
            str(len(runs)),
            str(len(members) - len(runs) or ""),
            _span(n),
            _span([run.tokens for run in runs]),
            _span([run.tokens / k for run, k in zip(runs, n, strict=True)], "{:.3g}".format),
            _span([train_flops(run) for run in runs], power),
        )
    console.print(table)
    judged = _judged(study)
    if judged and judged.half_width:
        widths = ", ".join(f"{name} ±{width:.2g}" for name, width in judged.half_width.items())
        console.print(
            f"design: {judged.sizes} sizes x {judged.horizons} horizons, D/N over {judged.span_ratio:.0f}x, condition "
            f"{judged.condition:.0f}; at 1 % noise the fit would know {widths} (90 %)",
            highlight=False,
            soft_wrap=True,
        )
    for warning in judged.warnings if judged else []:
        console.print(f"[yellow]design: {escape(warning)}[/yellow]", soft_wrap=True)
    for group, x in study.analysis.ladders.items():
        console.print(f"ladder {group}: {_ladder(study, group, x)}", highlight=False, soft_wrap=True)
    done = len(study.runs) - len(pending)
    if not pending.runs:
        console.print(f"cost: nothing left to train: all {done} runs are done", highlight=False, soft_wrap=True)
        return
    so_far = f", of which {done} are done" if done else ""
    if not workers:
        said = f"cost: {power(study.runs.flops)} FLOPs in {len(study.runs)} runs{so_far}"
        console.print(said, highlight=False, soft_wrap=True)
        return
    clock = estimator(workers)
    if clock.fault:
        console.print(f"[yellow]{escape(clock.fault)}[/yellow]", highlight=False, soft_wrap=True)
    hands = f"{workers} worker{'s' * (workers > 1)}"
    console.print(
        f"cost: {power(study.runs.flops)} FLOPs in {len(study.runs)} runs{so_far}; about "
        f"{_duration(clock.wall(pending, workers))} with {hands}, {clock.source(pending)}",
        highlight=False,
        soft_wrap=True,
    )


def _judged(study: Study) -> Design | None:
    """What the plan can tell of a law of N and D, where one is asked."""
    return design(study.plan, study.analysis.params) if study.analysis.laws else None


def _ladder(study: Study, group: str, x: str) -> str:
    """How far what grows alone in a group reaches, and how far beyond it is forecast."""

    def rungs(plan: Plan) -> set[float]:
        runs = [p.run for p in plan.runs if p.group == group and p.role != "trunk"]
        return {run.tokens if x == "d" else getattr(count_params(run.model), study.analysis.params) for run in runs}

    climbed, beyond = rungs(study.plan), rungs(study.held_out)
    decades = math.log10(max(climbed) / min(climbed))
    said = f"{len(climbed)} values of {x.upper()} over {decades:.1f} decades"
    return f"{said}; forecast at {max(beyond) / max(climbed):.2g} times the largest" if beyond else said


def _span(values: list, say: Callable[[float], str] = short) -> str:
    low, high = say(min(values)), say(max(values))
    return low if low == high else f"{low}-{high}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
