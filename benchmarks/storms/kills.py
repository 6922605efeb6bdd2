"""SIGKILL at random moments of a sweep, which is started again and again until it is done."""

import random
import time
from collections import Counter
from pathlib import Path

from scaling.record import Ledger

from .ground import Found, Ground, Results, Row, ended, kill, phases, tree

TARGETS = ("everything", "everything", "the supervisor", "a worker")


def storm(ground: Ground, seed: int, short: bool, tries: int | None = None) -> Row:
    """Half of the kills take every process of the sweep at once, the others its supervisor or one worker alone."""
    row, rng = Row(storm="kills"), random.Random(seed)
    reference, seconds = ground.undisturbed()
    tries, sweeps, caught, targets = tries or (50 if short else 200), 0, Counter(), Counter()
    while row.tries < tries:
        out = ground.folder / f"killed-{sweeps}"
        sweeps += 1
        process, before = ground.start(out), {}
        while row.tries < tries:
            time.sleep(rng.uniform(0.3, max(4.0, seconds / 2)))
            alive, target = tree(process.pid), rng.choice(TARGETS)
            if not alive:
                status = process.wait()
                if status == 0:
                    break
                if status != 1:  # 1: two of its runs' workers were killed, as it says
                    row.note(f"kill {row.tries}", Found(wrong=[f"status {status}: {ground.last_words(process)}"]))
                process = ground.start(out)
                continue
            victims = {"everything": alive, "the supervisor": alive[:1]}.get(target, [rng.choice(alive[1:] or alive)])
            at = phases(out, victims) or phases(out, alive[1:]) or ["start or close"]
            kill(victims)
            if process.pid in victims:
                process.wait()
            caught.update(at)
            targets[target] += 1
            now = _recorded(out, reference)
            row.judge(f"kill {row.tries} ({target}, {' and '.join(at)}, sweep {sweeps})", _changed(before, now))
            before = now
            if process.pid in victims:
                process = ground.start(out)
        ended(process)
        row.note(f"sweep {sweeps}, at its end", ground.completed(out))
    row.said = {"sweeps finished": sweeps, "caught in": dict(caught), "of": dict(targets)}
    return row


def _recorded(out: Path, reference: Results) -> dict[str, tuple[int, bool]]:
    """Of every recorded run: the file its record is in, and whether it says what it should."""
    ledger, found = Ledger(out), {}
    for run_id, result in Results.of(out).records.items():
        file = ledger.run_folder(run_id) / "record.json"
        found[run_id] = (file.stat().st_ino, result == reference.records[run_id])
    return found


def _changed(before: dict[str, tuple[int, bool]], now: dict[str, tuple[int, bool]]) -> Found:
    return Found(
        lost=[f"the record of run {run_id} is gone" for run_id in before if run_id not in now],
        twice=[f"run {i} has another record" for i, (file, _) in before.items() if i in now and now[i][0] != file],
        silent=[f"run {run_id}: another result" for run_id, (_, right) in now.items() if not right],
    )
