"""`scaling report`: fits, figures and the page of a results folder, made again from its records."""

import argparse
from pathlib import Path

from rich.console import Console

from scaling.cli.exits import DONE
from scaling.record import Ledger, table


def run(arguments: argparse.Namespace) -> int:
    from scaling.report import findings, page
    from scaling.report.table import closing

    ledger = Ledger(Path(arguments.folder))
    ledger.study()
    if any(ledger.folder.glob("runs/*/record.json")):
        table.write(ledger)
    found = findings.find(ledger)
    findings.write(found, ledger)
    closing(found, Console(), page.write(found, ledger))
    return DONE
