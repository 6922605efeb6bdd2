"""`scaling worker`: one worker process of a local sweep; started by `scaling run` and `work`, not by people."""

import argparse
import contextlib
import errno
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from scaling.cli.mesh import mesh_options, sizes
from scaling.launch import hosts, team
from scaling.launch.worker import STOPPED, Failed, Job, Stopped, own_stdout, serve
from scaling.machine import cache_folder, programs_folder
from scaling.record import Ledger
from scaling.record.claims import ClaimLost
from scaling.record.files import FULL, folder_of, on_store
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("machine")
    parser.add_argument("--population", default="auto")
    mesh_options(parser)
    parser.add_argument("--team", default="")  # its name in the results folder, of a worker that is several processes
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--host", default=team.HERE)  # where the others find process 0
    parser.add_argument("--process", type=int, default=0)  # 0 leads
    parser.add_argument("--distributed", default="")  # on a host of several, which all run the same command


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
    broken: list[Exception] = []  # what the others may have been left in the middle of
    placement = Placement(**sizes(arguments.mesh)) if arguments.mesh else arguments.placement or "auto"

    def meet() -> None:
        if arguments.distributed:
            others[:] = _meet_hosts(hosts.Meeting.of(arguments.distributed), placement, events)
            lead(others, shared=lambda: _is_seen(ledger.folder))
        elif arguments.processes > 1:
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
                if others and kind != "trunk_lost" and not isinstance(error, ClaimLost | Refusal):
                    broken.append(error)
                    said = str(error) if kind else f"{type(error).__name__}: {error}"
                    raise Failed(kind or "error", said, fatal=True) from error
                if kind:
                    raise Failed(kind, str(error)) from error
                if isinstance(error, Refusal):
                    raise Failed("error", "; ".join(error.faults)) from error
                raise

    status = STOPPED
    try:
        status = serve(make, meet, events)
        return status
    finally:
        if broken:
            os._exit(STOPPED)  # and with it the others, whatever they wait for
        for other in others:
            other.leave()
        dismiss(status if arguments.distributed else 0)


def _meet_hosts(meeting: hosts.Meeting, placement: Any, events: IO[str]) -> list[team.Peer]:
    """Join the other hosts, and tell the supervisor as which. Returns whom this process leads; one that is led raises
    SystemExit, in the end. Raises `Refusal`, on all of them, where they are too few for the placement."""
    from scaling.train import Placement, follow, join
    from scaling.train.team import from_lead

    process, processes = join(meeting.coordinator, meeting.processes, meeting.process)
    if isinstance(placement, Placement):
        try:
            placement.mesh()
        except ValueError as error:
            raise Refusal(str(error)) from None
    peers: list[team.Peer] = []
    if process == 0 and processes > 1:
        peers = team.admit(processes, meeting.names(), lambda door: from_lead(json.dumps(door)))
    elif process:
        peers = [team.enter(json.loads(from_lead()), process)]
    events.write(json.dumps({"event": "joined", "process": process, "processes": processes}) + "\n")
    events.flush()
    if process:
        raise SystemExit(team.serve_lead(peers[0], follow))
    return peers


def _is_seen(folder: Path) -> bool:
    """Whether all processes see the results folder: then each writes its shards of a checkpoint there."""
    from scaling.train.team import all_see

    if on_store(folder):
        return False
    words = secrets.token_hex()
    path = folder / "teams" / words[:12]
    path.parent.mkdir(exist_ok=True)
    path.write_text(words, encoding="utf-8")
    try:
        return all_see(os.fspath(path), words)
    finally:
        path.unlink()


def _follow(folder: Path, arguments: argparse.Namespace) -> int:
    """A process that is led by another."""
    from scaling.train import follow, join

    for number in (signal.SIGINT, signal.SIGHUP):
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
