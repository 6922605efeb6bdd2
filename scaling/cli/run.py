"""`scaling run`: plan, train, record, forecast, fit, report. Run it again and it goes on where it was."""

import argparse
import shlex
import sys

from rich.console import Console
from rich.markup import escape

from scaling.cli import engines, mesh, tpu
from scaling.cli.exits import DONE, FAILED, INTERRUPTED, REFUSED
from scaling.cli.locate import results_of, study_of
from scaling.cli.options import dry_run_option, study_options, sweep_options, typed
from scaling.cli.plan import show
from scaling.cli.sweep import (
    SIGNALS,
    lay_down,
    obeying_signals,
    register,
    say_unfinished,
    sweep,
    unfit,
    unfit_options,
    unfit_sinks,
    unfit_team,
    worker_command,
    workers_of,
    write_table,
)
from scaling.launch.hosts import Lost, Meeting, Member
from scaling.launch.local import Outcome
from scaling.launch.sinks import missing
from scaling.machine import cache_folder
from scaling.plan import Plan, Study
from scaling.record import Ledger, table
from scaling.record.claims import Holder
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    study_options(parser)
    sweep_options(parser)
    dry_run_option(parser)
    parser.add_argument(
        "--distributed", metavar="auto|HOST:PORT,PROCESSES,PROCESS",
        help="this same command runs on every host of a TPU slice, a SLURM job or the like, and they train each run "
        "together: auto where JAX finds the others by itself, else the address of process 0, how many there are, and "
        "which of them this is, from 0",
    )  # fmt: skip
    engines.engine_options(parser)


def run(arguments: argparse.Namespace) -> int:
    with obeying_signals():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.on in tpu.ENGINES:
        return _on_slice(arguments)
    on_hosts = bool(arguments.distributed) and not arguments.dry_run  # what differs between them process 0 finds out
    study, path = study_of(arguments.experiment, arguments.changes, arguments.size, sources=not on_hosts)
    folder = results_of(study, path, arguments.out)
    ledger = Ledger(folder)
    workers = workers_of(arguments, ledger) if not arguments.distributed else arguments.workers or 1
    faults = _unfit(study, workers, arguments, ledger)
    if faults := faults if on_hosts else faults + _unfit_here(study, workers, arguments, ledger):
        raise Refusal(dict.fromkeys(faults))
    console = Console(stderr=True)
    if arguments.on != "local":
        return _on_engine(arguments, study, ledger, console)
    if on_hosts:
        return _on_hosts(arguments, study, ledger, console)
    show(study, ledger, workers, console)
    return DONE if arguments.dry_run else _here(arguments, study, ledger, workers, console)


def _on_hosts(arguments: argparse.Namespace, study: Study, ledger: Ledger, console: Console) -> int:
    """On process 0 as on a single host, and that its end is the end of all; on the others until then."""
    meeting = Meeting.of(arguments.distributed)
    command = [*worker_command(ledger, arguments), "--distributed", arguments.distributed]
    log = cache_folder() / "logs" / ledger.folder.name / f"host-{meeting.process if meeting.processes else 'auto'}.log"
    try:
        with Member(command, log) as member:
            member.join()
            said = f"process {member.process} of {member.processes}"
            said += f": {'follows process 0' if member.process else 'leads'}; log: {log}"
            console.print(said, highlight=False, soft_wrap=True, markup=False)
            if member.process:
                return member.follow(SIGNALS)
            status = FAILED
            try:
                faults = study.faults() + _unfit_here(study, 1, arguments, ledger)
                if faults := faults or _unfit_hosts(arguments, study.runs.pending(ledger), ledger, member.processes):
                    raise Refusal(faults)
                show(study, ledger, 1, console)
                status = _here(arguments, study, ledger, 1, console, member)
            except (Refusal, KeyboardInterrupt) as error:
                status = REFUSED if isinstance(error, Refusal) else INTERRUPTED
                raise
            finally:
                member.end(status)
            if status == INTERRUPTED and member.lost():
                console.print(f"a process is lost: {member.lost()}", highlight=False, soft_wrap=True, markup=False)
            return status
    except Lost as lost:
        console.print(f"{lost}; the same command tries again", highlight=False, soft_wrap=True, markup=False)
        return INTERRUPTED


def _unfit_hosts(arguments: argparse.Namespace, plan: Plan, ledger: Ledger, processes: int) -> list[str]:
    return unfit_team(plan, "--distributed", processes, arguments.population, ledger.folder) if processes > 1 else []


def _here(
    arguments: argparse.Namespace, study: Study, ledger: Ledger, workers: int, console: Console,
    member: Member | None = None,
) -> int:  # fmt: skip
    folder = ledger.folder
    with Holder(folder) as holder:
        lay_down(study, ledger, holder, _command(arguments), workers)
        outcome = sweep(
            study.runs,
            ledger,
            holder,
            arguments,
            workers,
            release=lambda watched: register(ledger, watched),
            held_back=[p.run.id for p in study.held_out.runs],
            member=member,
        )
        write_table(study.runs, ledger, holder, outcome)
    if outcome.stopped:
        out = f" --out {shlex.quote(typed(arguments.out))}" if arguments.out else ""
        out += f" --distributed {arguments.distributed}" if arguments.distributed else ""
        again = escape(f"{_command(arguments)}{out}")
        console.print(f"stopped; what is done is kept. To go on: {again}", highlight=False, soft_wrap=True)
        return INTERRUPTED
    return _close(study, ledger, outcome, console)


def _on_slice(arguments: argparse.Namespace) -> int:
    """The texts are there, not here."""
    study, path = study_of(arguments.experiment, arguments.changes, arguments.size, sources=False)
    faults = _unknown_laws(study) + engines.misplaced(arguments) + tpu.unfit(arguments, path)
    faults += unfit_options(1, arguments.population, arguments.patience)
    if faults := faults + mesh.unfit(arguments, ()):  # which runs are left only the bucket knows
        raise Refusal(faults)
    return tpu.run(arguments, study, path, shlex.join(["scaling", *sys.argv[1:]]), _close)


def _on_engine(arguments: argparse.Namespace, study: Study, ledger: Ledger, console: Console) -> int:
    show(study, ledger, engines.workers(arguments, study, ledger), console)
    if arguments.dry_run:
        engines.dry_run(arguments, study, ledger)
        return DONE

    def laid_down() -> None:
        with Holder(ledger.folder) as holder:
            lay_down(
                study,
                ledger,
                holder,
                _command(arguments),
                1 if arguments.gpus or (arguments.nodes or 1) > 1 else len(study.runs),
            )

    again = shlex.join(["scaling", *(word for word in sys.argv[1:] if word != "--detach")])
    outcome = engines.sweep(arguments, study, ledger, console, lay_down=laid_down, follow=again)
    if outcome is None:
        return DONE if arguments.detach else INTERRUPTED
    table.write(ledger)
    if outcome.stopped:
        console.print(f"stopped; what is done is kept. To go on: {escape(again)}", highlight=False, soft_wrap=True)
        return INTERRUPTED
    return _close(study, ledger, outcome, console)


def _command(arguments: argparse.Namespace) -> str:
    """What makes these results again, wherever they go."""
    size = ["--size", arguments.size] if arguments.size else []
    changes = [word for change in arguments.changes for word in ("--set", change)]
    return shlex.join(["scaling", "run", typed(arguments.experiment), *size, *changes])


def _unfit_here(study: Study, workers: int, arguments: argparse.Namespace, ledger: Ledger) -> list[str]:
    """What depends on this machine and on what is in the results folder."""
    faults = missing(arguments.sinks) + unfit_sinks(ledger, arguments.sinks)
    return faults + unfit(study, ledger, workers, arguments.population, arguments.patience)


def _unfit(study: Study, workers: int, arguments: argparse.Namespace, ledger: Ledger) -> list[str]:
    """What is wrong with the request."""
    faults = _unknown_laws(study) + unfit_options(workers, arguments.population, arguments.patience)
    faults += engines.unfit(arguments, study.runs, ledger.folder)
    if arguments.distributed:
        faults += _unfit_distributed(arguments, study, ledger)
    faults += mesh.unfit(arguments, (p.run for p in study.runs.pending(ledger).runs))
    if not arguments.distributed:
        faults += mesh.unfit_devices(arguments, study.runs, workers)
    return faults


def _unknown_laws(study: Study) -> list[str]:
    from scaling.fitting.laws import SURFACES

    return [
        f"analysis.laws = {law!r}: no such law; there are {', '.join(SURFACES)}"
        for law in study.analysis.laws
        if law not in SURFACES
    ]


def _unfit_distributed(arguments: argparse.Namespace, study: Study, ledger: Ledger) -> list[str]:
    if arguments.on != "local":
        return []  # `engines.misplaced` says so
    try:
        processes = Meeting.of(arguments.distributed).processes
    except Refusal as refusal:
        return [*refusal.faults]
    faults = _unfit_hosts(arguments, study.runs, ledger, processes)
    if arguments.workers not in (None, 1):
        faults.append(f"--workers = {arguments.workers}: must be 1 with --distributed, of which each host is a part")
    return faults


def _close(study: Study, ledger: Ledger, outcome: Outcome, console: Console) -> int:
    """Fit, report, and say what is not finished and why."""
    from scaling.report import findings, page
    from scaling.report.table import closing

    if any(p.role != "trunk" and p.run.id in ledger for p in study.runs.runs):
        found = findings.find(ledger)
        findings.write(found, ledger)
        closing(found, Console(), page.write(found, ledger))
    return FAILED if say_unfinished(study.runs, ledger, outcome, console) else DONE
