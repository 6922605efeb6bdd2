"""Where the numbers of a report come from, read off the records of its runs."""

import shlex

from scaling.cost import marginal_flops
from scaling.record import Ledger
from scaling.report import words
from scaling.report.findings import Findings


def summary(found: Findings, ledger: Ledger) -> str:
    """What was spent, in a line."""
    finished = int((found.table["status"] == "finished").sum())
    said = [f"{finished} of {words.several(len(found.table), 'evaluated run')} finished"]
    records = list(ledger)
    if records:
        said.append(f"{words.power(_flops(ledger))} training FLOPs")
        said.append(f"{_seconds(ledger, 'train'):,.0f} s of training")
        said.append(", ".join(sorted({record.machine.get("device", "") for record in records} - {""})))
    return " · ".join(filter(None, said))


def rows(ledger: Ledger) -> list[tuple[str, str]]:
    """(what, value) of machine, versions, commit, text and time; values that differ between runs are all given."""
    records = list(ledger)
    if not records:
        return []
    found: list[tuple[str, str]] = [
        ("records", f"{len(records)}, trunks among them"),
        ("training FLOPs", f"{_flops(ledger):.4g} executed by the finished runs, what trunk and branch share counted once"),
        (
            "seconds, over all workers",
            f"{_seconds(ledger, 'train'):.1f} training, {_seconds(ledger, 'evaluate'):.1f} evaluating, "
            f"{_seconds(ledger, 'compile'):.1f} compiling",
        ),
    ]
    for key in dict.fromkeys(key for record in records for key in record.machine):
        found.append((key.replace("_", " "), _distinct(record.machine.get(key, "") for record in records)))
    for source in dict.fromkeys(record.run.data.source for record in records):
        mine = [record.data for record in records if record.run.data.source == source]
        for key in dict.fromkeys(key for data in mine for key in data if key != "source"):
            label = key.replace("_", " ")
            found.append((f"{source}: {label}", _distinct(data.get(key, "") for data in mine)))
    return found


def command(found: Findings) -> str:
    """What runs the study again."""
    return shlex.join(["scaling", "run", found.study["name"]])


def _flops(ledger: Ledger) -> float:
    return sum(marginal_flops(record.run) for record in ledger if record.status == "finished")


def _seconds(ledger: Ledger, kind: str) -> float:
    return sum(getattr(record.clock, kind) for record in ledger if record.clock is not None)


def _distinct(values) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
