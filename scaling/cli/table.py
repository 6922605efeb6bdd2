"""`scaling table`: the table of a results folder as its records give it now."""

import argparse
import csv
import json
import sys

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.fitting.table import plain
from scaling.machine import indexes_folder
from scaling.record import Ledger, table
from scaling.record.files import folder_of, on_store
from scaling.record.index import Index
from scaling.record.table import TEXTS


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a results folder")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    lines = _lines(Ledger(folder_of(arguments.folder)))
    if arguments.json:
        print(json.dumps([_values(row) for row in csv.DictReader(lines)], indent=1))
    else:
        sys.stdout.writelines(lines)
    return DONE


def _lines(ledger: Ledger) -> list[str]:
    if on_store(ledger.folder):
        return [table.HEADER, *map(table.line, table.rows(ledger))]
    with Index(ledger, indexes_folder()) as index:
        return index.lines()


def _values(row: dict[str, str]) -> dict[str, str | float | None]:
    return {name: plain(cell) if name in TEXTS else json.loads(cell or "null") for name, cell in row.items()}
