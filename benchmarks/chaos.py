"""Storms over small sweeps: is anything lost, finished twice or silently wrong?

python benchmarks/chaos.py --out benchmarks/results/chaos.json     # 200 kills; an hour on two cores that others use
python benchmarks/chaos.py --short                                 # 50 kills, and less of the rest
python benchmarks/chaos.py kills signals --short --seed 1

    kills       SIGKILL at random moments, to every process, the supervisor or a worker
    signals     SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in every phase: saved, and gone with status 75 in 15 s
    corruption  every file of a checkpoint: deleted, cut, zeroed, a bit flipped
    disk        a file system of 16 MiB that a run does not fit, and one that is filled meanwhile
    race        several participants in one folder, of which some are killed and one is frozen
    zoo         NaN, Inf, SIGSEGV, an exit, a hang, out of memory once and always, slowness, beside healthy runs
    clock       gone on with a day ahead and a day behind, with files of random dates (libfaketime)
    soak        100 saves of one process: memory, open files
    commits     what was flushed to the disk before and after each file got its name (strace)

Each works in a temporary folder on studies of a few seconds, through the command itself, with one thread a worker, and
compares records, curves, table and forecast bit for bit with a sweep that nothing disturbed. A file that Python reads
as it starts (storms/sabotage) shortens intervals and breaks runs, so that the package has no hook for it. Moments and
targets follow from the seed; where a process is by then does not. `survived` counts the tries that left nothing wrong.
Ends with status 1 where anything was; a storm that cannot be made here says why. Linux.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from storms import clock, commits, corruption, disk, kills, race, signals, soak, zoo
from storms.ground import KINDS, Found, Ground, Row, end_all
from train_step import where  # beside this file

STORMS = {
    "kills": kills.storm, "signals": signals.storm, "corruption": corruption.storm, "disk": disk.storm,
    "race": race.storm, "zoo": zoo.storm, "clock": clock.storm, "soak": soak.storm, "commits": commits.storm,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("storms", nargs="*", metavar="STORM", help=f"of {', '.join(STORMS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="fewer tries of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the targets")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    options = parser.parse_args()
    if unknown := [name for name in options.storms if name not in STORMS]:
        parser.error(f"no such storm: {', '.join(unknown)}; there are {', '.join(STORMS)}")
    console, rows = Console(width=120), []
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        ground = Ground(Path(folder))
        for name in options.storms or STORMS:
            began = time.monotonic()
            row = rage(STORMS[name], name, ground, options.seed, options.short)
            row.seconds = round(time.monotonic() - began, 1)
            rows.append(row)
            console.print(f"{name}: {row.survived} of {row.tries} in {row.seconds:.0f} s", highlight=False)
            for kind in KINDS:
                for line in getattr(row.found, kind):
                    console.print(f"[red]{kind}[/red] {escape(line)}", highlight=False, soft_wrap=True)
    console.print(table(rows))
    if options.out:
        how = {"seed": options.seed, "short": options.short}
        document = {"where": where(), **how, "storms": [row.to_json() for row in rows]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row.broken for row in rows))


def rage(storm: Callable[[Ground, int, bool], Row], name: str, ground: Ground, seed: int, short: bool) -> Row:
    """One storm; if it breaks down itself, that is what was found."""
    try:
        return storm(ground, seed, short)
    except BaseException as error:
        end_all()
        if not isinstance(error, Exception):
            raise
        traceback.print_exc()
        row = Row(storm=name)
        row.judge("the storm itself", Found(wrong=[f"{type(error).__name__}: {error}"]))
        return row


def table(rows: list[Row]) -> Table:
    shown = Table("storm", "tries", "survived", "lost", "done twice", "silently wrong", "otherwise", "seconds", "")
    for row in rows:
        counts = [str(len(getattr(row.found, kind))) for kind in KINDS]
        said = row.skipped or "; ".join(f"{name}: {_said(value)}" for name, value in row.said.items())
        shown.add_row(row.storm, str(row.tries), str(row.survived), *counts, f"{row.seconds:.0f}", escape(said))
    return shown


def _said(value: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.exit(main())
