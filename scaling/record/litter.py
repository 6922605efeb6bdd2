"""What processes that were killed leave behind in a results folder: half-written files, and weights nobody needs."""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from scaling.record.files import kernel, names, on_store
from scaling.record.ledger import Ledger

WRITER = re.compile(r"\..*\.(?P<kernel>[0-9a-f]{8}|none)-(?P<pid>\d+)\.[0-9a-f]{32}\.part")


def clear(ledger: Ledger, run_ids: Collection[str], needless: Collection[str]) -> int:
    """Delete what the dead left half done, and the weights of the runs in `needless` that are finished.

    Only for a participant that knows itself alone in the folder: a file is taken for left over when its writer, which
    its name tells, is no process of this machine. Weights that were set aside stay. Returns how many things went.
    """
    if on_store(ledger.folder):
        return 0  # an object is whole or not there
    found = [path for place in _places(ledger, run_ids) for name in names(place) if _left_over(path := place / name)]
    for run_id in needless:
        if run_id in ledger and (steps := ledger.checkpoint_steps(run_id)) and ledger[run_id].status == "finished":
            found += [ledger.run_folder(run_id) / "checkpoints" / str(step) for step in steps]
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


def _left_over(path: Path) -> bool:
    said = WRITER.fullmatch(path.name)
    if said is None:
        return False
    return said["kernel"] != (kernel()[:8] or "none") or not _lives(int(said["pid"]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
