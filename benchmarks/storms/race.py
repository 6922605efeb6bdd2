"""Many participants in one results folder, some of them killed or frozen: every run is finished exactly once."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from scaling.record import Ledger
from scaling.record.claims import Observer, Sighting, standing

from .ground import OFTEN, Found, Ground, Row, compare, ended, kill, tree, verified, wait_for

RUNS = 40
LEASE = 6.0  # seconds; a minute as shipped
CONSTANTS = OFTEN | {"scaling.record.claims.LEASE_SECONDS": LEASE, "scaling.record.claims.BEAT_SECONDS": 0.5}

STUDY = f"""
from scaling.plan import Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=5e-3), data=DataSpec(source="zipf-facts"),
               eval=EvalSpec(tokens=6600), batch=8, steps=1)
STUDY = Study(name="race", question="Who is first?",
              plan=repeated(straight(BASE, [MODEL], [4e4], group="runs", role="compare"), seeds=range({RUNS})))
"""


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """`scaling run` and several `scaling work` on 40 short runs, each with one worker. Three are killed, supervisor and
    worker or the supervisor alone, and one is stopped for longer than its lease and then goes on as if nothing was."""
    row, rng = Row(storm="claim race"), random.Random(seed)
    ours = Ground(ground.folder / "race", STUDY, CONSTANTS, cache=ground.cache)
    reference, _ = ours.undisturbed()
    taken: list[float] = []
    for turn in range(1 if short else 5):
        out = ours.folder / f"raced-{turn}"
        with _on_one_core(0):
            processes = [ours.start(out, "--workers", "1")]
        wait_for((out / "study.json").exists, 60)
        for number in range(1, 5 if short else 8):
            with _on_one_core(number):
                processes.append(ours.command(out, "work", str(out), "--workers", "1", "--linger"))
        victims = rng.sample(processes, 4)
        for process in victims[1:]:
            at_work = _at_work(out, process.pid)
            alive = tree(process.pid)
            kill(alive if rng.random() < 0.7 else alive[:1])
            process.wait()
            taken.append(_taken_over(out, at_work))
        frozen = _at_work(out, victims[0].pid)
        everything = tree(victims[0].pid)
        kill(everything, signal.SIGSTOP)
        taken.append(_taken_over(out, frozen))
        time.sleep(1.0)
        kill(everything, signal.SIGCONT)
        others = [process for process in processes if process not in victims[1:]]
        row.tries += RUNS
        wrong = [
            f"{'the frozen participant' if process is victims[0] else 'one that was left alone'} ended with status "
            f"{status}: {ours.last_words(process)}"
            for process in others
            if (status := ended(process))
        ]
        late = [seconds for seconds in taken[-len(victims) :] if seconds > 2 * LEASE]
        wrong += [f"a run was taken over after {seconds:.1f} s, the lease is {LEASE:.0f}" for seconds in late]
        row.note(f"race {turn}", compare(out, reference) + verified(out) + Found(wrong=wrong))
    row.said = {"participants": 5 if short else 8, "slowest takeover": f"{max(taken):.1f} s, lease {LEASE:.0f} s"}
    return row


@contextlib.contextmanager
def _on_one_core(number: int) -> Iterator[None]:
    """What starts here sees one core. A worker without a second beside it takes all that it sees, and sums in an order
    of its own."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _at_work(out: Path, pid: int) -> Sighting | None:
    """A participant with a run in its hands, as it says; None where it ends without any."""
    found: list[Sighting] = []

    def look() -> bool:
        observer = Observer(out)
        said = [one for name in observer.names() if (one := observer.sighting(name)) and one.pid == pid]
        found[:] = [one for one in said if one.runs]
        return bool(found) or not tree(pid)

    wait_for(look, 60)
    return found[0] if found else None


def _taken_over(out: Path, dead: Sighting | None) -> float:
    """Seconds until the run that was in its hands is in others', or recorded."""
    began = time.monotonic()
    for run_id in dead.runs if dead else ():

        def over(run_id: str = run_id, name: str = dead.name if dead else "") -> bool:
            claim = standing(out, run_id)
            return run_id in Ledger(out) or (claim is not None and claim.holder != name)

        wait_for(over, 5 * LEASE)
    return time.monotonic() - began
