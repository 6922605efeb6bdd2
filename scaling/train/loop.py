"""Drive runs from their specs to their records: one, or a population of one shape in one program."""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.cost import flops_per_token
from scaling.record import Clock, Ledger, RunRecord
from scaling.spec import RunSpec, alike, compiled_in
from scaling.train import host
from scaling.train.checkpoint import Checkpoints
from scaling.train.curve import Curve, noise_scale, probed, spikes
from scaling.train.evaluate import Loss, loss_of
from scaling.train.optim import Knobs, blends, learning_rates, measured
from scaling.train.peak import peak
from scaling.train.placement import Placement
from scaling.train.program import Program, join, join_chunks, part, program, roomy
from scaling.train.step import Chunk, PyTree, TrainState

CHECKPOINT_SECONDS = 60.0  # work that a killed run may lose


class Interrupted(Exception):
    """Training was asked to stop; what was done is saved, and the same call goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the caller sees and says while a run trains."""

    progress: Callable[[dict[str, Any]], None] = lambda event: None
    stop: Callable[[], bool] = lambda: False


def train(
    run: RunSpec,
    *,
    results: Path,
    branch_steps: Collection[int] = (),
    machine: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    placement: Placement | None = None,
) -> RunRecord:
    """Train `run` in its folder under `results` and return its record, which the caller commits.

    A trunk is a run with `branch_steps`: the steps at which it is left, kept as checkpoints; it is not evaluated.
    Goes on from the run's last checkpoint where there is one, else from its trunk's where it is a branch. A loss or a
    gradient that is not finite ends the run as `diverged`, with a checkpoint of the weights before that step.
    `placement` is by default `program.roomy`; `machine` adds to what the record says of the machine. Raises
    `Interrupted` within one chunk of `watch.stop()` turning true, and KeyError when the trunk was not trained.
    """
    (record,) = train_population(
        [run], results=results, branch_steps=branch_steps, machine=machine, watch=watch, placement=placement
    )
    return record


def train_population(
    runs: Sequence[RunSpec],
    *,
    results: Path,
    branch_steps: Collection[int] = (),
    machine: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    placement: Placement | None = None,
) -> Iterator[RunRecord]:
    """`train`, of several runs in one program: the same steps of the same shape side by side, each with its own folder.

    The runs may differ in seeds, learning rates and the optimizer's other numbers (`spec.alike`). Every one of them can
    be stopped and gone on with alone or among others; its losses are those of the run trained alone up to the rounding
    of sums in another order, 1e-5 relative over 150 steps (docs/training.md). `placement.member` deals them out over
    devices. Runs that go on from different steps go on one group after another; records come as they are made.
    """
    if len({alike(run) for run in runs}) != 1:
        raise ValueError(
            "a population is of one shape: its runs may differ in seeds and in the optimizer's numbers alone"
        )
    ledger, watch, machine = Ledger(results), watch or Watch(), {**host.describe(), **(machine or {})}
    source = data.open_source(runs[0].data, runs[0].model)
    lost = {run.id: reason for run in runs if run.branch and (reason := _lost_with_its_trunk(run, ledger))}
    for run in runs:
        if run.id in lost:
            yield _record(run, source, machine, None, first=0, last=0, reason=lost[run.id])
    left = sorted((run for run in runs if run.id not in lost), key=lambda run: _start(run, branch_steps, ledger))
    groups = [[*group] for _, group in itertools.groupby(left, key=lambda run: _start(run, branch_steps, ledger))]
    for turn, group in enumerate(groups):
        if turn and watch.stop():
            raise Interrupted(f"stopped before run {', '.join(run.id for run in group)}")
        yield from _train_together(group, ledger, branch_steps, machine, watch, placement)


def forget_weights(run: RunSpec, results: Path) -> None:
    """Delete the checkpoints of a run that is recorded and that nothing branches from."""
    with Checkpoints(Ledger(results).run_folder(run.id) / "checkpoints") as checkpoints:
        checkpoints.drop(*checkpoints.steps())


def _train_together(
    runs: list[RunSpec],
    ledger: Ledger,
    branch_steps: Collection[int],
    machine: Mapping[str, str],
    watch: Watch,
    placement: Placement | None,
) -> list[RunRecord]:
    """Records of runs that go on from the same step."""
    base, clock = runs[0], dict.fromkeys(("compile", "train", "evaluate", "checkpoint"), 0.0)
    sources = [data.open_source(run.data, run.model) for run in runs]
    watch.progress({"phase": "compile"})
    clock["compile"] -= time.monotonic()
    placement = placement or roomy(base, len(runs))
    compiled = program(base.model, compiled_in(base.optim), base.batch, base.eval, placement, members=len(runs))
    clock["compile"] += time.monotonic()
    folders = [ledger.begin(run) for run in runs]
    clock["checkpoint"] -= time.monotonic()
    with ExitStack() as stack:
        own = [stack.enter_context(Checkpoints(folder / "checkpoints")) for folder in folders]
        first, state = _restored(runs, branch_steps, ledger, compiled, own)
        curves = [
            stack.enter_context(Curve(folder / "metrics.jsonl", run, ledger.curve_lines(run.id), resumed_at=first))
            for folder, run in zip(folders, runs, strict=True)
        ]
        clock["checkpoint"] += time.monotonic()
        clock["train"] -= time.monotonic()
        state = _advance(runs, first, state, sources, compiled, own, {*branch_steps}, curves, watch)
        clock["train"] += time.monotonic()
        saving = sum(checkpoints.saving for checkpoints in own)
        clock["train"], clock["checkpoint"] = clock["train"] - saving, clock["checkpoint"] + saving

    clock["evaluate"] -= time.monotonic()
    losses: list[Loss | None] = [None] * len(runs)
    averaged = list(losses)
    if not branch_steps and not all(curve.diverged_at is not None for curve in curves):
        watch.progress({"phase": "evaluate"})
        losses = [*_evaluate(base, sources[0], _measured(runs, state), compiled)]
        if base.optim.average:
            averaged = [*_evaluate(base, sources[0], state.average, compiled)]
    clock["evaluate"] += time.monotonic()
    share = {phase: seconds / len(runs) for phase, seconds in clock.items()}
    return [
        _record(
            run, source, machine, share, first=first, last=curve.diverged_at or run.steps, members=len(runs),
            loss=loss, averaged=average, reason=_why_diverged(curve, loss),
            noise_tokens=noise_scale([*_trunk_rows(run, ledger), *curve.rows], run),
            spikes=spikes(curve.rows, run),
        )
        for run, source, curve, loss, average in zip(runs, sources, curves, losses, averaged, strict=True)
    ]  # fmt: skip


def _trunk_rows(run: RunSpec, ledger: Ledger) -> list[dict[str, Any]]:
    """The curve of a branch before it left its trunk."""
    rows = ledger.curve(run.branch.trunk) if run.branch else []
    return [row for row in rows if run.branch and row["step"] <= run.branch.step]


def _why_diverged(curve: Curve, loss: Loss | None) -> str:
    """Empty where the run is sound."""
    if curve.diverged_at is not None:
        return (
            f"the training loss or its gradient was not finite at step {curve.diverged_at}; the last row before: "
            f"{curve.loss:.4f}; the weights before that step are kept"
        )
    return "the held-out loss was not finite" if loss and not math.isfinite(loss.mean) else ""


def _advance(
    runs: Sequence[RunSpec],
    first: int,
    state: TrainState,
    sources: Sequence[data.Source],
    compiled: Program,
    checkpoints: Sequence[Checkpoints],
    kept: set[int],
    curves: Sequence[Curve],
    watch: Watch,
) -> TrainState:
    """Train from step `first` to the end, or until no loss is finite; checkpoints at the steps in `kept`."""
    knobs, finite = join([Knobs.of(run.optim) for run in runs]), join([np.array(True)] * len(runs))
    step, steps, began, in_flight = first, runs[0].steps, time.monotonic(), None
    saved_at = began

    def log(start: int, end: int, metrics: Any) -> None:
        """Of members that have not diverged; saves the weights of those that do."""
        for member, curve in enumerate(curves):
            if curve.diverged_at is None:
                curve.add(start, end, part(metrics, member, len(runs)))
                if curve.diverged_at is not None:  # no later step has changed it
                    checkpoints[member].save(curve.diverged_at - 1, part(state, member, len(runs)), keep=kept)

    def going() -> list[int]:
        return [member for member, curve in enumerate(curves) if curve.diverged_at is None]

    while step < steps and going():
        end = min(s for s in (*kept, steps, step - step % compiled.chunk + compiled.chunk) if s > step)
        chunks = [_chunk(run, source, step, end, compiled.chunk) for run, source in zip(runs, sources, strict=True)]
        state, finite, metrics = compiled.steps(state, finite, join_chunks(chunks), knobs)
        if in_flight:  # logged while the device is already busy with the next steps
            log(*in_flight)
        in_flight, step = (step, end, metrics), end
        stopping = watch.stop()
        due = time.monotonic() - saved_at > CHECKPOINT_SECONDS
        if step in kept or stopping or due or step == steps:
            log(*in_flight)
            in_flight = None
            if step in kept or step < steps or stopping:  # a stop may end this process while it evaluates
                for member in going():
                    curves[member].mark(step)
                    checkpoints[member].save(step, part(state, member, len(runs)), keep=kept)
                saved_at = time.monotonic()
            if stopping and step < steps and going():
                raise Interrupted(f"run {', '.join(run.id for run in runs)} stopped at step {step} of {steps}")
        watch.progress(_progress(runs, step, curves, step - first, time.monotonic() - began))
    return state


def _chunk(run: RunSpec, source: data.Source, start: int, end: int, length: int) -> Chunk:
    """Optimizer steps start .. end, padded to the one length that a call has."""
    count = end - start
    return Chunk(
        window_KxBxM=_padded(data.batches(source, run, start, count), length),
        lr_K=_padded(learning_rates(run, start, count), length),
        blend_K=_padded(blends(run, start, count), length),
        probed_K=_padded(probed(start, count), length),
        count=np.int32(count),
    )


def _progress(runs: Sequence[RunSpec], step: int, curves: Sequence[Curve], done: int, seconds: float) -> dict[str, Any]:
    rate = len(runs) * done * runs[0].batch_tokens / max(seconds, 1e-9)
    losses = [curve.loss for curve in curves if curve.diverged_at is None and math.isfinite(curve.loss)]
    return {
        "phase": "train",
        "step": step,
        "loss": min(losses, default=None),
        "tokens_per_second": rate,
        "flops_per_second": rate * flops_per_token(runs[0].model, "exact"),
    }


def _start(run: RunSpec, branch_steps: Collection[int], ledger: Ledger) -> int:
    """The optimizer step that a run goes on from."""
    own = ledger.checkpoint_steps(run.id)
    # A trunk may be trained again for a step at which an earlier plan did not leave it: go back before that step.
    missing = set(branch_steps) - own
    reached = [step for step in own if not missing or step < min(missing)]
    return max(reached, default=run.branch.step if run.branch else 0)


def _restored(
    runs: Sequence[RunSpec],
    branch_steps: Collection[int],
    ledger: Ledger,
    compiled: Program,
    own: Sequence[Checkpoints],
) -> tuple[int, TrainState]:
    """The step that these runs go on from, and their state there."""
    step, states = _start(runs[0], branch_steps, ledger), []
    for run, checkpoints in zip(runs, own, strict=True):
        state = compiled.initial(jax.random.key(run.seed))
        if step in checkpoints.steps():
            state = checkpoints.restore(step, state)
        elif run.branch:
            with Checkpoints(ledger.run_folder(run.branch.trunk) / "checkpoints") as trunk:
                state = trunk.restore(step, state)
        states.append(state)
    return step, jax.device_put(join(states), compiled.layout)


def _lost_with_its_trunk(run: RunSpec, ledger: Ledger) -> str:
    """Why a branch cannot be trained, where its trunk diverged before the step it leaves at; else empty."""
    assert run.branch
    if run.branch.trunk not in ledger or ledger[run.branch.trunk].status == "finished":
        return ""
    reached = run.branch.step in ledger.checkpoint_steps(run.branch.trunk)
    return "" if reached else f"its trunk {run.branch.trunk} diverged before step {run.branch.step}"


def _measured(runs: Sequence[RunSpec], state: TrainState) -> PyTree:
    """The weights of every member that its loss is measured on."""
    if runs[0].optim.name != "schedule_free":
        return state.params
    members = [part(state, member, len(runs)) for member in range(len(runs))]
    found = [measured(run.optim, of.params, of.opt_state) for run, of in zip(runs, members, strict=True)]
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), join(found), state.params)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """`rows` with zeros behind them up to `length`: a compiled call has one shape."""
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])


def _evaluate(run: RunSpec, source: data.Source, params: PyTree, compiled: Program) -> list[Loss]:
    """Of every member, on the same windows."""
    held_out = data.held_out(source, run.eval.tokens, run.model.context)
    calls, per_call, length = compiled.eval_shape
    window_CxBxM = _padded(held_out.token_RxT, calls * per_call).reshape(calls, per_call, length)
    loss_PxR = np.asarray(compiled.losses(params, window_CxBxM)).reshape(compiled.members, -1)
    return [loss_of(loss_R[: len(held_out.token_RxT)], held_out, source.entropy) for loss_R in loss_PxR]


def _record(
    run: RunSpec,
    source: data.Source,
    machine: Mapping[str, str],
    seconds: Mapping[str, float] | None,  # by phase; None for a run that never took a step
    *,
    first: int,
    last: int,
    members: int = 1,
    loss: Loss | None = None,
    averaged: Loss | None = None,
    noise_tokens: float | None = None,
    spikes: int = 0,
    reason: str = "",
) -> RunRecord:
    sound = loss if not reason else None
    seen = replace(run, steps=last)
    clock = None
    if seconds is not None:
        rate = (last - first) * run.batch_tokens / max(seconds["train"], 1e-9)
        flops = rate * flops_per_token(run.model, "exact")
        most, from_where = peak(run.model.compute_dtype)
        clock = Clock(
            **seconds, steps=last - first, tokens_per_second=rate, flops_per_second=flops, members=members,
            mfu=flops / most, peak_flops=most, peak_source=from_where,
        )  # fmt: skip
    return RunRecord(
        run=run,
        status="diverged" if reason else "finished",
        reason=reason,
        tokens=seen.tokens,
        unique_tokens=data.unique_tokens(source, seen),
        epochs=data.epochs(source, seen),
        loss=sound.mean if sound else None,
        loss_se=_finite(sound.standard_error) if sound else None,
        bits_per_byte=sound.mean / math.log(2) / source.bytes_per_token if sound and source.bytes_per_token else None,
        entropy=source.entropy,
        clock=clock,
        data=source.provenance,
        machine=machine,
        averaged_loss=_finite(averaged.mean) if averaged and not reason else None,
        averaged_loss_se=_finite(averaged.standard_error) if averaged and not reason else None,
        noise_tokens=noise_tokens,
        spikes=spikes,
    )


def _finite(value: float) -> float | None:
    """A number that a record can hold."""
    return value if math.isfinite(value) else None
