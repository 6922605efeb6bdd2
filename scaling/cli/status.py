"""`scaling status`: what of a sweep is done, under way and pending; once, as it goes on, or as a page."""

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.machine import indexes_folder
from scaling.record import Ledger
from scaling.record.files import folder_of, on_store
from scaling.record.index import Index
from scaling.record.live import Live, RunNow, by_interest
from scaling.report.words import plain, several, short

FEW = 60  # runs that are all listed; of more, those that are not finished, and this many of them
LARGE_BYTES = 4 << 20  # of a study.json, some 3,000 runs
REASONS = 20  # that are printed
EVERY_SECONDS, STORE_EVERY_SECONDS = 1.0, 10.0
STYLES = {"failed": "red", "diverged": "red", "running": "green"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a results folder")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--follow", action="store_true", help="go on until the sweep is over, or until Ctrl-C")
    how.add_argument(
        "--serve", type=int, nargs="?", const=0, metavar="PORT",
        help="show the same as a page with curves, to browsers on this machine only (default: a free port)",
    )  # fmt: skip
    json_option(how)
    parser.add_argument(
        "--all", action="store_true", help=f"list every run (default: of more than {FEW}, those not finished)"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.serve is not None:
        from scaling.cli.serve import CURVES, serve

        return serve(watched(folder_of(arguments.folder), curves=CURVES), arguments.serve)
    live, console = watched(folder_of(arguments.folder)), Console()
    if not console.is_terminal:  # a file has room for whole rows
        console = Console(width=max(console.width, 140))
    live.refresh()
    if arguments.json:
        print(json.dumps(document(live), indent=1, allow_nan=False))
    elif arguments.follow:
        _follow(live, console, arguments.all)
    else:
        console.print(view(live, live.runs if arguments.all else listed(live.runs)), soft_wrap=True)
    return DONE


def watched(folder: Path, curves: int = 0) -> Live:
    """`Live`; what is finished of a large folder comes from its index."""
    ledger, finished = Ledger(folder), {}
    try:
        large = not on_store(folder) and (folder / "study.json").stat().st_size > LARGE_BYTES
    except OSError:
        large = False  # `Live` says what is the matter
    if large:
        with Index(ledger, indexes_folder()) as index:
            finished = {entry.id: entry.loss for entry in index.runs() if entry.status == "finished"}
    return Live(ledger, curves=curves, finished=finished)


def document(live: Live) -> dict[str, object]:
    return {
        "study": live.study["name"],
        "counts": live.counts,
        "over": live.over,
        "go_on": live.go_on,
        "participants": [dataclasses.asdict(participant) for participant in live.participants],
        "runs": [dataclasses.asdict(run) for run in live.runs],
    }


def listed(runs: Sequence[RunNow], most: int = FEW) -> list[RunNow]:
    """All of a few; of many, those that are not finished, live ones first."""
    return [*runs] if len(runs) <= most else [r for r in by_interest(runs) if r.status != "finished"][:most]


def view(live: Live, runs: Sequence[RunNow]) -> RenderableType:
    """Counts, who is at work, a table of `runs`, and why the rest is not finished."""
    parts: list[RenderableType] = [
        Text.assemble((plain(live.study["name"]), "bold"), f": {_counted(live)}"),
        *_at_work(live),
    ]
    if runs:
        parts.append(_table(runs))
    if len(runs) < len(live.runs):
        out = Counter(run.status for run in live.runs)
        out.subtract(Counter(run.status for run in runs))
        said = ", ".join(f"{count} {status}" for status, count in out.items() if count)
        parts.append(Text(f"not listed: {said}; --all lists every run", "dim"))
    return Group(*parts, *_reasons(live.runs))


def _counted(live: Live) -> str:
    return ", ".join(f"{count} {status}" for status, count in live.counts.items())


def _at_work(live: Live) -> Iterable[Text]:
    for p in live.participants:
        where = plain(p.host) + (f", job {plain(p.job)}" if p.job else "")
        runs = several(len(p.runs), "run")
        yield Text(f"at work: {where}, {runs} in hand" if p.live else f"gone: {where}, which held {runs}",
                   "" if p.live else "red")  # fmt: skip
    if not live.at_work:
        yield Text("nobody is at work" + (f"; to go on: {plain(live.go_on)}" if live.go_on else ""), "dim")


def _table(runs: Sequence[RunNow]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    numbers = ("step", "train loss", "loss", "tok/s")
    for column in ("run", "group", "role", "status", *numbers, "host"):
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    for run in runs:
        rate = f"{run.tokens_per_second:,.0f}" if run.tokens_per_second else ""
        table.add_row(
            run.id, Text(plain(run.group)), Text(plain(run.role)), Text(run.status, STYLES.get(run.status, "")),
            f"{short(run.step)} / {short(run.steps)}", _loss(run.train_loss), _loss(run.loss), rate,
            Text(plain(run.host)),
        )  # fmt: skip
    return table


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _reasons(runs: Sequence[RunNow]) -> Iterable[Text]:
    """Why runs are not finished, and what brings them to their end; those with the same answer in one line."""
    alike: dict[tuple[str, str, str], list[RunNow]] = {}
    for run in by_interest(runs):
        if run.reason or run.way_out:
            alike.setdefault((run.status, run.reason, run.way_out), []).append(run)
    for (status, reason, way_out), members in [*alike.items()][:REASONS]:
        who = f"{len(members)} runs" if len(members) > 1 else f"run {members[0].id} ({plain(members[0].group)})"
        why = f": {plain(reason)}" if reason else ""
        yield Text.assemble(
            (status, STYLES.get(status, "")), f" {who}{why}{f' -> {plain(way_out)}' if way_out else ''}"
        )
    if len(alike) > REASONS:
        yield Text(f"and {len(alike) - REASONS} more reasons; --json has all of them", "dim")


def _follow(live: Live, console: Console, everything: bool) -> None:
    """A terminal shows the table as it changes; a file or a pipe gets a line whenever the counts do."""
    screen, said = Screen(console=console, auto_refresh=False, transient=True), ""
    try:
        if console.is_terminal:
            screen.start()
        while not live.over:
            if console.is_terminal:
                rows = max(5, console.height - len(live.participants) - 10)
                screen.update(view(live, listed(live.runs, rows)), refresh=True)
            elif _counted(live) != said:
                said = _counted(live)
                console.print(Text(f"{plain(live.study['name'])}: {said}"), soft_wrap=True)
            time.sleep(STORE_EVERY_SECONDS if on_store(live.ledger.folder) else EVERY_SECONDS)
            live.refresh()
    except KeyboardInterrupt:
        pass
    finally:
        screen.stop()
    console.print(view(live, live.runs if everything else listed(live.runs)), soft_wrap=True)
