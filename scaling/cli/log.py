"""`scaling log`: the curves of a results folder, copied to a tracker; a step that it has is not told again."""

import argparse

from rich.console import Console
from rich.text import Text

from scaling.cli.exits import DONE, FAILED
from scaling.cli.progress import label
from scaling.launch.mirror import Copier
from scaling.launch.sinks import opened
from scaling.plan import Plan
from scaling.record import Ledger
from scaling.record.files import disk_folder_of
from scaling.report.words import plain, several


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a results folder")
    parser.add_argument("--to", required=True, choices=("tensorboard", "wandb"), help="the tracker")


def run(arguments: argparse.Namespace) -> int:
    ledger, console = Ledger(disk_folder_of(arguments.folder, "log")), Console(stderr=True)
    study = ledger.study()
    plan = Plan.from_json(study["plan"])
    copier = Copier(opened(arguments.to, ledger.folder, study["name"]), ledger, label)
    begun = [p for p in plan.runs if (ledger.run_folder(p.run.id) / "metrics.jsonl").is_file()]
    try:
        for planned in begun:
            copier.begin(planned)
            copier.end(planned.run.id)
        copier.close()
    except Exception as error:  # whatever a tracker raises
        console.print(Text(f"{arguments.to}: {plain(f'{type(error).__name__}: {error}')}"), soft_wrap=True)
        return FAILED
    console.print(Text(f"{arguments.to} has {several(len(begun), 'run')} of {len(plan)} planned"), soft_wrap=True)
    return DONE
