"""`scaling report`: fits, figures and the page of a results folder, made again from its records; or, of a folder of
results folders, the page that brings them together."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from scaling.cli.exits import DONE, FAILED
from scaling.cli.locate import unwritable
from scaling.record import Ledger, table
from scaling.record.files import folder_of
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", help="a results folder, or one that holds several, which get one page, index.html"
    )
    parser.add_argument(
        "--markdown", action="store_true",
        help="of a folder of several: print answers, scores and cost as Markdown, for a README, and write nothing",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from scaling.report import findings, page
    from scaling.report.members import folders
    from scaling.report.table import closing

    ledger = Ledger(folder_of(arguments.folder))
    if not (ledger.folder / "study.json").is_file() and (inner := folders(ledger.folder)):
        return _digest(ledger.folder) if arguments.markdown else _all(ledger.folder, len(inner))
    if arguments.markdown:
        raise Refusal(f"--markdown: {ledger.folder} is no folder of studies; it brings several together")
    ledger.study()
    if why := unwritable(ledger.folder):
        raise Refusal(f"{ledger.folder}: {why}, and the page goes into it; copy it to where you may write")
    if not any(ledger.folder.glob("runs/*/record.json")):
        raise Refusal(
            f"{ledger.folder}: holds no records under runs/, as published results do not: a page made now could not "
            "say where its numbers come from; run the study to make one"
        )
    table.write(ledger)
    found = findings.find(ledger)
    findings.write(found, ledger)
    closing(found, Console(), page.write(found, ledger))
    return DONE


def _digest(folder: Path) -> int:
    from scaling.report.digest import digest
    from scaling.report.members import gather

    members, faults = gather(folder)
    if faults:
        raise Refusal(faults)
    print(digest(members), end="")
    return DONE


def _all(folder: Path, studies: int) -> int:
    """The page of all studies; their own pages stay as they are."""
    from scaling.report import overview, words
    from scaling.report.members import gather, verdict

    if why := unwritable(folder):
        raise Refusal(f"{folder}: {why}, and the page goes into it; copy it to where you may write")
    members, faults = gather(folder)
    if not members:
        raise Refusal(faults)
    console = Console()
    path = overview.write(members, folder, faults)
    for fault in faults:
        console.print(f"[yellow]left out: {escape(words.plain(fault))}[/yellow]", highlight=False, soft_wrap=True)
    console.print(f"{len(members)} of {studies} studies: {verdict(members)}", highlight=False, soft_wrap=True)
    console.print(f"page  {escape(words.plain(str(path)))}", highlight=False, soft_wrap=True)
    return FAILED if faults else DONE
