"""A results folder.

    study.json               what was asked: every planned run with its group and role, and the analysis
    runs/<id>/spec.json      what the run is
    runs/<id>/metrics.jsonl  its curve, one line per logging interval
    runs/<id>/checkpoints/   its weights (scaling.train.checkpoint)
    runs/<id>/record.json    what it showed; there only when the run is over, sealed (scaling.record.seal)
    runs/<id>/record.N.json  records that it had before it was reopened
    runs/<id>/failure.json   why it was given up; there only without a record
    jobs.json                what an engine was last asked for (scaling.cli.engines)
    teams/                   where the processes of one run meet (scaling.launch.team)
    runs.csv                 one row per evaluated run, made from the records
    cost.json                what the runs took, made from the records for when these are not at hand
    tuning.json              how far its learning rates are from the best (scaling.record.tuning)
    tuning/                  the runs that tell: a results folder of its own

One writer per run folder. A run without a record is pending, whatever else its folder holds.
"""

import itertools
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scaling.record import manifest
from scaling.record.failure import Failure
from scaling.record.files import commit_json, create_text, flush_folder, folder_of, names, on_store, read_json
from scaling.record.run_record import RunRecord
from scaling.record.seal import CURVE, SEAL, file_digest, read_sealed, sealed
from scaling.spec import Refusal, RunSpec, ill_typed, to_json

RUN_ID = re.compile(r"[0-9a-f]{12}")  # `RunSpec.id`; no other name becomes a path
MOST_RECORD = 2**24  # bytes of a record, which has some thousands
MOST_STUDY = 2**29  # bytes of a study.json; one of 100,000 runs has about 2**27


class Ledger:
    """A handle to a results folder, on a disk or in a bucket; holds no state of its own.

    `run_id in ledger` tells whether a run has its record, `ledger[run_id]` is that record, and `for record in ledger`
    goes through all of them.
    """

    def __init__(self, folder: Path):
        self.folder = folder_of(folder)

    def run_folder(self, run_id: str) -> Path:
        """Raises `Refusal` for what is no id: whatever a file says, no path leaves the results folder."""
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            raise Refusal(f"run id = {run_id!r:.60}: must be twelve hex digits, the hash of its run")
        return self.folder / "runs" / run_id

    def __contains__(self, run_id: str) -> bool:
        return (self.run_folder(run_id) / "record.json").is_file()

    def __getitem__(self, run_id: str) -> RunRecord:
        """Raises KeyError for a run without a record, and `Refusal` for a record that is not as it was written."""
        path = self.run_folder(run_id) / "record.json"
        try:
            return record_of(read_sealed(path, most=MOST_RECORD), run_id)
        except FileNotFoundError:
            raise KeyError(f"run {run_id} has no record in {self.folder}") from None
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(f"{path}: not a run record ({error}); move it away and the run is made again") from error

    def __iter__(self) -> Iterator[RunRecord]:
        for path in sorted(self.folder.glob("runs/*/record.json")):
            if RUN_ID.fullmatch(path.parent.name):
                yield self[path.parent.name]

    def begin(self, run: RunSpec) -> Path:
        """The run's folder, with its spec in it. Raises `Refusal` where a link leads what is written, and deleted,
        out of the results folder."""
        folder = self.run_folder(run.id)
        home = folder.parent.resolve()
        for path in () if on_store(folder) else (folder, folder / "checkpoints"):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise Refusal(f"{path}: is a link to {path.resolve()}, outside of the results folder; move it away")
        if not (folder / "spec.json").is_file():
            commit_json(folder / "spec.json", to_json(run))
        return folder

    def commit(self, record: RunRecord, fence: Callable[[], None] = lambda: None) -> None:
        """Put a record down for good, with the sha256 of the run's curve as it is now, and sealed.

        Of any number of participants that try, one does; the others get FileExistsError. `fence` raises where the run
        is not ours to write any more: it is asked after the curve was read, so that no curve of another's is sealed.
        """
        folder = self.begin(record.run)
        values = sealed(record.to_json() | {CURVE: file_digest(folder / "metrics.jsonl")})
        fence()
        if not create_text(folder / "record.json", json.dumps(values, indent=1, allow_nan=False) + "\n"):
            raise FileExistsError(f"run {record.run.id} is already recorded in {self.folder}")
        (folder / "failure.json").unlink(missing_ok=True)

    def reopen(self, run_id: str) -> None:
        """Make a recorded run pending again; its record is kept beside, numbered. Nothing where it is pending."""
        path = self.run_folder(run_id) / "record.json"
        if on_store(path):
            return self._reopen_in_store(path)
        for number in itertools.count():
            kept = path.with_name(f"record.{number}.json")
            try:
                os.close(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # nobody else takes the name
            except FileExistsError:
                continue
            except FileNotFoundError:  # the run has no folder
                return
            try:
                path.replace(kept)
            except FileNotFoundError:
                kept.unlink()
                return
            return flush_folder(path.parent)

    def _reopen_in_store(self, path: Path) -> None:
        """Where nothing can be renamed: until the record is gone, the run has it and the copy."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        for number in itertools.count():
            if create_text(path.with_name(f"record.{number}.json"), text):
                return path.unlink(missing_ok=True)

    def failure(self, run_id: str) -> Failure | None:
        """Why a run was given up; None for one that was not, and for one that has a record after all."""
        path = self.run_folder(run_id) / "failure.json"
        if run_id in self:
            return None
        try:
            return Failure.from_json(read_json(path, most=MOST_RECORD))
        except FileNotFoundError:
            return None
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal(f"{path}: does not say why a run failed ({error}); delete it and the run is made") from error

    def fail(self, run_id: str, failure: Failure) -> None:
        """Put down why a run is given up, in the place of what was said before."""
        commit_json(self.run_folder(run_id) / "failure.json", failure.to_json())

    def checkpoint_steps(self, run_id: str) -> set[int]:
        """The optimizer steps whose weights are on disk, committed. Whether they are sound shows when they are read."""
        folder = self.run_folder(run_id) / "checkpoints"
        if on_store(folder):
            return {*manifest.uploaded(folder)}
        return {int(name) for name in names(folder) if name.isdecimal() and manifest.is_committed(folder / name)}

    def curve(self, run_id: str) -> list[dict[str, Any]]:
        """The logged rows of a run, oldest first."""
        return [row for row in self.curve_lines(run_id) if "open" not in row]

    def curve_lines(self, run_id: str) -> list[dict[str, Any]]:
        """The rows, and what a stopped run holds of the next (`open`); a line torn by a crash is left out."""
        rows = []
        path = self.run_folder(run_id) / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                break
            rows.append(row)
        return rows

    def study(self) -> dict[str, Any]:
        """What `study.json` says. Raises `Refusal` where there is none, or one that plans what can be no run."""
        return self.read_study(lambda planned: planned)

    def planned(self) -> list[tuple[str, str, str, int]]:
        """(id, group, role, steps) of every planned run: a study of 100,000 in a fifth of the memory."""
        of = self.read_study(lambda p: (p["id"], p["group"], p["role"], p["run"]["steps"]))
        return of["plan"]

    def read_study(self, kept: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """`study`, with what is `kept` of every planned run, made of each as soon as it is read."""
        path, runs = self.folder / "study.json", []

        def one(value: dict[str, Any]) -> Any:
            if not PLANNED <= value.keys():
                return value
            if fault := _unplanned(value):
                raise ValueError(fault)
            runs.append(value["id"])
            return kept(value)

        try:
            study = read_json(path, most=MOST_STUDY, object_hook=one)
            if not (isinstance(study, dict) and {"name", "question", "analysis", "plan"} <= study.keys()):
                raise ValueError("it names no study")
            if not isinstance(study["plan"], list) or len(study["plan"]) != len(runs):
                raise ValueError("its plan is no list of runs")
            if len(set(runs)) != len(runs):
                raise ValueError(f"it plans run {next(i for i, n in Counter(runs).items() if n > 1)} twice")
            return study
        except (FileNotFoundError, NotADirectoryError):
            raise Refusal(
                f"{self.folder}: not a results folder (it has no study.json); `scaling run` makes one"
            ) from None
        except ValueError as error:
            raise Refusal(f"{path}: not the study of a results folder ({error})") from None


def command_of(study: Mapping[str, Any]) -> str:
    """The command that made a study, to be shown to a person who may paste it; empty where what `study.json` says is
    not one command of ours, quoted as we write it."""
    said = study.get("command")
    try:
        words = shlex.split(said) if isinstance(said, str) else []
    except ValueError:
        return ""
    return str(said) if words[:1] == ["scaling"] and shlex.join(words) == said else ""


PLANNED = {"id", "group", "role", "run"}  # what `Plan.to_json` says of each run


def _unplanned(planned: dict[str, Any]) -> str:
    """What keeps a value of a plan from being a run, its group and its role; empty where nothing does."""
    if not isinstance(planned["id"], str) or not RUN_ID.fullmatch(planned["id"]):
        return f"run id = {planned['id']!r:.60}: must be twelve hex digits, the hash of its run"
    if not isinstance(planned["run"], dict) or type(planned["run"].get("steps")) is not int:
        return f"run {planned['id']}: does not say what it is"
    texts = ("group", "role")
    return next((f"run {planned['id']}: {t} = {planned[t]!r:.60}" for t in texts if type(planned[t]) is not str), "")


def record_of(values: Mapping[str, Any], run_id: str) -> RunRecord:
    """The record in a document. Raises ValueError where it is that of another run."""
    record = RunRecord.from_json(values)
    if faults := [*ill_typed(record.run), *record.faults()]:
        raise ValueError(faults[0])
    # A sealed record is as it was written, with the id that its run had then.
    if (found := values["id"] if SEAL in values else record.run.id) != run_id:
        raise ValueError(f"it is that of run {found}")
    return record
