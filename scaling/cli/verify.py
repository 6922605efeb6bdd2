"""`scaling verify`: whether every file of a results folder is as it was written."""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scaling.cli.exits import DONE, FAILED
from scaling.cli.options import json_option
from scaling.record import Ledger
from scaling.record.files import folder_of
from scaling.record.verify import Verified, verify


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a results folder")
    parser.add_argument("--quick", action="store_true", help="do not read the weights in checkpoints")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    ledger, errors = Ledger(folder_of(arguments.folder)), Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("runs", total=None)
        found = verify(
            ledger,
            quick=arguments.quick,
            seen=lambda done, of: progress.update(task, completed=done, total=of),
        )
    if arguments.json:
        findings = [asdict(finding) for finding in found.findings]
        said = {"folder": str(ledger.folder), "faults": len(found.faults), "checked": dict(found.counts)}
        print(json.dumps(said | {"findings": findings}, indent=1))
    else:
        show(found, Console())
    return FAILED if found.faults else DONE


def show(found: Verified, console: Console) -> None:
    for finding in sorted(found.findings, key=lambda finding: finding.level == "fault"):
        level = "[red]fault[/red]" if finding.level == "fault" else "[dim]note[/dim] "
        way_out = f"; {finding.way_out}" if finding.way_out else ""
        console.print(f"{level} {escape(f'{finding.where}: {finding.what}{way_out}')}", highlight=False, soft_wrap=True)
    looked_at = ", ".join(f"{count:,} {what}" for what, count in found.counts.items())
    faults, notes = len(found.faults), len(found.findings) - len(found.faults)
    said = f"{faults or 'no'} fault{'s' * (faults != 1)}, {notes or 'no'} note{'s' * (notes != 1)}"
    console.print(f"{looked_at or 'nothing to look at'}: {said}", highlight=False, soft_wrap=True)
