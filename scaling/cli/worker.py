"""`scaling worker`: one worker process of a local sweep; started by `scaling run` and `work`, not by people."""

import argparse
import contextlib
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.launch.worker import Failed, Job, Stopped, serve
from scaling.machine import cache_folder, programs_folder
from scaling.record import Ledger
from scaling.record.files import folder_of, on_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("machine")
    parser.add_argument("--population", default="auto")


def run(arguments: argparse.Namespace) -> int:
    from scaling.train import Interrupted, Watch, fastest, forget_weights, train_population
    from scaling.train.host import keep_compiled_programs, use_every_core

    keep_compiled_programs(programs_folder())
    use_every_core()
    ledger, machine = Ledger(folder_of(arguments.folder)), json.loads(arguments.machine)

    def make(
        job: Job, progress: Callable[[dict[str, Any]], None], stop: Callable[[], bool]
    ) -> Iterator[tuple[str, str]]:
        ours = {claim.run_id: claim for claim in job.claims if claim.run_id in {run.id for run in job.runs}}

        def fence() -> None:
            for claim in ours.values():
                claim.check(ledger.folder)

        watch, together = Watch(progress=progress, stop=stop, fence=fence), len(job.runs)
        if together > 1 and arguments.population == "auto":
            progress({"phase": "trial"})
            together = fastest(job.runs[0], together, known=cache_folder() / "populations.json")
        for first in range(0, len(job.runs), together):
            members = job.runs[first : first + together]
            try:
                for record in train_population(
                    members, results=ledger.folder, branch_steps=job.branch_steps, machine=machine, watch=watch
                ):
                    fence()
                    with contextlib.suppress(FileExistsError):  # another participant was first, to the same result
                        ledger.commit(record)
                    status = ledger[record.run.id].status
                    if not job.branch_steps and status == "finished":
                        forget_weights(record.run, ledger.folder)
                    ours.pop(record.run.id, None)  # the supervisor gives the claim up when it hears of it
                    yield record.run.id, status
            except Interrupted as interrupted:
                raise Stopped(str(interrupted)) from None
            except Exception as error:
                if kind := _kind(error, ledger.folder):
                    raise Failed(kind, str(error)) from error
                raise

    return serve(make)


def _kind(error: Exception, folder: Path) -> str:
    """What kind of failure it is, where trying again may mend it or where its cause is known."""
    from scaling.train import DiskFull, OutOfMemory, TrunkLost

    if isinstance(error, OutOfMemory | MemoryError):
        return "out_of_memory"
    if isinstance(error, TrunkLost):
        return "trunk_lost"
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return "disk_full"
    if isinstance(error, OSError) and on_store(folder):
        return "folder_lost" if error.errno in (None, errno.EIO) else ""
    if isinstance(error, OSError) and (not folder.is_dir() or error.errno in (errno.EROFS, errno.EIO, errno.ESTALE)):
        return "folder_lost"
    return ""
