"""`scaling worker`: one worker process of a local sweep; started by `scaling run` and `work`, not by people."""

import argparse
import contextlib
import errno
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.cli.mesh import mesh_options, sizes
from scaling.launch import team
from scaling.launch.worker import Failed, Job, Stopped, own_stdout, serve
from scaling.machine import cache_folder, programs_folder
from scaling.record import Ledger
from scaling.record.claims import ClaimLost
from scaling.record.files import FULL, folder_of, on_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("machine")
    parser.add_argument("--population", default="auto")
    mesh_options(parser)
    parser.add_argument("--team", default="")  # its name in the results folder, of a worker that is several processes
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--host", default=team.HERE)  # where the others find process 0
    parser.add_argument("--process", type=int, default=0)  # 0 leads


def run(arguments: argparse.Namespace) -> int:
    events = own_stdout()
    from scaling.train import (
        Interrupted,
        Placement,
        Watch,
        dismiss,
        fastest,
        forget_weights,
        join,
        lead,
        train_population,
    )
    from scaling.train.host import keep_compiled_programs, use_every_core

    keep_compiled_programs(programs_folder())
    use_every_core()
    ledger, machine = Ledger(folder_of(arguments.folder)), json.loads(arguments.machine)
    if arguments.process > 0:
        return _follow(ledger.folder, arguments)
    others: list[team.Peer] = []
    placement = Placement(**sizes(arguments.mesh)) if arguments.mesh else arguments.placement or "auto"

    def meet() -> None:
        if arguments.processes > 1:
            others[:], coordinator = team.gather(ledger.folder, arguments.team, arguments.processes, arguments.host)
            join(coordinator, arguments.processes, 0)
            lead(others)
        if isinstance(placement, Placement):
            try:
                placement.mesh()
            except ValueError as error:
                raise SystemExit(str(error)) from None

    def make(
        job: Job, progress: Callable[[dict[str, Any]], None], stop: Callable[[], bool]
    ) -> Iterator[tuple[str, str]]:
        ours = {claim.run_id: claim for claim in job.claims if claim.run_id in {run.id for run in job.runs}}

        def fence() -> None:
            for claim in ours.values():
                claim.check(ledger.folder)
                if claim.run_id in ledger:  # by another, which had taken it over while this process stood still
                    raise ClaimLost(f"run {claim.run_id} was recorded by another participant")

        watch, together = Watch(progress=progress, stop=stop, fence=fence), len(job.runs)
        if together > 1 and arguments.population == "auto":
            progress({"phase": "trial"})
            together = fastest(job.runs[0], together, known=cache_folder() / "populations.json", placement=placement)
        for first in range(0, len(job.runs), together):
            members = job.runs[first : first + together]
            try:
                for record in train_population(
                    members, results=ledger.folder, branch_steps=job.branch_steps, machine=machine, watch=watch,
                    placement=placement,
                ):  # fmt: skip
                    with contextlib.suppress(FileExistsError):  # another participant was first, to the same result
                        ledger.commit(record, fence)
                    status = ledger[record.run.id].status
                    if not job.branch_steps and status == "finished":
                        forget_weights(record.run, ledger.folder)
                    ours.pop(record.run.id, None)  # the supervisor gives the claim up when it hears of it
                    yield record.run.id, status
            except Interrupted as interrupted:
                raise Stopped(str(interrupted)) from None
            except Exception as error:
                kind = _kind(error, ledger.folder)
                if others and kind in ("", "out_of_memory") and not isinstance(error, ClaimLost):
                    # The others may be in the middle of a call that this process left.
                    said = str(error) if kind else f"{type(error).__name__}: {error}"
                    raise Failed(kind or "error", said, fatal=True) from error
                if kind:
                    raise Failed(kind, str(error)) from error
                raise

    try:
        return serve(make, meet, events)
    finally:
        for other in others:
            other.leave()
        dismiss()


def _follow(folder: Path, arguments: argparse.Namespace) -> int:
    """A process that is led by another. What asks a process to end the lead hears: it saves, and ends both."""
    from scaling.train import follow, join

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        boss, coordinator = team.join(folder, arguments.team, arguments.process)
    except team.Over:
        return 0
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return team.NO_LEAD
    join(coordinator, arguments.processes, arguments.process)
    return team.serve_lead(boss, follow)


def _kind(error: Exception, folder: Path) -> str:
    """What kind of failure it is, where trying again may mend it or where its cause is known."""
    from scaling.train import DiskFull, OutOfMemory, TrunkLost

    if isinstance(error, OutOfMemory | MemoryError):
        return "out_of_memory"
    if isinstance(error, TrunkLost):
        return "trunk_lost"
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in FULL):
        return "disk_full"
    if isinstance(error, OSError) and on_store(folder):
        return "folder_lost" if error.errno in (None, errno.EIO) else ""
    if isinstance(error, OSError) and (not folder.is_dir() or error.errno in (errno.EROFS, errno.EIO, errno.ESTALE)):
        return "folder_lost"
    return ""
