"""`scaling run`: plan, train, record, forecast, fit, report. Run it again and it goes on where it was."""

import argparse
import json
import os
import shlex
import signal
import sys
import threading

from rich.console import Console
from rich.markup import escape

from scaling import data
from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.locate import results_of, study_of
from scaling.cli.options import study_options
from scaling.cli.plan import show
from scaling.cli.progress import SweepView, label
from scaling.launch import provenance
from scaling.launch.local import FolderLock, LocalSweep, Outcome, default_population, default_workers
from scaling.plan import Study
from scaling.record import Ledger, table
from scaling.record.files import commit_json
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    study_options(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: one a core on CPU)")
    parser.add_argument(
        "--population", default="auto", metavar="N|auto",
        help="runs of one shape that a worker trains in one program: a number, or auto (default): what pays by trial "
        "on an accelerator, 1 on a CPU",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def run(arguments: argparse.Namespace) -> int:
    study, path = study_of(arguments.experiment, arguments.changes)
    folder = results_of(study, path, arguments.out)
    ledger = Ledger(folder)
    workers = default_workers() if arguments.workers is None else arguments.workers
    _refuse_unfit(study, ledger, workers, arguments.population)
    console = Console(stderr=True)
    show(study, ledger, workers, console)
    if arguments.dry_run:
        return DONE
    with FolderLock(folder) as lock:
        commit_json(folder / "study.json", study.to_json() | {"command": _command(arguments)})
        outcome = _sweep(study, ledger, workers, lock, arguments.population)
        table.write(ledger)
    if outcome.stopped:
        out = f" --out {shlex.quote(arguments.out)}" if arguments.out else ""
        console.print(
            f"stopped; what is done is kept. To go on: {_command(arguments)}{out}", highlight=False, soft_wrap=True
        )
        return INTERRUPTED
    return _close(study, ledger, outcome, console)


def _command(arguments: argparse.Namespace) -> str:
    """What makes these results again, wherever they go."""
    changes = [word for change in arguments.changes for word in ("--set", change)]
    return shlex.join(["scaling", "run", arguments.experiment, *changes])


def _refuse_unfit(study: Study, ledger: Ledger, workers: int, population: str) -> None:
    """What can only be known here: the laws, the folder, the text that earlier runs were trained on."""
    from scaling.fitting.laws import SURFACES

    faults = [
        f"analysis.laws = {law!r}: no such law; there are {', '.join(SURFACES)}"
        for law in study.analysis.laws
        if law not in SURFACES
    ]
    if workers < 1:
        faults.append(f"--workers = {workers}: must be at least 1")
    if population != "auto" and not (population.isdecimal() and int(population)):
        faults.append(f"--population = {population}: must be auto or a whole number of at least 1")
    nearest = next(p for p in [ledger.folder, *ledger.folder.absolute().parents] if p.exists())
    if not nearest.is_dir():
        faults.append(f"--out = {ledger.folder}: {nearest} is a file, not a folder")
    elif not os.access(nearest, os.W_OK):
        faults.append(f"--out = {ledger.folder}: {nearest} cannot be written to; give another --out")
    else:
        faults += _other_study(study, ledger) or _changed_texts(study, ledger)
    if faults:
        raise Refusal(faults)


def _other_study(study: Study, ledger: Ledger) -> list[str]:
    """A results folder keeps one study: it may gain runs, and loses none of those that were made."""
    if not (ledger.folder / "study.json").exists():
        return []
    before, planned = ledger.study(), {p.run.id for p in study.runs.runs}
    if before["name"] != study.name:
        return [f"--out = {ledger.folder}: holds the study {before['name']}; give another --out"]
    made = [p["id"] for p in before["plan"] if p["id"] in ledger and p["id"] not in planned]
    if not made:
        return []
    return [
        f"--out = {ledger.folder}: holds {len(made)} finished runs that this plan has not, e.g. {made[0]}: the study "
        "or a --set changed; give another --out"
    ]


def _changed_texts(study: Study, ledger: Ledger) -> list[str]:
    """One study is trained on one text: a source that changed since its first record is refused."""
    then = {p.run.data.source: ledger[p.run.id].data for p in study.runs.runs if p.run.id in ledger}
    now = {p.run.data.source: p.run for p in study.runs.runs if p.run.data.source in then}
    lines = []
    for source, spec in now.items():
        said = data.open_source(spec.data, spec.model).provenance
        if any(said.get(key) != then[source].get(key) for key in ("sha256", "sha256_held_out")):
            lines.append(
                f"data.source = {source}: its text changed since the runs in {ledger.folder} (then "
                f"{then[source].get('python', '')} {then[source].get('sha256', '')[:12]}, now {said.get('python', '')} "
                f"{said.get('sha256', '')[:12]}); give another --out"
            )
    return lines


def _sweep(study: Study, ledger: Ledger, workers: int, lock: FolderLock, population: str) -> Outcome:
    from scaling.report.findings import register

    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    machine = json.dumps(provenance.commit())
    command = [sys.executable, "-m", "scaling", "worker", str(ledger.folder.absolute()), machine]
    command += ["--population", population]
    view = SweepView(study.runs, ledger, workers)

    def release() -> None:
        table.write(ledger)
        try:
            lines = register(ledger)
        except Refusal as refusal:
            lines = [f"no forecast: {fault}" for fault in refusal.faults]
        for line in lines:
            view.console.print(line, highlight=False, soft_wrap=True)

    try:
        with view:
            return LocalSweep(
                study.runs,
                ledger,
                command=command,
                workers=workers,
                lock=lock,
                population=default_population() if population == "auto" else int(population),
                held_back=[p.run.id for p in study.held_out.runs],
                release=release,
                seen=view,
                stop=stop,
            ).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
