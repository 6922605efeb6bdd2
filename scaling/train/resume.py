"""Where a run goes on from, and its state there."""

from collections.abc import Collection, Sequence
from typing import Any

import jax

from scaling.record import Ledger
from scaling.spec import RunSpec
from scaling.train.bucket import checkpoints_of
from scaling.train.checkpoint import Checkpoints
from scaling.train.failures import TrunkLost, Unsound
from scaling.train.program import Program
from scaling.train.step import TrainState


def start(run: RunSpec, branch_steps: Collection[int], ledger: Ledger) -> int:
    """The optimizer step that a run goes on from: that of its newest checkpoint which its curve reaches, else the one
    at which it leaves its trunk."""
    begun = run.branch.step if run.branch else 0
    own = ledger.checkpoint_steps(run.id)
    # A trunk may be trained again for a step at which an earlier plan did not leave it: go back before that step. Its
    # curve is cut back then, and checkpoints further on count again when it gets there.
    logged = {line["step"] for line in ledger.curve_lines(run.id)}
    missing = set(branch_steps) - own
    reached = [step for step in own if step in logged and (not missing or step < min(missing))]
    return max(reached, default=begun)


def restored(
    runs: Sequence[RunSpec], step: int, ledger: Ledger, compiled: Program, own: Sequence[Checkpoints]
) -> tuple[TrainState, list[list[str]]]:
    """The state of these runs at `step`, and for each of them the notes that it comes with.

    Raises `Unsound` where the checkpoint of one is not what was saved, `TrunkLost` where its trunk's is not or is gone.
    """
    states, notes = [], []
    for run, checkpoints in zip(runs, own, strict=True):
        state, said = compiled.initial(jax.random.key(run.seed)), []
        if step in checkpoints.steps():
            state, said = checkpoints.restore(step, state), checkpoints.notes(step)
        elif run.branch:
            state = _of_trunk(run, ledger, state, checkpoints)
        states.append(state)
        notes.append(said)
    return compiled.put(states), notes


def _of_trunk(run: RunSpec, ledger: Ledger, like: TrainState, own: Checkpoints) -> TrainState:
    assert run.branch
    trunk, step = run.branch.trunk, run.branch.step
    try:
        with checkpoints_of(ledger.run_folder(trunk), own.fence) as checkpoints:
            return checkpoints.restore(step, like)
    except KeyError as error:
        reason = error.args[0]
    except Unsound as error:
        reason = str(error)
    raise TrunkLost(
        f"run {run.id} leaves its trunk {trunk} at step {step}: {reason}; the trunk has to be trained again", trunk
    )


def trunk_rows(run: RunSpec, ledger: Ledger) -> list[dict[str, Any]]:
    """The curve of a branch before it left its trunk. Raises `TrunkLost` where the trunk's curve does not reach that
    step, as while it is trained again."""
    if run.branch is None:
        return []
    trunk, step = run.branch.trunk, run.branch.step
    rows = ledger.curve(trunk)
    if not rows or rows[-1]["step"] + rows[0]["step"] <= step:  # the first step of a curve is the length of its rows
        raise TrunkLost(f"run {run.id} leaves its trunk {trunk} at step {step}, which its curve does not reach", trunk)
    return [row for row in rows if row["step"] <= step]


def lost_with_its_trunk(run: RunSpec, ledger: Ledger) -> str:
    """Why a branch cannot be trained, where its trunk diverged before the step it leaves at; else empty."""
    assert run.branch
    if run.branch.trunk not in ledger or (trunk := ledger[run.branch.trunk]).status == "finished":
        return ""
    diverged_at = trunk.tokens // trunk.run.batch_tokens
    return "" if run.branch.step < diverged_at else f"its trunk {trunk.run.id} diverged before step {run.branch.step}"
