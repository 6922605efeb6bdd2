"""Broken runs beside healthy ones: each ends as its fault deserves, and none stops another."""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scaling.record import Ledger

from .ground import Found, Ground, Results, Row, marks, shown, tree

PATIENCE = 8.0  # seconds of silence until a worker is killed
SLACK = 4.0  # seconds of the supervisor's own loop on a busy machine
TOLERANCE = 1e-5  # of the loss, relative, where a batch was cut finer
CONSTANTS = {"scaling.train.loop.CHECKPOINT_SECONDS": 0.1, "scaling.train.program.MAX_CHUNK": 4}

# What befalls a seed, and how its run ends: the status of its record, or the kind of its failure.
ZOO = {
    0: ("nan", "diverged"), 1: ("inf", "diverged"), 2: ("segv", "crash"), 3: ("exit", "crash"), 4: ("hang", "hang"),
    5: ("oom once", "finished"), 6: ("oom", "out_of_memory"), 7: ("slow", "finished"), 8: ("", "finished"),
    9: ("", "finished"),
}  # fmt: skip
RETRIED = {"crash", "hang"}  # by the same command; what is out of memory by --retry; what has a record never

STUDY = f"""
from scaling.plan import Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=5e-3), data=DataSpec(source="zipf-facts"),
               eval=EvalSpec(tokens=6600), batch=8, steps=1)
STUDY = Study(name="zoo", question="Who is hurt?",
              plan=repeated(straight(BASE, [MODEL], [2e4], group="runs", role="compare"), seeds=range({len(ZOO)})))
"""


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """Ten runs; then the same command again, which tries what may mend by itself; then without the faults, and with
    --retry."""
    row = Row(storm="fault zoo")
    ours = Ground(ground.folder / "zoo", STUDY, CONSTANTS, cache=ground.cache)
    reference, _ = ours.undisturbed()
    order = [*ZOO]
    random.Random(seed).shuffle(order)
    out = ours.folder / "zoo"
    seeds = dict(zip(order, ZOO, strict=True))  # of the plan -> in the zoo
    faults = {str(of): ZOO[kind][0] for of, kind in seeds.items() if ZOO[kind][0]}
    ends = {of: ZOO[kind][1] for of, kind in seeds.items()}
    broken = ours.environment(out, faults=faults)
    words = ("--patience", str(PATIENCE))

    silences = _watched(ours, out, broken, words, row)
    for of, found in _ends(out, ends, reference).items():
        row.judge(f"seed {of} ({faults.get(str(of), 'healthy')})", found)
    row.note("the watchdog", Found(wrong=[
        f"a hanging worker lived for {silence:.1f} s, and {PATIENCE:.0f} are its limit"
        for silence in silences if silence > PATIENCE + SLACK
    ]))  # fmt: skip

    before = _befallen(out)
    _watched(ours, out, broken, words, row)
    again = {of for of, count in _befallen(out).items() if count > before.get(of, 0)}
    if again != {of for of, end in ends.items() if end in RETRIED}:
        row.note("the same command", Found(wrong=[f"it tried the seeds {again} again; their ends were {ends}"]))
    for retry in ((), ("--retry",)):
        _watched(ours, out, ours.environment(out), (*words, *retry), row)
        mended = RETRIED | ({"out_of_memory"} if retry else set())
        ends = {of: "finished" if end in mended else end for of, end in ends.items()}
        for of, found in _ends(out, ends, reference).items():
            if found:
                row.note(f"seed {of}, without faults {' '.join(retry)}", found)
    row.said = {"hangs killed after": ", ".join(f"{silence:.1f} s" for silence in silences)}
    return row


def _watched(ground: Ground, out: Path, environment: dict[str, str], words: tuple[str, ...], row: Row) -> list[float]:
    """Run the command, which has to end with status 1; seconds that hanging workers lived."""
    process, began, lived = ground.start(out, *words, environment=environment), {}, {}
    while process.poll() is None:
        for path in marks(out).glob("*.hangs"):
            pid = int(path.stem)
            began.setdefault(pid, time.monotonic())
            if pid not in lived and not tree(pid):
                lived[pid] = time.monotonic() - began[pid]
        time.sleep(0.1)
    if process.returncode != 1:
        row.note("the command", Found(wrong=[f"status {process.returncode}: {ground.last_words(process)}"]))
    return [*lived.values()]


def _ends(out: Path, ends: dict[int, str], reference: Results) -> dict[int, Found]:
    """What is wrong with the end of each seed's run."""
    ledger, found = Ledger(out), {}
    for planned in json.loads((out / "study.json").read_text())["plan"]:
        run_id, of = planned["id"], planned["run"]["seed"]
        end, was = ends[of], _end(out, run_id)
        wrong = [] if was == end else [f"it ended as {was}, not as {end}"]
        silent = []
        if was == "diverged" and "at step 7" not in ledger[run_id].reason:
            wrong.append(f"its reason names another step: {ledger[run_id].reason}")
        if was == "finished":
            silent = _other(shown(ledger[run_id]), reference.records[run_id], noted=bool(ledger[run_id].notes))
        found[of] = Found(wrong=wrong, silent=silent)
    return found


def _end(out: Path, run_id: str) -> str:
    ledger = Ledger(out)
    if run_id in ledger:
        return ledger[run_id].status
    failure = ledger.failure(run_id)
    return failure.kind if failure else "pending"


def _other(now: dict[str, Any], then: Any, noted: bool) -> list[str]:
    """A run with a note was cut finer, and is the same up to rounding; any other to the last bit."""
    if not noted:
        return [] if now == then else [f"another result: loss {now['loss']!r}, undisturbed {then['loss']!r}"]
    off = abs(now["loss"] / then["loss"] - 1)
    return [] if off <= TOLERANCE else [f"its loss is off by {off:.1e}"]


def _befallen(out: Path) -> Counter[int]:
    """How often a fault struck, by seed."""
    path = marks(out) / "befallen"
    return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()
