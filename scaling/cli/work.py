"""`scaling work`: take part in the sweep of a results folder, from any machine that sees it."""

import argparse

from rich.console import Console

from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.locate import unwritable
from scaling.cli.options import sweep_options
from scaling.cli.sweep import obeying_signals, register, say_unfinished, sweep, unfit_options, unfit_sinks, workers_of
from scaling.launch.sinks import missing
from scaling.plan import Plan
from scaling.record import Ledger, table
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
    sweep_options(parser)


def run(arguments: argparse.Namespace) -> int:
    ledger = Ledger(folder_of(arguments.folder))
    plan = Plan.from_json(ledger.study()["plan"])
    workers = workers_of(arguments, ledger)
    faults = unfit_options(workers, arguments.population, arguments.patience) + plan.faults()
    if why := unwritable(ledger.folder):
        faults.append(f"{ledger.folder}: {why}, and records go into it")
    known = {p.run.id for p in plan.runs}
    faults += [
        f"--only {run_id}: {ledger.folder} plans no such run" for run_id in arguments.only if run_id not in known
    ]
    if faults := faults + missing(arguments.sinks) + unfit_sinks(ledger, arguments.sinks):
        raise Refusal(faults)
    console = Console(stderr=True)
    with obeying_signals(), Holder(ledger.folder) as holder:
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
        )
        table.write(ledger)
    if outcome.stopped:
        console.print("stopped; what is done is kept, and the same command goes on")
        return INTERRUPTED
    failed = Plan(tuple(p for p in plan.runs if p.run.id in outcome.failed))
    say_unfinished(failed, ledger, outcome, console)
    return FAILED if failed.runs else DONE
