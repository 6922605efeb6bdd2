"""A results folder.

    study.json               what was asked: every planned run with its group and role, and the analysis
    runs/<id>/spec.json      what the run is
    runs/<id>/metrics.jsonl  its curve, one line per logging interval
    runs/<id>/checkpoints/   its weights (scaling.train.checkpoint)
    runs/<id>/record.json    what it showed; there only when the run is over
    runs.csv                 one row per evaluated run, made from the records
    tuning.json              how far its learning rates are from the best (scaling.record.tuning)
    tuning/                  the runs that tell: a results folder of its own

One writer per run folder. A run without a record is pending, whatever else its folder holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.record.files import commit_json
from scaling.record.run_record import RunRecord
from scaling.spec import Refusal, RunSpec, to_json


class Ledger:
    """A handle to a results folder; holds no state of its own."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    def __contains__(self, run_id: str) -> bool:
        return (self.run_folder(run_id) / "record.json").is_file()

    def __getitem__(self, run_id: str) -> RunRecord:
        path = self.run_folder(run_id) / "record.json"
        try:
            return RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise KeyError(f"run {run_id} has no record in {self.folder}") from None
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(f"{path}: not a run record ({error}); move it away and the run is made again") from error

    def __iter__(self) -> Iterator[RunRecord]:
        for path in sorted(self.folder.glob("runs/*/record.json")):
            yield self[path.parent.name]

    def begin(self, run: RunSpec) -> Path:
        """The run's folder, with its spec in it."""
        folder = self.run_folder(run.id)
        if not (folder / "spec.json").is_file():
            commit_json(folder / "spec.json", to_json(run))
        return folder

    def commit(self, record: RunRecord) -> None:
        """Put a record down for good. Raises FileExistsError when the run has one."""
        if record.run.id in self:
            raise FileExistsError(f"run {record.run.id} is already recorded in {self.folder}")
        commit_json(self.begin(record.run) / "record.json", record.to_json())

    def reopen(self, run_id: str) -> None:
        """Make a recorded run pending again; its record is kept beside, numbered."""
        path = self.run_folder(run_id) / "record.json"
        older = len(list(path.parent.glob("record.*.json")))
        path.rename(path.with_name(f"record.{older}.json"))

    def checkpoint_steps(self, run_id: str) -> set[int]:
        """The optimizer steps whose weights are on disk."""
        return {int(p.name) for p in (self.run_folder(run_id) / "checkpoints").glob("*") if p.name.isdigit()}

    def curve(self, run_id: str) -> list[dict[str, Any]]:
        """The logged rows of a run, oldest first."""
        return [row for row in self.curve_lines(run_id) if "open" not in row]

    def curve_lines(self, run_id: str) -> list[dict[str, Any]]:
        """The rows, and what a stopped run holds of the next (`open`); a line torn by a crash is left out."""
        rows = []
        path = self.run_folder(run_id) / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def study(self) -> dict[str, Any]:
        """What `study.json` says. Raises `Refusal` where there is none."""
        path = self.folder / "study.json"
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(study, dict) and {"name", "question", "analysis", "plan"} <= study.keys()):
                raise ValueError("it names no study")
            return study
        except (FileNotFoundError, NotADirectoryError):
            raise Refusal(
                f"{self.folder}: not a results folder (it has no study.json); `scaling run` makes one"
            ) from None
        except ValueError as error:
            raise Refusal(f"{path}: not the study of a results folder ({error})") from None
