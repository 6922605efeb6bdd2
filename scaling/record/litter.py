"""What processes that were killed leave behind in a results folder: half-written files, and weights nobody needs."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from scaling.record.files import names, on_store, processes
from scaling.record.ledger import Ledger

WRITER = re.compile(r"\..*\.(?P<processes>[0-9a-f]{8}|none)-(?P<pid>\d+)\.[0-9a-f]{32}\.part")


def clear(
    ledger: Ledger,
    run_ids: Collection[str],
    needless: Collection[str],
    alone: Callable[[], bool] = lambda: True,
) -> int:
    """Delete what the dead left half done, and the weights of the runs in `needless` that are finished.

    A file is left over when its writer, which its name tells, was a process of this machine and is none any more; and
    to who is `alone` in the folder, when it was one of any other. That is asked at the end, since looking takes long
    where there are many runs. Weights go by who is alone; those that were set aside stay. Returns how many things went.
    """
    if on_store(ledger.folder):
        return 0  # an object is whole or not there
    found, elsewhere = [], []
    for place in _places(ledger, run_ids):
        for name in names(place):
            if said := WRITER.fullmatch(name):
                here = said["processes"] == processes() != "none"
                if not (here and _lives(int(said["pid"]))):
                    (found if here else elsewhere).append(place / name)
    for run_id in needless:
        if run_id in ledger and (steps := ledger.checkpoint_steps(run_id)) and ledger[run_id].status == "finished":
            elsewhere += [ledger.run_folder(run_id) / "checkpoints" / str(step) for step in steps]
    if elsewhere and alone():
        found += elsewhere
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return len(found)


def _places(ledger: Ledger, run_ids: Collection[str]) -> Iterator[Path]:
    """The folders that files are written in, but for those that a link leads out of."""
    yield from (ledger.folder / name for name in ("", "holders", "figures", "fits"))
    for run_id in run_ids:
        for place in (ledger.run_folder(run_id), ledger.run_folder(run_id) / "checkpoints"):
            if not place.is_symlink():
                yield place


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
