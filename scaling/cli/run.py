"""`scaling run`: plan, train, record, forecast, fit, report. Run it again and it goes on where it was."""

import argparse
import shlex
import sys

from rich.console import Console
from rich.markup import escape

from scaling.cli import engines
from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.locate import results_of, study_of
from scaling.cli.options import study_options, sweep_options
from scaling.cli.plan import show
from scaling.cli.progress import label
from scaling.cli.sweep import sweep, unfit
from scaling.launch.local import FolderLock, Outcome, default_workers
from scaling.plan import Study
from scaling.record import Ledger, table
from scaling.record.files import commit_json
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    study_options(parser)
    sweep_options(parser)
    engines.engine_options(parser)


def run(arguments: argparse.Namespace) -> int:
    study, path = study_of(arguments.experiment, arguments.changes)
    folder = results_of(study, path, arguments.out)
    ledger = Ledger(folder)
    workers = default_workers() if arguments.workers is None else arguments.workers
    _refuse_unfit(study, ledger, workers, arguments.population, engines.unfit(arguments, folder))
    console = Console(stderr=True)
    if arguments.on != "local":
        return _on_engine(arguments, study, ledger, console)
    show(study, ledger, workers, console)
    if arguments.dry_run:
        return DONE
    with FolderLock(folder) as lock:
        commit_json(folder / "study.json", study.to_json() | {"command": _command(arguments)})
        outcome = sweep(
            study, ledger, workers, lock, arguments.population, release=lambda watched: _register(ledger, watched)
        )
        table.write(ledger)
    if outcome.stopped:
        out = f" --out {shlex.quote(arguments.out)}" if arguments.out else ""
        console.print(
            f"stopped; what is done is kept. To go on: {_command(arguments)}{out}", highlight=False, soft_wrap=True
        )
        return INTERRUPTED
    return _close(study, ledger, outcome, console)


def _on_engine(arguments: argparse.Namespace, study: Study, ledger: Ledger, console: Console) -> int:
    show(study, ledger, engines.workers(arguments, study, ledger), console)
    if arguments.dry_run:
        engines.dry_run(arguments, study, ledger)
        return DONE
    commit_json(ledger.folder / "study.json", study.to_json() | {"command": _command(arguments)})
    again = shlex.join(["scaling", *(word for word in sys.argv[1:] if word != "--detach")])
    outcome = engines.sweep(arguments, study, ledger, console, again)
    if outcome is None:
        return DONE if arguments.detach else INTERRUPTED
    table.write(ledger)
    if outcome.stopped:
        console.print(f"stopped; what is done is kept. To go on: {again}", highlight=False, soft_wrap=True)
        return INTERRUPTED
    return _close(study, ledger, outcome, console)


def _command(arguments: argparse.Namespace) -> str:
    """What makes these results again, wherever they go."""
    changes = [word for change in arguments.changes for word in ("--set", change)]
    return shlex.join(["scaling", "run", arguments.experiment, *changes])


def _refuse_unfit(study: Study, ledger: Ledger, workers: int, population: str, engine: list[str]) -> None:
    from scaling.fitting.laws import SURFACES

    faults = [
        f"analysis.laws = {law!r}: no such law; there are {', '.join(SURFACES)}"
        for law in study.analysis.laws
        if law not in SURFACES
    ]
    if faults := faults + engine + unfit(study, ledger, workers, population):
        raise Refusal(faults)


def _register(ledger: Ledger, console: Console) -> None:
    """The forecast of the held-out runs, before they are trained."""
    from scaling.report.findings import register

    table.write(ledger)
    try:
        lines = register(ledger)
    except Refusal as refusal:
        lines = [f"no forecast: {fault}" for fault in refusal.faults]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _close(study: Study, ledger: Ledger, outcome: Outcome, console: Console) -> int:
    """Fit, report, and say what is not finished and why."""
    from scaling.report import findings, page
    from scaling.report.table import closing

    unfinished = [p for p in study.runs.runs if p.run.id not in ledger or ledger[p.run.id].status != "finished"]
    if any(p.role != "trunk" and p.run.id in ledger for p in study.runs.runs):
        found = findings.find(ledger)
        findings.write(found, ledger)
        closing(found, Console(), page.write(found, ledger))
    for planned in unfinished:
        run_id = planned.run.id
        recorded = ledger[run_id] if run_id in ledger else None
        status = recorded.status if recorded else "pending"
        reason = recorded.reason if recorded else outcome.failed.get(run_id, "not started")
        console.print(
            f"[red]{status}[/red] {label(planned)} ({run_id}): {escape(reason)}", highlight=False, soft_wrap=True
        )
    if any(p.run.id not in ledger for p in unfinished):
        console.print("the same command tries the pending ones again")
    return FAILED if unfinished else DONE
