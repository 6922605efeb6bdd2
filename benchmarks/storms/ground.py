"""What the storms share: a small study, the command that runs it, and the comparison with an undisturbed sweep."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from scaling.record import Ledger, RunRecord
from scaling.record.verify import verify
from scaling.spec import Refusal

HERE = Path(__file__).resolve().parents[1]  # benchmarks/
STARTED: list[subprocess.Popen] = []  # every command
PATIENCE = 300.0  # seconds after which a command counts as hung

# 3 trunks, 9 branches and a held-out run. On the source that makes its own text, so that nothing has to be read.
STUDY = """
from scaling.cost import at_width
from scaling.plan import Analysis, Study, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=5e-3, warmup_steps=20, beta2=0.99), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=66_000), batch=8, steps=1,
)
STUDY = Study(
    name="storm", question="Is anything lost?",
    plan=trunks(BASE, [at_width(MODEL, d) for d in (8, 16, 32)], [5e4, 1e5, 2e5], group="grid"),
    held_out=straight(BASE, [at_width(MODEL, 32)], [3e5], group="held-out", role="held_out"),
    analysis=Analysis(laws=("chinchilla",)),
)
"""
# So that such short runs save often, and a process is often caught in the middle of it.
OFTEN = {"scaling.train.loop.CHECKPOINT_SECONDS": 0.1, "scaling.train.program.MAX_CHUNK": 16}
# What a run says of the clock, of the machine, or of its own history.
NOT_A_RESULT = ("run", "clock", "machine", "notes")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is wrong, a line each."""

    lost: Sequence[str] = ()  # a record, a row or a step that was there, or should be
    twice: Sequence[str] = ()  # a run that was finished again
    silent: Sequence[str] = ()  # a result that differs, and nothing says so
    wrong: Sequence[str] = ()  # anything else: an exit status, a limit of time, litter

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __add__(self, other: "Found") -> "Found":
        return Found(**{kind: [*getattr(self, kind), *getattr(other, kind)] for kind in KINDS})


KINDS = tuple(field.name for field in fields(Found))


@dataclass(kw_only=True)
class Row:
    """One storm: how many of its disturbances left everything as it should be, and what was wrong after the others."""

    storm: str
    tries: int = 0
    broken: int = 0
    found: Found = Found()
    seconds: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)  # figures and circumstances
    skipped: str = ""  # why it was not made here

    @property
    def survived(self) -> int:
        return max(0, self.tries - self.broken)

    def judge(self, what: str, found: Found) -> None:
        """Count one try; `what` names it where something was found."""
        self.tries += 1
        self.note(what, found)

    def note(self, what: str, found: Found) -> None:
        """What only shows when several tries are over."""
        self.broken += bool(found)
        self.found += Found(**{kind: [f"{what}: {line}" for line in getattr(found, kind)] for kind in KINDS})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"survived": self.survived}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Row":
        own: dict[str, Any] = {name: value for name, value in values.items() if name != "survived"}
        own["found"] = Found(**own["found"])
        return cls(**own)


@dataclass(frozen=True)
class Results:
    """What a sweep showed: everything in its folder that must not depend on how it came about."""

    records: Mapping[str, Mapping[str, Any]]  # by run
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    table: bytes
    forecast: bytes

    @classmethod
    def of(cls, out: Path) -> "Results":
        ledger, records = Ledger(out), {}
        for path in sorted(out.glob("runs/*/record.json")):
            with contextlib.suppress(Refusal):  # one that cannot be read counts as none
                records[path.parent.name] = shown(ledger[path.parent.name])
        return cls(
            records,
            {run_id: ledger.curve(run_id) for run_id in records},
            _bytes(out / "runs.csv"),
            _bytes(out / "forecast.json"),
        )


def shown(record: RunRecord) -> dict[str, Any]:
    values = record.to_json()
    return {name: values[name] for name in RunRecord.__dataclass_fields__ if name not in NOT_A_RESULT}


def compare(out: Path, reference: Results) -> Found:
    """A folder whose sweep is over, with the undisturbed one."""
    now, silent = Results.of(out), []
    noted = {run_id for run_id in now.records if Ledger(out)[run_id].notes}
    lost = [f"run {run_id} has no record that can be read" for run_id in reference.records if run_id not in now.records]
    for run_id, result in now.records.items():
        if result != reference.records.get(run_id):
            silent.append(f"run {run_id}: another result{' (noted)' if run_id in noted else ''}")
        if [*now.curves[run_id]] != [*reference.curves.get(run_id, ())]:
            silent.append(f"run {run_id}: another curve")
    if not lost:
        silent += [f"{name}: other bytes" for name in ("table", "forecast") if _differ(now, reference, name)]
    return Found(lost=lost, twice=[*_twice(out), *_repeated_rows(out)], silent=silent, wrong=litter(out))


def verified(out: Path) -> Found:
    """What `scaling verify` says of it."""
    return Found(wrong=[f"scaling verify: {fault.where}: {fault.what}" for fault in verify(Ledger(out)).faults])


def _differ(now: Results, reference: Results, name: str) -> bool:
    return getattr(now, name) != getattr(reference, name)


def _twice(out: Path) -> Iterator[str]:
    """From the marks that every committing process left."""
    path = marks(out) / "committed"
    times = Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()
    reopened = {path.parent.name for path in out.glob("runs/*/record.*.json")}
    for run_id, count in times.items():
        if count > 1 and run_id not in reopened:
            yield f"run {run_id} was finished {count} times"


def _repeated_rows(out: Path) -> Iterator[str]:
    ledger = Ledger(out)
    for folder in sorted(out.glob("runs/*")):
        steps = [row["step"] for row in ledger.curve(folder.name)]
        if steps != sorted(set(steps)):
            yield f"run {folder.name}: a step is in its curve twice, or out of order"


def litter(out: Path) -> list[str]:
    """Files of a write that was broken off."""
    found = [p for p in out.rglob("*") if p.name.endswith(".part") or ".orbax-checkpoint-tmp" in p.name]
    return [f"left behind: {path.relative_to(out)}" for path in found]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def marks(out: Path) -> Path:
    return out.with_name(f"{out.name}.marks")


class Ground:
    """A folder of one's own with a study file, a cache of compiled programs, and results folders that commands fill."""

    def __init__(
        self, folder: Path, study: str = STUDY, constants: Mapping[str, Any] = OFTEN, cache: Path | None = None
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.constants = folder, dict(constants)
        self.study = folder / "storm.py"
        self.study.write_text(study)
        self.cache = cache or folder / "cache"
        self._undisturbed: tuple[Results, float] | None = None
        self._said: dict[subprocess.Popen, Path] = {}

    def environment(self, out: Path, **storm: Any) -> dict[str, str]:
        marks(out).mkdir(parents=True, exist_ok=True)
        said = {"set": self.constants, "marks": str(marks(out))} | storm
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [HERE / "storms" / "sabotage", HERE, HERE.parent])),
            "JAX_PLATFORMS": "cpu",
            "NPROC": "1",
            "XDG_CACHE_HOME": str(self.cache),
            "STORM": json.dumps(said),
        }

    def start(self, out: Path, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
        """`scaling run` of the study; what it says goes to a file beside `out`."""
        command = ["run", str(self.study), "--out", str(out), "--workers", "2", *words]
        return self.command(out, *command, environment=environment)

    def command(self, out: Path, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
        path = self.folder / f"said-{len(self._said)}.txt"
        with open(path, "w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "scaling", *words], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                env=dict(environment or self.environment(out)), start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        self._said[process] = path
        STARTED.append(process)
        return process

    def last_words(self, process: subprocess.Popen) -> str:
        """The last line that a command of this ground said; empty where it said none."""
        lines = self._said[process].read_text().strip().splitlines()
        return lines[-1].strip() if lines else ""

    def finish(self, out: Path, *words: str, environment: Mapping[str, str] | None = None) -> Found:
        """The whole command, which has to end with status 0."""
        process = self.start(out, *words, environment=environment)
        status = ended(process)
        return Found(wrong=[f"a command ended with status {status}: {self.last_words(process)}"] if status else [])

    def undisturbed(self) -> tuple[Results, float]:
        """What the study shows when nothing happens to it, and the seconds that takes with a warm cache."""
        if self._undisturbed is None:
            for name in ("cold", "undisturbed"):
                out, began = self.folder / name, time.monotonic()
                if found := self.finish(out):
                    raise SystemExit(f"the undisturbed sweep: {found.wrong}")
                seconds = time.monotonic() - began
            self._undisturbed = Results.of(out), seconds
            if found := compare(self.folder / "cold", self._undisturbed[0]).silent:
                raise SystemExit(f"two undisturbed sweeps differ, so nothing can be compared with them: {found}")
        return self._undisturbed

    def undisturbed_is(self, out: Path, seconds: float) -> None:
        """Take the sweep in `out` for the undisturbed one."""
        self._undisturbed = Results.of(out), seconds

    def completed(self, out: Path) -> Found:
        """Run the command once more, undisturbed, and compare; `scaling verify` must have nothing to say."""
        return self.finish(out) + compare(out, self.undisturbed()[0]) + verified(out)


def end_all() -> None:
    """Kill every command that is still at work, as when a storm was broken off."""
    for process in STARTED:
        if process.poll() is None:
            kill(tree(process.pid))
            process.wait()


def ended(process: subprocess.Popen, patience: float = PATIENCE) -> int:
    """Its exit status; it and what it started are killed, and -1000 returned, when it takes longer than `patience`."""
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        kill(tree(process.pid))
        process.wait()
        return -1000


def tree(pid: int) -> list[int]:
    """A process and everything that it started and that still descends from it; empty when it is gone."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if words[0] != "Z":
            parents[int(path.parent.name)] = int(words[1])
    found = [pid] if pid in parents else []
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def phases(out: Path, pids: Sequence[int]) -> list[str]:
    """What the workers among these processes are at, as they marked it."""
    found = []
    for pid in pids:
        try:
            found.append((marks(out) / str(pid)).read_text() or "train")
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
