"""A sweep in a results folder, as `scaling run`, `work` and `tune` make one: what refuses it, and how it is watched."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from scaling import data
from scaling.cli import mesh
from scaling.cli.locate import unwritable
from scaling.cli.progress import SweepView, label
from scaling.launch import provenance
from scaling.launch.hosts import Member
from scaling.launch.local import LocalSweep, Outcome, Stop, default_population, default_workers, one_core_each
from scaling.launch.mirror import mirrored
from scaling.launch.process import Event
from scaling.plan import Plan, Study
from scaling.record import Failure, Ledger, table
from scaling.record.claims import Holder, Observer
from scaling.record.files import commit_json, on_store
from scaling.record.litter import clear
from scaling.report.words import plain
from scaling.spec import DataSpec, Refusal

SINGLE = "one_core_each"  # in study.json: whether every worker has one thread
SHAS = ("sha256", "sha256_held_out")
TEXTS = "texts"  # in study.json: what identifies the text of each source, for who takes part elsewhere or later
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def unfit(study: Study, ledger: Ledger, workers: int, population: str, patience: float) -> list[str]:
    """What can only be known here: the workers, the folder, the text that earlier runs were trained on."""
    faults = unfit_options(workers, population, patience)
    if on_store(ledger.folder):
        try:
            return faults + (other_study(study, ledger) or changed_texts(study.runs, ledger))
        except OSError as error:
            return [*faults, f"--out = {ledger.folder}: cannot be read ({error})"]
    if why := unwritable(ledger.folder):
        faults.append(f"--out = {ledger.folder}: {why}; give another --out")
    else:
        faults += other_study(study, ledger) or changed_texts(study.runs, ledger)
    return faults


def unfit_options(workers: int, population: str, patience: float) -> list[str]:
    faults = [] if workers >= 1 else [f"--workers = {workers}: must be at least 1"]
    if population != "auto" and not (population.isdecimal() and int(population)):
        faults.append(f"--population = {population}: must be auto or a whole number of at least 1")
    if not patience > 0:
        faults.append(f"--patience = {patience}: must be a positive number of seconds")
    return faults


def unfit_sinks(ledger: Ledger, sinks: Collection[str]) -> list[str]:
    """Why curves cannot be copied as they grow."""
    if not on_store(ledger.folder):
        return []
    return [
        f"--log {name}: needs a results folder on a disk; copy {ledger.folder} there, and `scaling log`"
        for name in sinks
    ]


def unfit_team(plan: Plan, option: str, processes: int, population: str, folder: Path) -> list[str]:
    """What speaks against training each run of `plan` on several processes."""
    faults = []
    if on_store(folder) and option != "--distributed":
        faults.append(f"{option} = {processes}: needs a results folder on a disk, where the processes meet")
    if population not in ("auto", "1"):
        faults.append(f"--population = {population}: must be 1 with {option} above 1, which share one run")
    uneven = [p.run for p in plan.runs if p.run.batch % processes]
    if uneven:
        faults.append(
            f"{option} = {processes}: must divide the batch of every run, and does not with {len(uneven)} of them, "
            f"e.g. {uneven[0].id}: batch = {uneven[0].batch}"
        )
    return faults


def other_study(study: Study, ledger: Ledger) -> list[str]:
    """A results folder keeps one study: it may gain runs, and loses none of those that were made."""
    if not (ledger.folder / "study.json").exists():
        return []
    before, planned = ledger.study(), {p.run.id for p in study.runs.runs}
    if before["name"] != study.name:
        return [f"--out = {ledger.folder}: holds the study {before['name']}; give another --out"]
    made = [p["id"] for p in before["plan"] if p["id"] in ledger and p["id"] not in planned]
    if made:
        return [
            f"--out = {ledger.folder}: holds {len(made)} finished runs that this plan has not, e.g. {made[0]}: the "
            "study or a --set changed; give another --out"
        ]
    if _asks_the_same(before, study):
        return []
    return [
        f"--out = {ledger.folder}: {said.host} (process {said.pid}) is at work there on another plan of this study; "
        "wait for it, stop it, or give another --out"
        for said in Observer(ledger.folder).working()[:1]
    ]


def _asks_the_same(before: dict, study: Study) -> bool:
    asked = {name: value for name, value in before.items() if name not in ("command", SINGLE, TEXTS)}
    return asked == json.loads(json.dumps(study.to_json()))


def unfit_texts(plan: Plan, ledger: Ledger) -> list[str]:
    """Why who takes part from here would train on another text, or on none."""
    faults = [*dict.fromkeys(fault for p in plan.pending(ledger).runs for fault in data.faults(p.run))]
    return faults or changed_texts(plan, ledger)


def changed_texts(plan: Plan, ledger: Ledger) -> list[str]:
    """One study is trained on one text: one that is another here, or now, than where it was begun is refused."""
    if not (ledger.folder / "study.json").exists() or not _begun(plan, ledger):
        return []
    trained = {p.run.data.source for p in plan.runs}
    return [
        f"{'data' if source in trained else 'eval'}.source = {source}: its text is another than that of the runs in "
        f"{ledger.folder} (there {then.get('python', '')} {then.get('sha256', '')[:12]}, here {now.get('python', '')} "
        f"{now.get('sha256', '')[:12]}); take part with that text, or give another --out"
        for source, then in ledger.study().get(TEXTS, {}).items()
        if (now := _texts(plan, source).get(source)) and any(then.get(key) != now.get(key) for key in SHAS)
    ]


def _texts(plan: Plan, *sources: str) -> dict[str, dict[str, str]]:
    """Python's version and the sha256 of what each source of a plan holds on this machine, those measured on too."""
    models = {name: p.run.model for p in plan.runs for name in (p.run.eval.source, p.run.data.source) if name}
    said = {
        name: data.open_source(DataSpec(source=name), model).provenance
        for name, model in models.items()
        if not sources or name in sources
    }
    return {name: {key: of[key] for key in ("python", *SHAS) if key in of} for name, of in said.items()}


def _begun(plan: Plan, ledger: Ledger) -> bool:
    return any(p.run.id in ledger or ledger.curve_lines(p.run.id) for p in plan.runs)


def lay_down(study: Study, ledger: Ledger, holder: Holder, command: str, workers: int) -> None:
    """Write `study.json`. While others are at work on the same it stays as it is; on another plan they stop nobody.

    It also says how many cores a worker has, one or all of its participant's: sums run in another order on several, so
    whoever takes part later, or goes on, does as it was begun. And which text each source is.
    """
    path = ledger.folder / "study.json"
    before = ledger.study() if path.exists() else {}
    if before and holder.others():
        if faults := other_study(study, ledger):
            raise Refusal(faults)
        return
    begun = _begun(study.runs, ledger)
    single = before.get(SINGLE) if begun else None
    if single is None:
        single = one_core_each(study.runs, workers)
    texts = _texts(study.runs) | (before.get(TEXTS, {}) if begun else {})
    commit_json(path, study.to_json() | {"command": command, SINGLE: single, TEXTS: texts})


def workers_of(arguments: argparse.Namespace, ledger: Ledger) -> int:
    """`--workers`, else one where a worker has all cores in this sweep, else what the machine has."""
    if arguments.workers is not None:
        return arguments.workers
    begun = (ledger.folder / "study.json").exists() and ledger.study().get(SINGLE) is False
    return 1 if begun else default_workers()


@contextmanager
def obeying_signals() -> Iterator[None]:
    """Every signal that asks a process to end interrupts it as Ctrl-C does, so that it leaves with status 75."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sweep(
    plan: Plan,
    ledger: Ledger,
    holder: Holder,
    options: argparse.Namespace,
    workers: int,
    *,
    release: Callable[[Console], None] = lambda _: None,
    held_back: Collection[str] = (),
    only: Collection[str] | None = None,
    linger: bool = True,
    processes: int = 1,
    team: str = "",
    member: Member | None = None,
) -> Outcome:
    """Train what is pending; a signal stops it, a second one at once.

    `options` are those of `scaling.cli.options.sweep_options`; `release` is called when the runs that are held back may
    begin. The rest is as in `LocalSweep`.
    """
    stop, processes = Stop(), member.processes if member else processes
    before = {number: signal.signal(number, lambda *_: stop.ask()) for number in SIGNALS}
    study = ledger.study()
    alone = member is None and processes == 1
    single = alone and study.get(SINGLE, one_core_each(plan, workers))
    if alone and single != one_core_each(plan, workers):
        how = "one core" if single else "all cores"
        print(f"workers have {how} each, as this sweep was begun with: the same bits for every run", file=sys.stderr)
    _clear(plan, ledger, holder)
    command = worker_command(ledger, options)
    view = SweepView(plan, ledger, workers)
    try:
        with view, mirrored(options.sinks, ledger, plan, study["name"], label, stop.left) as mirror:

            def see(event: Event) -> None:
                view(event)
                mirror(event)

            return LocalSweep(
                plan,
                ledger,
                command=command,
                workers=workers,
                holder=holder,
                population=_population(options.population, processes),
                held_back=held_back,
                release=lambda: release(view.console),
                seen=see,
                stop=stop,
                only=only,
                linger=linger,
                retry=options.retry,
                patience=options.patience,
                single=single,
                processes=processes,
                team=team,
                member=member,
            ).run()
    finally:
        if not stop.asked():  # who has to be gone soon leaves that to the next
            _clear(plan, ledger, holder)
        for number, handler in before.items():
            signal.signal(number, handler)


def _clear(plan: Plan, ledger: Ledger, holder: Holder) -> None:
    evaluated = [p.run.id for p in plan.runs if p.role != "trunk"]
    clear(ledger, [p.run.id for p in plan.runs], evaluated, alone=lambda: not holder.others())


def write_table(plan: Plan, ledger: Ledger, holder: Holder, outcome: Outcome) -> None:
    """`runs.csv`, at the end of a sweep: by who is the last to leave, so that no older table takes the place of a newer
    one; by nobody whose time is up, or whose folder is gone."""
    gone = any(failure.kind == "folder_lost" for failure in outcome.failed.values())
    if not (outcome.stopped or gone) and (not len(plan.pending(ledger)) or not holder.others()):
        table.write(ledger)


def worker_command(ledger: Ledger, options: argparse.Namespace) -> list[str]:
    machine = json.dumps(provenance.code())
    command = [sys.executable, "-m", "scaling", "worker", os.fspath(ledger.folder.absolute()), machine]
    return [*command, "--population", options.population, *mesh.words(options)]


def _population(asked: str, processes: int) -> int:
    if asked == "auto":
        return default_population() if processes == 1 else 1
    return int(asked)


def register(ledger: Ledger, console: Console) -> None:
    """The forecast of the held-out runs, before they are trained."""
    from scaling.report import findings

    try:
        lines = findings.register(ledger)
    except Refusal as refusal:
        lines = [f"no forecast: {fault}" for fault in refusal.faults]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def say_unfinished(plan: Plan, ledger: Ledger, outcome: Outcome, console: Console) -> int:
    """Every run of the plan that is not finished, with its reason and the way out; returns how many there are."""
    unfinished = 0
    for planned in plan.runs:
        run_id = planned.run.id
        if run_id in ledger:
            record = ledger[run_id]
            if record.status == "finished":
                continue
            status, reason, way = record.status, record.reason, ""
        else:
            failure = outcome.failed.get(run_id) or ledger.failure(run_id)
            failure = failure or Failure(kind="blocked", reason="not started")
            status = "pending" if failure.kind == "blocked" else f"failed ({failure.kind})"
            reason, way = failure.reason, failure.way_out
            if failure.log:
                reason += f"; see {failure.log}"
        unfinished += 1
        console.print(
            f"[red]{status}[/red] {escape(label(planned))} ({run_id}): {escape(plain(reason))}"
            + (f"; {escape(way)}" if way else ""),
            highlight=False,
            soft_wrap=True,
        )
    return unfinished
