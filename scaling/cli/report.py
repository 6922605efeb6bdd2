"""`scaling report`: fits, figures and the page of a results folder, made again from its records."""

import argparse

from rich.console import Console

from scaling.cli.exits import DONE
from scaling.cli.locate import unwritable
from scaling.record import Ledger, table
from scaling.record.files import folder_of
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    from scaling.report import findings, page
    from scaling.report.table import closing

    ledger = Ledger(folder_of(arguments.folder))
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
