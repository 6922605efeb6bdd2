"""SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in every phase of a sweep: it saves, and leaves with status 75 in time."""

import itertools
import random
import signal
import time
from collections import Counter
from pathlib import Path

from scaling.record import Ledger

from .ground import Found, Ground, Row, ended, kill, phases, tree, wait_for

LIMIT_SECONDS = 15.0  # what a cluster in a hurry leaves
AT_ONCE_SECONDS = 1.0  # for the second one
INTERRUPTED = 75
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PHASES = ("start", "compile", "train", "save", "evaluate", "close", "any")


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """Every signal in every phase, to the supervisor or, as SLURM does it, to all processes; then SIGTERM twice."""
    row, rng = Row(storm="signals"), random.Random(seed)
    ground.undisturbed()
    caught, took, again = Counter(), [], []
    moments = list(itertools.product(NUMBERS, PHASES)) * (1 if short else 3)
    rng.shuffle(moments)
    moments += [(None, phase) for phase in PHASES for _ in range(1 if short else 3)]
    out, sweeps = ground.folder / "signalled-0", 0
    for turn, (number, phase) in enumerate(moments):
        cold = {"XDG_CACHE_HOME": str(ground.folder / f"cold-{turn}")} if phase == "compile" else {}
        process = ground.start(out, environment=ground.environment(out) | cold)
        _reach(phase, process, out, rng)
        alive, everything = tree(process.pid), rng.random() < 0.4
        at = phases(out, alive) or ["close" if ground.last_words(process) else "start"]
        sent = time.monotonic()
        kill(alive if everything else alive[:1], number or signal.SIGTERM)
        if number is None:
            time.sleep(0.2)
            sent = time.monotonic()
            kill(tree(process.pid)[:1], signal.SIGTERM)
        status = ended(process, 60)
        seconds = time.monotonic() - sent
        if alive:
            caught.update(at)
            (took if number else again).append(seconds)
            name = f"{number.name}{' to all' if everything else ''}" if number else "SIGTERM twice"
            what = f"{name} in {' and '.join(at)}"
            row.judge(what, _left(out, status, seconds, number is None, ground.last_words(process)))
        if status == 0:
            row.note(f"sweep {sweeps}, at its end", ground.completed(out))
            sweeps += 1
            out = ground.folder / f"signalled-{sweeps}"
    row.note(f"sweep {sweeps}, at its end", ground.completed(out))
    row.said = {
        "sweeps finished": sweeps + 1, "caught in": dict(caught), "slowest exit": f"{max(took):.1f} s",
        "slowest after the second": f"{max(again):.1f} s",
    }  # fmt: skip
    return row


def _recorded(out: Path) -> bool:
    return any(out.glob("runs/*/record.json"))


def _reach(phase: str, process, out: Path, rng: random.Random) -> None:
    """Wait until the sweep is in this phase; not for ever, since what is left of it may never be."""

    def there() -> bool:
        alive = tree(process.pid)
        at = phases(out, alive[1:])
        if phase == "close":
            return not alive[1:] and _recorded(out) and (out / "runs.csv").exists()
        return not alive or phase in at

    if phase == "start":
        time.sleep(rng.uniform(0.05, 2.0))
    elif phase == "any":
        time.sleep(rng.uniform(0.5, 8.0))
    else:
        wait_for(lambda: process.poll() is not None or bool(phases(out, tree(process.pid)[1:])), 60)
        time.sleep(rng.uniform(0.0, 1.0) if phase == "train" else 0.0)
        wait_for(there, 6 if phase != "close" else 30)


def _left(out: Path, status: int, seconds: float, twice: bool, said: str) -> Found:
    """What is wrong with how it ended. Before it says a word, the signal may end Python as it does any program."""
    wrong = []
    if status not in (INTERRUPTED, 0) and not (status < 0 and (twice or not said)):
        wrong.append(f"it ended with status {status}: {said}")
    if (limit := AT_ONCE_SECONDS if twice else LIMIT_SECONDS) < seconds:
        wrong.append(f"it took {seconds:.1f} s to end, and {limit:.0f} are allowed")
    lost = [] if twice or status != INTERRUPTED else _unsaved(out)
    return Found(lost=lost, wrong=wrong)


def _unsaved(out: Path) -> list[str]:
    """Runs under way whose curve is ahead of their newest checkpoint."""
    ledger, lines = Ledger(out), []
    for folder in out.glob("runs/*"):
        if folder.name in ledger:
            continue
        logged = max((row["step"] for row in ledger.curve_lines(folder.name)), default=0)
        saved = max(ledger.checkpoint_steps(folder.name), default=0)
        if logged > saved and saved:
            lines.append(f"run {folder.name}: at step {logged}, saved at {saved}")
    return lines
