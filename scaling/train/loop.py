"""Drive runs from their specs to their records: one, or a population of one shape in one program."""

import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.cost import flops_per_token
from scaling.record import Clock, Ledger, RunRecord
from scaling.spec import RunSpec, alike, compiled_in
from scaling.train import host, team
from scaling.train.bucket import checkpoints_of, disk_for
from scaling.train.checkpoint import NEWEST
from scaling.train.curve import Curve, noise_scale, probed, spikes
from scaling.train.evaluate import Loss, evaluate
from scaling.train.failures import (
    Interrupted,
    OutOfMemory,
    Unsound,
    out_of_memory,
    require_room,
    telling_a_full_disk,
)
from scaling.train.optim import Knobs, blends, learning_rates, measured
from scaling.train.peak import peak
from scaling.train.placement import How, Placement
from scaling.train.program import Program, finer, join, join_chunks, part, program, roomy, state_bytes
from scaling.train.resume import lost_with_its_trunk, restored, start, trunk_rows
from scaling.train.step import Chunk, PyTree, TrainState
from scaling.train.windows import Batches, padded

CHECKPOINT_SECONDS = 60.0  # work that a killed run may lose
OTHER_BYTES = 1 << 20  # that a run puts down beside its weights


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the caller sees and says while a run trains."""

    progress: Callable[[dict[str, Any]], None] = lambda event: None  # JSON values: what is done, and how far
    stop: Callable[[], bool] = lambda: False  # asked between compiled calls; true: save and raise `Interrupted`
    # Called before anything on disk is replaced or deleted. Where it raises, nothing more is written.
    fence: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the runs of one call have in common."""

    ledger: Ledger
    branch_steps: frozenset[int]
    machine: Mapping[str, str]
    watch: Watch
    placement: Placement | How
    notes: dict[str, list[str]] = field(default_factory=dict)  # by run


def train(
    run: RunSpec,
    *,
    results: Path,
    branch_steps: Collection[int] = (),
    machine: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    placement: Placement | How = "auto",
) -> RunRecord:
    """Train `run` in its folder under `results` and return its record, which the caller commits.

    A trunk is a run with `branch_steps`: the steps at which it is left, kept as checkpoints; it is not evaluated.
    Goes on from the run's last sound checkpoint where there is one, else from its trunk's where it is a branch. A loss
    or a gradient that is not finite ends the run as `diverged`, with a checkpoint of the weights before that step. When
    memory runs out, the run goes on with its batch cut finer. `placement` is one, or which are tried
    (`placement.auto`); `machine` adds to what the record says of the machine.

    Raises `Interrupted` within one compiled call of `watch.stop()` turning true, `TrunkLost` where the trunk's weights
    are missing or unsound, `OutOfMemory`, `DiskFull`, the OSError of a folder that is gone, what `watch.fence` raises.
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
    placement: Placement | How = "auto",
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
    watch = watch or Watch()
    job = _Job(
        ledger=Ledger(results),
        branch_steps=frozenset(branch_steps),
        machine={**host.describe(), **(machine or {})},
        watch=replace(watch, fence=_for_good(watch.fence)),
        placement=placement,
    )
    lost = {run.id: reason for run in runs if run.branch and (reason := lost_with_its_trunk(run, job.ledger))}
    for run in runs:
        if run.id in lost:
            yield _record(run, job.machine, None, first=0, last=0, reason=lost[run.id])
    yield from _in_turn([run for run in runs if run.id not in lost], job)


def _for_good(fence: Callable[[], None]) -> Callable[[], None]:
    """A fence that, once it has raised, does so ever after."""
    fallen: list[BaseException] = []

    def check() -> None:
        if fallen:
            raise fallen[0]
        try:
            fence()
        except BaseException as error:
            fallen.append(error)
            raise

    return check


def _in_turn(runs: Sequence[RunSpec], job: _Job) -> Iterator[RunRecord]:
    """Groups of runs that go on from the same step, one group after another."""
    left, turn = [*runs], 0
    while left:
        starts = {run.id: start(run, job.branch_steps, job.ledger) for run in left}
        first = min(starts.values())
        group = [run for run in left if starts[run.id] == first]
        if turn and job.watch.stop():
            raise Interrupted(f"stopped before run {_names(group)}")
        try:
            records = _train_together(group, first, job, job.placement)
        except Unsound:
            continue  # set aside: whoever it was of now goes on from the one before
        except Exception as error:
            if not out_of_memory(error):
                raise
            if team.led():
                raise team.too_large(error) from None
            records = None
        if records is None:
            gc.collect()  # what the error held
            records = _one_by_one(group, job) if len(group) > 1 else [_cut_finer(group[0], job)]
        yield from records
        left, turn = [run for run in left if run not in group], turn + 1


def _one_by_one(runs: Sequence[RunSpec], job: _Job) -> Iterator[RunRecord]:
    """What did not fit together."""
    for run in runs:
        _note(job, run, f"memory ran out in a population of {len(runs)}, so it was trained alone")
        yield from _in_turn([run], job)


def _cut_finer(run: RunSpec, job: _Job) -> RunRecord:
    """Of a run whose step ran out of memory: from its last checkpoint on with a batch in more parts."""
    tried, reason = _placed(run, 1, job.placement), ""
    for placement in finer(run, tried):
        first = start(run, job.branch_steps, job.ledger)
        _note(job, run, f"memory ran out, so it went on from step {first} with {_cuts(placement)}")
        while True:
            try:
                (record,) = _train_together([run], first, job, placement)
                return record
            except Unsound:
                first = start(run, job.branch_steps, job.ledger)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                reason, tried = str(error).partition("\n")[0], placement
                break
        gc.collect()
    raise OutOfMemory(
        f"run {run.id} does not fit the memory, not even with {_cuts(tried)} ({reason}); give it a larger device, or "
        "more of them"
    )


def _cuts(placement: Placement) -> str:
    again = {"none": "", "dots": " and rematerialisation (dots)", "blocks": " and rematerialisation (blocks)"}
    return f"{placement.microbatches} microbatches{again[placement.remat]}"


def _placed(run: RunSpec, members: int, placement: Placement | How) -> Placement:
    return placement.of(members) if isinstance(placement, Placement) else roomy(run, members, placement)


def _note(job: _Job, run: RunSpec, note: str) -> None:
    job.notes.setdefault(run.id, []).append(note)


def _names(runs: Sequence[RunSpec]) -> str:
    return ", ".join(run.id for run in runs)


def forget_weights(run: RunSpec, results: Path) -> None:
    """Delete the checkpoints of a run that is recorded and that nothing branches from."""
    with checkpoints_of(Ledger(results).run_folder(run.id)) as checkpoints:
        checkpoints.drop(*checkpoints.steps())


def _train_together(runs: Sequence[RunSpec], first: int, job: _Job, placement: Placement | How) -> list[RunRecord]:
    """Records of runs that go on from step `first`, in one program."""
    base, ledger, watch, members = runs[0], job.ledger, job.watch, len(runs)
    clock = dict.fromkeys(("compile", "train", "evaluate", "checkpoint"), 0.0)
    sources = [data.open_source(run.data, run.model) for run in runs]
    team.open_everywhere(base)
    shape, losses, averaged = compiled_in(base.optim), [None] * members, [None] * members
    with ExitStack() as stack:
        disk, keeps = disk_for(ledger.folder)
        stack.enter_context(telling_a_full_disk(disk))
        folders = [ledger.begin(run) for run in runs]
        copies = sum(NEWEST + 1 + len(job.branch_steps - ledger.checkpoint_steps(run.id)) for run in runs)
        require_room(disk, (copies if keeps else 1) * state_bytes(base.model, shape) + members * OTHER_BYTES)
        watch.progress({"phase": "compile"})
        clock["compile"] -= time.monotonic()
        placement = _placed(base, members, placement)
        compiled = program(base.model, shape, base.batch, base.eval.tokens, placement, members=members)
        clock["compile"] += time.monotonic()
        if watch.stop():
            raise Interrupted(f"run {_names(runs)} stopped at step {first} of {base.steps}")
        clock["checkpoint"] -= time.monotonic()
        own = [stack.enter_context(checkpoints_of(folder, watch.fence)) for folder in folders]
        for checkpoints in own:
            checkpoints.open()
        state, notes = restored(runs, first, ledger, compiled, own)
        for run, said in zip(runs, notes, strict=True):
            said += [note for note in job.notes.get(run.id, ()) if note not in said]
        curves = [
            stack.enter_context(
                Curve(
                    folder / "metrics.jsonl",
                    run,
                    ledger.curve_lines(run.id),
                    resumed_at=first,
                    kept=job.branch_steps,
                    fence=watch.fence,
                )
            )
            for folder, run in zip(folders, runs, strict=True)
        ]
        clock["checkpoint"] += time.monotonic()

        def save(member: int, step: int, state: TrainState) -> None:
            own[member].save(step, part(state, member, members), keep=job.branch_steps, notes=notes[member])

        clock["train"] -= time.monotonic()
        state = _advance(runs, first, state, sources, compiled, save, job.branch_steps, curves, watch)
        clock["train"] += time.monotonic()
        saving = sum(checkpoints.saving for checkpoints in own)
        clock["train"], clock["checkpoint"] = clock["train"] - saving, clock["checkpoint"] + saving

        clock["evaluate"] -= time.monotonic()
        sound = [member for member, curve in enumerate(curves) if curve.diverged_at is None]
        if job.branch_steps:
            for member in sound:
                own[member].drop(*(step for step in own[member].steps() if step not in job.branch_steps))
        elif sound:

            def between(done: int, of: int) -> None:
                if done and watch.stop():
                    for member in sound:
                        save(member, base.steps, state)
                    raise Interrupted(f"run {_names(runs)} stopped in its evaluation")
                watch.progress({"phase": "evaluate", "done": done, "of": of})

            weights = [_measured(runs, state), *([state.average] if base.optim.average else [])]
            losses, *rest = evaluate(base, weights, compiled, between)
            averaged = rest[0] if rest else averaged
            for member in sound:
                if not math.isfinite(losses[member].mean):
                    save(member, base.steps, state)
        clock["evaluate"] += time.monotonic()
        for said, checkpoints in zip(notes, own, strict=True):
            said += checkpoints.set_aside()
    share = {phase: seconds / members for phase, seconds in clock.items()}
    where = {**job.machine, "mesh": str(placement)}
    return [
        _record(
            run, where, share, first=first, last=curve.diverged_at or run.steps, members=members,
            loss=loss, averaged=average, reason=_why_diverged(curve, loss),
            noise_tokens=noise_scale([*trunk_rows(run, ledger), *curve.rows], run),
            spikes=spikes(curve.rows, run), notes=said,
        )
        for run, curve, loss, average, said in zip(runs, curves, losses, averaged, notes, strict=True)
    ]  # fmt: skip


def _why_diverged(curve: Curve, loss: Loss | None) -> str:
    """Empty where the run is sound."""
    if curve.diverged_at is not None:
        return (
            f"the training loss or its gradient was not finite at step {curve.diverged_at}; the last row before: "
            f"{curve.loss:.4f}; the weights before that step are kept"
        )
    lost = loss is not None and not math.isfinite(loss.mean)
    return "the held-out loss was not finite; the weights are kept" if lost else ""


def _advance(
    runs: Sequence[RunSpec],
    first: int,
    state: TrainState,
    sources: Sequence[data.Source],
    compiled: Program,
    save: Callable[[int, int, TrainState], None],  # member, step, the state of all
    kept: Collection[int],
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
                    save(member, curve.diverged_at - 1, state)

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
                    save(member, step, state)
                saved_at = time.monotonic()
            if stopping and step < steps and going():
                raise Interrupted(f"run {_names(runs)} stopped at step {step} of {steps}")
        watch.progress(_progress(runs, step, curves, step - first, time.monotonic() - began))
    return state


def _chunk(run: RunSpec, source: data.Source, start: int, end: int, length: int) -> Chunk:
    """Optimizer steps start .. end, padded to the one length that a call has."""
    count = end - start
    windows = Batches(run=run, source=source, start=start, count=count, length=length)
    return Chunk(
        window_KxBxM=windows if team.led() else windows.whole(),
        lr_K=padded(learning_rates(run, start, count), length),
        blend_K=padded(blends(run, start, count), length),
        probed_K=padded(probed(start, count), length),
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


def _measured(runs: Sequence[RunSpec], state: TrainState) -> PyTree:
    """The weights of every member that its loss is measured on."""
    if runs[0].optim.name != "schedule_free":
        return state.params
    members = [part(state, member, len(runs)) for member in range(len(runs))]
    team.tell("measured")
    found = [measured(run.optim, of.params, of.opt_state) for run, of in zip(runs, members, strict=True)]
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), join(found), state.params)


def _record(
    run: RunSpec,
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
    notes: Sequence[str] = (),
) -> RunRecord:
    sound = loss if not reason else None
    seen = replace(run, steps=last)
    source, evaluated = data.open_source(run.data, run.model), data.open_evaluated(run)
    bits = sound.mean / math.log(2) if sound else None
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
        bits_per_byte=bits / evaluated.bytes_per_token if bits is not None and evaluated.bytes_per_token else None,
        entropy=evaluated.entropy,
        clock=clock,
        data=data.provenance(run),
        machine=machine,
        averaged_loss=_finite(averaged.mean) if averaged and not reason else None,
        averaged_loss_se=_finite(averaged.standard_error) if averaged and not reason else None,
        noise_tokens=noise_tokens,
        spikes=spikes,
        notes=tuple(notes),
    )


def _finite(value: float) -> float | None:
    """A number that a record can hold."""
    return value if math.isfinite(value) else None
