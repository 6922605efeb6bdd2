"""Whether every file of a results folder is as it was written: what `scaling verify` finds.

Nothing is changed, no link that leads out of the folder is followed, and nothing is taken on trust: ids are hashed from
their runs again, sums from the bytes.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scaling.record import manifest, table
from scaling.record.failure import Failure
from scaling.record.files import names, on_store, read_json
from scaling.record.ledger import MOST_RECORD, RUN_ID, Ledger, record_of
from scaling.record.run_record import RunRecord
from scaling.record.seal import CURVE, file_digest, fits, read_sealed
from scaling.record.tuning import Tuning
from scaling.spec import Refusal, RunSpec, from_json

Level = Literal["fault", "note"]

MOST_JSON = 2**28  # bytes of a forecast, a fit or a tuning
LEFT_OVER = re.compile(r"\..*\.part")
OLDER = re.compile(r"record\.\d+\.json")
KNOWN = re.compile(r"spec\.json|metrics\.jsonl|claim\..*|checkpoints|record\.json|failure\.json")
BROKEN = (OSError, KeyError, ValueError, TypeError, AttributeError)  # of a document that is none
PUT_BACK = "put what it leads to in its place"
AGAIN = "move it away and the run is made again"


@dataclass(frozen=True, kw_only=True)
class Finding:
    level: Level  # fault: something is not as it was written; note: something to know
    where: str  # path from the results folder
    what: str
    way_out: str = ""


@dataclass
class Verified:
    """What was looked at, and what was found."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # runs planned, records, rows of curves, checkpoints

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "fault"]


def verify(
    ledger: Ledger, *, quick: bool = False, seen: Callable[[int, int], None] = lambda done, of: None
) -> Verified:
    """Check a whole results folder, and that of its tuning. Raises `Refusal` for what is no results folder.

    `quick` leaves out the sums of checkpoints' files. `seen` is told how many of how many runs are done.
    """
    if not (ledger.folder / "study.json").is_file():
        raise Refusal(f"{ledger.folder}: not a results folder (it has no study.json); `scaling run` makes one")
    check = _Check(ledger, quick)
    check.study()
    check.runs(seen)
    check.documents()
    check.table()
    check.rest()
    found = check.found
    if (ledger.folder / "tuning" / "study.json").is_file() and not _leads_out(ledger.folder / "tuning", ledger.folder):
        tuning = verify(Ledger(ledger.folder / "tuning"), quick=quick)
        found.counts += tuning.counts
        for one in tuning.findings:
            found.findings.append(
                Finding(level=one.level, where=f"tuning/{one.where}", what=one.what, way_out=one.way_out)
            )
    return found


class _Check:
    """One folder under examination."""

    def __init__(self, ledger: Ledger, quick: bool):
        self.ledger, self.folder, self.quick = ledger, ledger.folder, quick
        self.found = Verified()
        self.planned: dict[str, tuple[str, str]] | None = None  # group and role; None: study.json cannot be read
        self.lines: dict[str, str] = {}  # of runs.csv, by run
        self.recorded: set[str] = set()
        self.unsealed: list[str] = []
        self.unsound = False  # a record or the tuning cannot be read, so nobody knows what the table should be
        try:
            self.tuning = Tuning.of(self.folder)
        except Refusal:
            self.tuning, self.unsound = Tuning(groups={}), True

    def add(self, level: Level, where: Path | str, what: object, way_out: str = "") -> None:
        path = where if isinstance(where, str) else where.relative_to(self.folder).as_posix()
        self.found.findings.append(
            Finding(level=level, where=_printable(path), what=_printable(_said(what)), way_out=way_out)
        )

    def study(self) -> None:
        wrong = []

        def kept(value: dict[str, Any]) -> tuple[str, str, str]:
            try:
                if (now := from_json(RunSpec, value["run"]).id) != value["id"]:
                    wrong.append(f"run {value['id']}: its id is not the hash of its run, {now}")
            except BROKEN as error:
                wrong.append(f"run {value['id']}: is no run ({_said(error)})")
            return value["id"], value["group"], value["role"]

        way_out = "the command that made this folder writes it again"
        try:
            plan = self.ledger.read_study(kept)["plan"]
            self.planned = {run_id: (group, role) for run_id, group, role in plan}
            self.found.counts["planned runs"] = len(plan)
        except (Refusal, OSError) as error:
            self.add("fault", "study.json", error, way_out)
        for fault in wrong:
            self.add("fault", "study.json", fault, way_out)

    def runs(self, seen: Callable[[int, int], None]) -> None:
        home = self.folder / "runs"
        if not home.is_dir():
            published = (self.folder / "runs.csv").is_file()
            what = "not here, as in published results: the table is taken as it is" if published else "not here yet"
            return self.add("note", "runs", what)
        if home.is_symlink():
            self.add("note", home, f"is a link to {home.resolve()}, which is looked into")
        found = names(home)
        for number, name in enumerate(found):
            path = home / name
            if _leads_out(path, home):
                self.add("fault", path, f"a link that leads to {os.path.realpath(path)}", AGAIN)
            elif RUN_ID.fullmatch(name) and path.is_dir():
                if self.planned is not None and name not in self.planned:
                    self.add("note", path, "a run that study.json does not plan; it enters no table")
                self.run(name, path)
            elif LEFT_OVER.fullmatch(name):
                self.left_over(path)
            else:
                self.add("note", path, "not the folder of a run; nothing reads it")
            seen(number + 1, len(found))
        if self.unsealed:
            what = f"{len(self.unsealed)} records of an older version have no seal, e.g. {self.unsealed[0]}"
            self.add("note", "runs", f"{what}: that they are as they were written cannot be told")

    def run(self, run_id: str, folder: Path) -> None:
        there = set()
        for name in names(folder):
            path = folder / name
            if _leads_out(path, self.folder / "runs"):
                self.add("fault", path, f"a link that leads to {os.path.realpath(path)}", PUT_BACK)
            elif LEFT_OVER.fullmatch(name):
                self.left_over(path)
            elif OLDER.fullmatch(name):
                self.older(path)
            elif KNOWN.fullmatch(name):
                there.add(name)
            else:
                self.add("note", path, "not a file of a run; nothing reads it")
        record, seal = (None, None) if "record.json" not in there else self.record(run_id, folder / "record.json")
        spec = self.spec(run_id, folder / "spec.json") if "spec.json" in there else None
        if record and not spec:
            self.add("note", folder / "spec.json", "not here; the record says what the run is")
        if "failure.json" in there:
            self.failure(folder / "failure.json", "record.json" in there)
        steps = record.run.steps if record else spec.steps if spec else None
        self.curve(folder / "metrics.jsonl", steps, "record.json" in there, seal)
        if "checkpoints" in there:
            self.checkpoints(run_id, folder / "checkpoints")

    def record(self, run_id: str, path: Path) -> tuple[RunRecord | None, dict[str, Any] | None]:
        """The record, and its document where it has a seal that fits."""
        self.found.counts["records"] += 1
        self.recorded.add(run_id)
        try:
            values = read_sealed(path, most=MOST_RECORD)
            record = record_of(values, run_id)
            if (now := record.run.id) != run_id:
                raise ValueError(f"the hash of its run is {now}")
            group, role = (self.planned or {}).get(run_id, ("", "trunk"))
            if role != "trunk":
                self.lines[run_id] = table.line(table.row(run_id, record, group, role, self.tuning))
        except BROKEN as error:
            if not _lies_there(path):  # opened again by a sweep under way
                return None, None
            self.unsound = True
            self.add("fault", path, f"not a run record ({_said(error)})", AGAIN)
            return None, None
        if not fits(values):
            self.unsealed.append(run_id)
            return record, None
        return record, values

    def older(self, path: Path) -> None:
        try:
            values = read_sealed(path, most=MOST_RECORD)
            if values.get("id") != path.parent.name:
                raise ValueError(f"it is that of run {values.get('id')!r:.60}")
            self.add("note", path, "what the run showed before it was opened again; nothing reads it")
        except BROKEN as error:
            empty = not path.is_symlink() and path.stat().st_size == 0
            what = "empty: the run was being opened again" if empty else f"not an older record ({_said(error)})"
            self.add("note" if empty else "fault", path, what, "delete it: nothing reads it")

    def spec(self, run_id: str, path: Path) -> RunSpec | None:
        try:
            spec = from_json(RunSpec, read_json(path, most=MOST_RECORD))
            if spec.id != run_id:
                raise ValueError(f"it is that of run {spec.id}")
            return spec
        except BROKEN as error:
            self.add("fault", path, f"not what the run is ({_said(error)})", "delete it: the plan says what the run is")
            return None

    def failure(self, path: Path, recorded: bool) -> None:
        try:
            failure = Failure.from_json(read_json(path, most=MOST_RECORD))
            said = "left over: the run has a record" if recorded else f"given up ({failure.kind}): {failure.reason}"
            self.add("note", path, said, "delete it" if recorded else "`scaling run --retry` tries it again")
        except BROKEN as error:
            if _lies_there(path):  # or the run got its record meanwhile
                self.add("fault", path, f"does not say why the run failed ({_said(error)})", "delete it")

    def curve(self, path: Path, steps: int | None, recorded: bool, seal: dict[str, Any] | None) -> None:
        """A run without a record writes its curve anew when it goes on, so that what is wrong with it is no fault."""
        level: Level = "fault" if recorded else "note"
        way_out = AGAIN.replace("it away", "the run's folder away") if recorded else "the run mends it when it goes on"
        if seal and seal.get(CURVE) != file_digest(path):
            there = path.is_file()
            what = "not as it was when the run was recorded: its sha256 is another" if there else "not here"
            return self.add(level, path, what, way_out)
        if not path.is_file():
            return
        last, number = 0, 0
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_RECORD), b""), 1):
                try:
                    row = json.loads(line)
                    step = row["step"]
                    if type(step) is not int:
                        raise ValueError(f"step = {step!r:.60}")
                    if "open" in row:
                        continue
                    if step <= last:
                        raise ValueError(f"step {step} comes after step {last}")
                    if steps is not None and step > steps:
                        raise ValueError(f"step {step} is beyond the run's {steps}")
                    last = step
                except (*BROKEN, RecursionError) as error:
                    return self.add(level, path, f"line {number} is no row ({_said(error)})", way_out)
        self.found.counts["rows of curves"] += number

    def checkpoints(self, run_id: str, folder: Path) -> None:
        bucket = on_store(folder)
        for name in names(folder):
            path = folder / name
            upload = manifest.UPLOAD.fullmatch(name) if bucket else None
            if _leads_out(path, self.folder / "runs"):
                self.add("fault", path, f"a link that leads to {os.path.realpath(path)}", "move it away")
            elif LEFT_OVER.fullmatch(name):
                self.left_over(path)
            elif name.startswith("bad-"):
                self.add("note", path, "a checkpoint that was unsound and set aside", "delete it")
            elif not (upload if bucket else name.isdecimal()):
                self.add("note", path, "not a checkpoint; nothing reads it")
            elif bucket and path.with_name(f"bad-{name}").is_file():
                continue  # said of its mark
            elif not manifest.is_committed(path):
                self.add("note", path, "has no manifest, so it counts as none", "delete it where no sweep runs")
            else:
                self.found.counts["checkpoints"] += 1
                faults = (
                    []
                    if self.quick
                    else manifest.check(path, {"run": run_id, "step": int(upload[1] if upload else name)})
                )
                for fault in faults if path.exists() else ():  # a sweep under way may have dropped it
                    self.add("fault", path, fault, "a run that needs it sets it aside and goes on from one before it")

    def left_over(self, path: Path) -> None:
        self.add("note", path, "left half written by a process that was killed", "delete it where no sweep runs")

    def documents(self) -> None:
        """What fits and forecasts wrote. Those of held-out runs are made before the runs."""
        documents = ["forecast.json", "tuning.json"]
        paths = [self.folder / name for name in documents] + sorted((self.folder / "fits").glob("*.json"))
        read = {}
        for path in paths:
            if not path.is_file() or _leads_out(path, self.folder):
                continue
            try:
                read[path.name] = read_json(path, most=MOST_JSON)
                if path.name == "tuning.json":
                    Tuning.of(self.folder)
            except BROKEN as error:
                self.add("fault", path, f"cannot be read ({_said(error)})", "move it away and make it again")
        if (self.folder / "forecast.json").is_file() and "forecast.json" not in read:
            return
        said = {one.get("run_id") for one in _dicts(read.get("forecast.json"))}
        for run_id, (_, role) in (self.planned or {}).items():
            if role == "held_out" and run_id in self.recorded and run_id not in said:
                self.add("note", "forecast.json", f"held-out run {run_id} was recorded without a forecast")

    def table(self) -> None:
        """Whether runs.csv is what the records give, to the byte."""
        path = self.folder / "runs.csv"
        if not (self.folder / "runs").is_dir():
            return self.published(path)
        if self.unsound or self.planned is None:
            return
        lines = [self.lines[run_id] for run_id in self.planned if run_id in self.lines]
        again = "`scaling run` writes it at its end"
        if not path.is_file():
            if lines:
                self.add("note", path, "not here yet", again)
        elif (text := path.read_bytes()) != "".join([table.HEADER, *lines]).encode():
            older = text.startswith(table.HEADER.encode()) and not _lines(text) - {*lines, table.HEADER}
            self.add(
                "note" if older else "fault", path,
                "older than some records" if older else "not what the records give",
                again if older else "move it away and make it again: `scaling table` prints it",
            )  # fmt: skip

    def published(self, path: Path) -> None:
        """Of a table without its records: whether its runs are planned, each once."""
        if self.planned is None or not path.is_file():
            return
        text = io.StringIO(path.read_bytes().decode(errors="replace"), newline="")
        rows = [(row.get("run_id"), row.get("group"), row.get("role")) for row in csv.DictReader(text)]
        self.found.counts["rows of the table"] += len(rows)
        times = Counter(run_id for run_id, *_ in rows)
        wrong = [f"{run_id}: has {count} rows" for run_id, count in times.items() if count > 1]
        wrong += [
            f"{run_id}: is no {role} run of {group!r} in the plan"
            for run_id, group, role in rows
            if self.planned.get(run_id or "") != (group, role)
        ]
        for fault in wrong:
            self.add("fault", path, f"run {fault}", "put it back from where it was published")

    def rest(self) -> None:
        """Half-written files and links beside the runs; a bucket has neither."""
        if on_store(self.folder):
            return
        for root, folders, files in os.walk(self.folder):
            if Path(root) == self.folder:
                folders[:] = [name for name in folders if name not in ("runs", "tuning")]
            for name in sorted([*folders, *files]):
                path = Path(root, name)
                if _leads_out(path, self.folder):
                    self.add(
                        "fault",
                        path,
                        f"a link that leads to {os.path.realpath(path)}",
                        "put what it leads to in its place",
                    )
                elif LEFT_OVER.fullmatch(name):
                    self.left_over(path)


def _leads_out(path: Path, home: Path) -> bool:
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(home.resolve())
    except (OSError, RuntimeError):  # round in a circle
        return True


def _lies_there(path: Path) -> bool:
    return path.exists() if on_store(path) else os.path.lexists(path)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(inner)


def _lines(text: bytes) -> set[str]:
    return set(text.decode(errors="replace").splitlines(keepends=True))


def _said(what: object) -> str:
    """In a line."""
    if isinstance(what, KeyError):
        return f"{what} is missing"
    return (str(what).splitlines() or [type(what).__name__])[0][:300]


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
