"""Where the numbers of a report come from, read off the records of its runs."""

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from scaling.cost import marginal_flops
from scaling.record import Ledger
from scaling.record.files import commit_json, read_json
from scaling.record.ledger import command_of
from scaling.report import words
from scaling.report.findings import Findings
from scaling.spec import RunSpec, from_json

MOST_COST = 2**16  # bytes of a cost.json, which has some hundred


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a study took. Kept in `cost.json`, for results are published without their records."""

    runs: int  # finished, trunks among them
    flops: float  # of training, what trunk and branch share counted once
    hours: float | None  # of training, evaluating and compiling, over all workers; None where nobody kept it
    device: str  # what it ran on; empty where nobody kept it


def cost(found: Findings, ledger: Ledger) -> Cost:
    """By the records, else by what an earlier report put down, else by the table, which has no clock."""
    records = [record for record in ledger if record.status == "finished"]
    if records:
        seconds = sum(_seconds(ledger, kind) for kind in ("train", "evaluate", "compile"))
        devices = sorted({record.machine.get("device", "") for record in records} - {""})
        return Cost(runs=len(records), flops=_flops(ledger), hours=seconds / 3600, device=", ".join(devices))
    try:
        kept = Cost(**read_json(ledger.folder / "cost.json", most=MOST_COST))
        if (
            all(type(value) in (int, float) for value in (kept.runs, kept.flops, kept.hours))
            and type(kept.device) is str
        ):
            return kept
    except (FileNotFoundError, ValueError, TypeError):
        pass
    finished = found.table.loc[found.table["status"] == "finished"]
    made = {*finished["run_id"], *finished["trunk"]}
    runs = [from_json(RunSpec, one["run"]) for one in found.study["plan"] if one["id"] in made]
    return Cost(runs=len(runs), flops=sum(map(marginal_flops, runs)), hours=None, device="")


def keep_cost(found: Findings, ledger: Ledger) -> None:
    """Put `cost.json` beside the study, where there are records to tell it."""
    if any(True for _ in ledger):
        commit_json(ledger.folder / "cost.json", asdict(cost(found, ledger)))


def summary(found: Findings, ledger: Ledger) -> str:
    """What was spent, in a line."""
    finished = found.table["status"].tolist().count("finished")
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
        ("training FLOPs", f"{_flops(ledger):.4g} by the finished runs, what trunk and branch share counted once"),
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


def methods(found: Findings) -> list[str]:
    """How the numbers were made, with sources; only what this study used."""
    said = [
        "N is a count of parameters and C one of training FLOPs of matrix products (conventions: arXiv:2406.19146)."
    ]
    if any(found.table["trunk"].tolist()):
        said.append("Runs are cooldown branches that leave a trunk of constant learning rate (arXiv:2405.18392).")
    if found.fits:
        bootstrap = found.study["analysis"]["bootstrap"]
        source = f"{bootstrap} refits to resampled trunks" if bootstrap else "the covariance, with Student's t"
        said.append(
            "Laws are fitted to ln L from many starts (variable projection) and polished by a robust MM-estimate, so "
            f"that a few bad runs do not move them (Yohai 1987). Intervals come from {source}."
        )
        said += [f"{law} law: {words.formula(law)}." for law in found.fits]
        said.append("The law that is shown predicts the runs of most compute best when they are left out of the fit.")
    if found.isoflop is not None:
        said.append("Approach 2: arXiv:2203.15556, section 3.2; the bias of its parabolas: arXiv:2603.22339.")
    if found.comparisons:
        said.append(
            "Compute multipliers compare compute at equal loss, inside what both algorithms reached; one seen at small "
            "scale need not last (arXiv:2511.21622)."
        )
    return said


def command(found: Findings) -> str:
    """What runs the study again."""
    return command_of(found.study) or shlex.join(["scaling", "run", found.study["name"]])


def _flops(ledger: Ledger) -> float:
    return sum(marginal_flops(record.run) for record in ledger if record.status == "finished")


def _seconds(ledger: Ledger, kind: str) -> float:
    return sum(getattr(record.clock, kind) for record in ledger if record.clock is not None)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
