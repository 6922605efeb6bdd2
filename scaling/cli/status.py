"""`scaling status`: what of a sweep is done, under way and pending."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.record import Ledger
from scaling.report.words import short


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    ledger = Ledger(Path(arguments.folder))
    study = ledger.study()
    runs = [_run(planned, ledger) for planned in study["plan"]]
    counts = {status: sum(r["status"] == status for r in runs) for status in dict.fromkeys(r["status"] for r in runs)}
    if arguments.json:
        print(json.dumps({"study": study["name"], "counts": counts, "runs": runs}, indent=1))
    else:
        show(study["name"], counts, runs, Console())
    return DONE


def _run(planned: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """One planned run: its status, and the step and training loss that it last logged."""
    run_id, steps = planned["id"], planned["run"]["steps"]
    entry = {"id": run_id, "group": planned["group"], "role": planned["role"], "steps": steps}
    if run_id in ledger:
        record = ledger[run_id]
        return entry | {"status": record.status, "step": steps, "loss": record.loss, "reason": record.reason}
    rows = ledger.curve(run_id)
    status = "begun" if rows else "pending"
    last = rows[-1] if rows else {"step": 0, "loss": None}
    return entry | {"status": status, "step": last["step"], "train_loss": last["loss"]}


def show(name: str, counts: dict[str, int], runs: list[dict[str, Any]], console: Console) -> None:
    console.print(f"[bold]{name}[/bold]: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("run", "group", "role", "status", "step", "loss"):
        table.add_column(column, justify="right" if column in ("step", "loss") else "left")
    for run in runs:
        loss = run.get("loss", run.get("train_loss"))
        table.add_row(
            run["id"], run["group"], run["role"], run["status"] + (f": {run['reason']}" if run.get("reason") else ""),
            f"{short(run['step'])} / {short(run['steps'])}", f"{loss:.4f}" if loss is not None else "",
        )  # fmt: skip
    console.print(table)
