"""`scaling work`: take part in the sweep of a results folder, from any machine that sees it."""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from scaling.cli import mesh
from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.locate import unwritable
from scaling.cli.options import sweep_options
from scaling.cli.sweep import (
    obeying_signals,
    register,
    say_unfinished,
    sweep,
    unfit_options,
    unfit_sinks,
    unfit_team,
    unfit_texts,
    worker_command,
    workers_of,
    write_table,
)
from scaling.launch.local import EXIT_SECONDS
from scaling.launch.sinks import missing
from scaling.launch.team import attend, close
from scaling.plan import Plan
from scaling.record import Ledger
from scaling.record.claims import Holder
from scaling.record.files import folder_of
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where `scaling run` laid the study down")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID",
        help="make this run and no other; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--linger", action="store_true",
        help="stay while other participants are at work, to go on with their runs should they die",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, default=1, metavar="P",
        help="train each run on P processes here that are one JAX program (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--team", default="", metavar="NAME",
        help="the P processes are on other nodes, one each: there the same command runs with --process K",
    )  # fmt: skip
    parser.add_argument("--process", type=int, default=0, metavar="K", help="0 (default) leads its team")
    sweep_options(parser)


def run(arguments: argparse.Namespace) -> int:
    with obeying_signals():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    ledger = Ledger(folder_of(arguments.folder))
    plan = Plan.from_json(ledger.study()["plan"])
    workers = workers_of(arguments, ledger) if arguments.processes == 1 else arguments.workers or 1
    faults = unfit_options(workers, arguments.population, arguments.patience) + plan.faults()
    if why := unwritable(ledger.folder):
        faults.append(f"{ledger.folder}: {why}, and records go into it")
    known = {p.run.id for p in plan.runs}
    faults += [
        f"--only {run_id}: {ledger.folder} plans no such run" for run_id in arguments.only if run_id not in known
    ]
    faults += _unfit_team(arguments, workers, plan.pending(ledger), ledger.folder)
    to_train = [p.run for p in plan.pending(ledger).runs if not arguments.only or p.run.id in arguments.only]
    faults += mesh.unfit(arguments, to_train)
    faults += [] if arguments.team else mesh.unfit_devices(arguments, plan, workers, arguments.processes)
    if arguments.process and not faults:
        return _attend(ledger, arguments)
    faults = faults or unfit_texts(plan, ledger)
    if faults := faults + missing(arguments.sinks) + unfit_sinks(ledger, arguments.sinks):
        raise Refusal(faults)
    console = Console(stderr=True)
    with Holder(ledger.folder) as holder, _closing(ledger, arguments.team):
        outcome = sweep(
            plan,
            ledger,
            holder,
            arguments,
            workers,
            release=lambda watched: register(ledger, watched),
            held_back=[p.run.id for p in plan.with_role("held_out").runs],
            only=arguments.only or None,
            linger=arguments.linger,
            processes=arguments.processes,
            team=arguments.team,
        )
        write_table(plan, ledger, holder, outcome)
    if outcome.stopped:
        console.print("stopped; what is done is kept, and the same command goes on")
        return INTERRUPTED
    failed = Plan(tuple(p for p in plan.runs if p.run.id in outcome.failed))
    say_unfinished(failed, ledger, outcome, console)
    return FAILED if failed.runs else DONE


@contextlib.contextmanager
def _closing(ledger: Ledger, team: str) -> Iterator[None]:
    """The processes of a team on other nodes end with this one."""
    try:
        yield
    finally:
        if team:
            close(ledger.folder, team)


def _unfit_team(arguments: argparse.Namespace, workers: int, pending: Plan, folder: Path) -> list[str]:
    processes, faults = arguments.processes, []
    if processes < 1:
        return [f"--processes = {processes}: must be at least 1"]
    if not 0 <= arguments.process < processes or (arguments.process and not arguments.team):
        faults.append(
            f"--process = {arguments.process}: must be from 0 to --processes - 1 = {processes - 1}, of a --team"
        )
    if arguments.team and (processes == 1 or not re.fullmatch("[A-Za-z0-9_-]{1,64}", arguments.team)):
        faults.append(
            f"--team = {arguments.team}: must be letters, digits, '-' and '_', with --processes of at least 2"
        )
    if processes == 1:
        return faults
    if workers != 1:
        faults.append(f"--workers = {workers}: must be 1 with --processes, which make one worker")
    return faults + unfit_team(pending, "--processes", processes, arguments.population, folder)


def _attend(ledger: Ledger, arguments: argparse.Namespace) -> int:
    team = ["--team", arguments.team, "--processes", str(arguments.processes), "--process", str(arguments.process)]
    command = worker_command(ledger, arguments) + team
    status = attend(command, ledger.folder, arguments.team, EXIT_SECONDS)
    return DONE if status == 0 else FAILED
