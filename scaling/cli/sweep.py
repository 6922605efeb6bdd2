"""A sweep in a results folder, as `scaling run` and `scaling tune` make one: what refuses it, and how it is watched."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from rich.console import Console

from scaling import data
from scaling.cli.progress import SweepView, label
from scaling.launch import provenance
from scaling.launch.local import Event, FolderLock, LocalSweep, Outcome, default_population
from scaling.launch.mirror import mirrored
from scaling.plan import Plan, Study
from scaling.record import Ledger


def unfit(study: Study, ledger: Ledger, workers: int, population: str) -> list[str]:
    """What can only be known here: the workers, the folder, the text that earlier runs were trained on."""
    faults = [] if workers >= 1 else [f"--workers = {workers}: must be at least 1"]
    if population != "auto" and not (population.isdecimal() and int(population)):
        faults.append(f"--population = {population}: must be auto or a whole number of at least 1")
    nearest = next(p for p in [ledger.folder, *ledger.folder.absolute().parents] if p.exists())
    if not nearest.is_dir():
        faults.append(f"--out = {ledger.folder}: {nearest} is a file, not a folder")
    elif not os.access(nearest, os.W_OK):
        faults.append(f"--out = {ledger.folder}: {nearest} cannot be written to; give another --out")
    else:
        faults += _other_study(study, ledger) or changed_texts(study.runs, ledger)
    return faults


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


def changed_texts(plan: Plan, ledger: Ledger) -> list[str]:
    """One study is trained on one text: a source that changed since its first record is refused."""
    then = {p.run.data.source: ledger[p.run.id].data for p in plan.runs if p.run.id in ledger}
    now = {p.run.data.source: p.run for p in plan.runs if p.run.data.source in then}
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


def sweep(
    study: Study,
    ledger: Ledger,
    workers: int,
    lock: FolderLock,
    population: str,
    release: Callable[[Console], None] = lambda _: None,
    sinks: Sequence[str] = (),
) -> Outcome:
    """Train what is pending; Ctrl-C stops it.

    `population` is auto or the most runs that one program trains; `release` is called when the held-out runs may begin.
    `sinks` are the trackers that the curves are copied to.
    """
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    machine = json.dumps(provenance.commit())
    command = [sys.executable, "-m", "scaling", "worker", str(ledger.folder.absolute()), machine]
    command += ["--population", population]
    view = SweepView(study.runs, ledger, workers)
    try:
        with view, mirrored(sinks, ledger, study.runs, study.name, label) as mirror:

            def see(event: Event) -> None:
                view(event)
                mirror(event)

            return LocalSweep(
                study.runs,
                ledger,
                command=command,
                workers=workers,
                lock=lock,
                population=default_population() if population == "auto" else int(population),
                held_back=[p.run.id for p in study.held_out.runs],
                release=lambda: release(view.console),
                seen=see,
                stop=stop,
            ).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
