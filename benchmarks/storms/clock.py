"""A clock that jumps: a sweep that is gone on with a day later, and a day before it began."""

import os
import random
import time
from pathlib import Path

from .ground import Ground, Row, kill, tree

DAY = 86_400
LIBRARY = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")  # the package faketime


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """Killed and gone on with under another clock, until it is done; in between every file is dated anew, at random."""
    row, rng = Row(storm="clock"), random.Random(seed)
    libraries = [path for pattern in LIBRARY for path in Path("/").glob(pattern[1:])]
    if not libraries:
        row.skipped = "libfaketime is not on this machine; Debian has it in the package faketime"
        return row
    _, seconds = ground.undisturbed()
    for shifts in [(1, -1), (-1, 1)] * (1 if short else 5):
        out = ground.folder / f"shifted-{row.tries}"
        for days in (0, *shifts):
            process = ground.start(out, environment=_shifted(ground.environment(out), libraries[0], days))
            time.sleep(rng.uniform(0.4, 0.7) * seconds)
            kill(tree(process.pid))
            process.wait()
            _date_anew(out, rng)
        shifted = ground.finish(out, environment=_shifted(ground.environment(out), libraries[0], shifts[0]))
        row.judge(f"days {shifts}", shifted + ground.completed(out))
    row.said = {"clocks": "a day ahead, a day behind; dates of files at random"}
    return row


def _shifted(environment: dict[str, str], library: Path, days: int) -> dict[str, str]:
    """The wall clock alone: a monotonic one does not jump."""
    if not days:
        return environment
    return environment | {
        "LD_PRELOAD": str(library), "FAKETIME": f"{days * DAY:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }  # fmt: skip


def _date_anew(out: Path, rng: random.Random) -> None:
    """So that nothing which goes by the times of files can be right by luck."""
    for path in sorted(out.rglob("*")):
        then = time.time() + rng.uniform(-DAY, DAY)
        os.utime(path, (then, then))
