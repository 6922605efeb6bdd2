"""Drive one run from its spec to its record."""

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from scaling import data
from scaling.cost import flops_per_token
from scaling.record import Clock, Ledger, RunRecord
from scaling.spec import EvalSpec, ModelSpec, OptimSpec, RunSpec
from scaling.train import host
from scaling.train.checkpoint import Checkpoints
from scaling.train.curve import Curve, noise_scale, probed, spikes
from scaling.train.evaluate import Loss, loss_of
from scaling.train.optim import Knobs, blends, learning_rates
from scaling.train.placement import Placement, copies, fitting, sharding
from scaling.train.step import (
    Chunk,
    PyTree,
    StepMetrics,
    TrainState,
    graph,
    init_state,
    train_steps,
    window_losses,
)

CHUNK_FLOPS = 2e10  # of one compiled call: long enough to hide its dispatch, short enough to stop within a second
MAX_CHUNK = 512  # steps
CHECKPOINT_SECONDS = 60.0  # work that a killed run may lose
EVAL_TOKENS = 8192  # of one forward pass


class Interrupted(Exception):
    """Training was asked to stop; what was done is saved, and the same call goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the caller sees and says while a run trains."""

    progress: Callable[[dict[str, Any]], None] = lambda event: None
    stop: Callable[[], bool] = lambda: False


class Program(NamedTuple):
    """Everything compiled for one shape; every run of that shape uses it."""

    initial: Callable[[jax.Array], TrainState]
    steps: Callable[..., tuple[TrainState, jax.Array, StepMetrics]]  # (state, finite, chunk, knobs)
    losses: Callable[..., jax.Array]  # (params, window_CxBxM)
    chunk: int  # K: steps that one call can hold
    eval_shape: tuple[int, int, int]  # (C, B, M)


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
    `placement` is by default `placement.copies`; `machine` adds to what the record says of the machine. Raises
    `Interrupted` within one chunk of `watch.stop()` turning true, and KeyError when the trunk was not trained.
    """
    watch = watch or Watch()
    ledger, source = Ledger(results), data.open_source(run.data, run.model)
    machine = {**host.describe(), **(machine or {})}
    clock = {"compile": -time.monotonic(), "train": 0.0, "evaluate": 0.0}
    watch.progress({"phase": "compile"})
    program = _program(run.model, _compiled_in(run.optim), run.batch, run.eval, placement or copies(run))
    clock["compile"] += time.monotonic()
    if run.branch and (reason := _lost_with_its_trunk(run, ledger)):
        return _record(run, source, machine, None, first=0, last=0, reason=reason)

    folder = ledger.begin(run)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        first, state = _start(run, branch_steps, ledger, program, checkpoints)
        with Curve(folder / "metrics.jsonl", run, ledger.curve(run.id), resumed_at=first) as curve:
            clock["train"] -= time.monotonic()
            state = _advance(run, first, state, source, program, checkpoints, {*branch_steps}, curve, watch)
            clock["train"] += time.monotonic()
    record = functools.partial(
        _record, run, source, machine, clock, first=first,
        noise_tokens=noise_scale(curve.rows, run.model.context), spikes=spikes(curve.rows),
    )  # fmt: skip
    if curve.diverged_at is not None:
        reason = (
            f"the training loss or its gradient was not finite at step {curve.diverged_at}; the last row before: "
            f"{curve.loss:.4f}; the weights before that step are kept"
        )
        return record(last=curve.diverged_at, reason=reason)
    if branch_steps:
        return record(last=run.steps)

    watch.progress({"phase": "evaluate"})
    clock["evaluate"] -= time.monotonic()
    loss = _evaluate(run, source, state.params, program)
    averaged = _evaluate(run, source, state.average, program) if run.optim.average else None
    clock["evaluate"] += time.monotonic()
    reason = "" if math.isfinite(loss.mean) else "the held-out loss was not finite"
    return record(last=run.steps, loss=loss, averaged=averaged, reason=reason)


def forget_weights(run: RunSpec, results: Path) -> None:
    """Delete the checkpoints of a run that is recorded and that nothing branches from."""
    with Checkpoints(Ledger(results).run_folder(run.id) / "checkpoints") as checkpoints:
        checkpoints.drop(*checkpoints.steps())


def _advance(
    run: RunSpec,
    first: int,
    state: TrainState,
    source: data.Source,
    program: Program,
    checkpoints: Checkpoints,
    kept: set[int],
    curve: Curve,
    watch: Watch,
) -> TrainState:
    """Train from step `first` to the end, or until the loss is not finite; checkpoints at the steps in `kept`."""
    step, knobs, began = first, Knobs.of(run.optim), time.monotonic()
    saved_at, in_flight, finite = began, None, np.array(True)
    while step < run.steps and curve.diverged_at is None:
        end = min(s for s in (*kept, run.steps, step - step % program.chunk + program.chunk) if s > step)
        state, finite, metrics = program.steps(state, finite, _chunk(run, source, step, end, program.chunk), knobs)
        if in_flight:  # logged while the device is already busy with the next steps
            curve.add(*in_flight)
        in_flight, step = (step, end, metrics), end
        stopping = watch.stop()
        due = time.monotonic() - saved_at > CHECKPOINT_SECONDS
        if curve.diverged_at is None and (step in kept or stopping or due or step == run.steps):
            curve.add(*in_flight)
            in_flight = None
            if curve.diverged_at is None and (step in kept or step < run.steps):
                checkpoints.save(step, state, keep=kept)
                saved_at = time.monotonic()
            if stopping and curve.diverged_at is None and step < run.steps:
                raise Interrupted(f"run {run.id} stopped at step {step} of {run.steps}")
        if curve.diverged_at is not None:
            checkpoints.save(curve.diverged_at - 1, state, keep=kept)  # no later step has changed it
        watch.progress(_progress(run, step, curve.loss, step - first, time.monotonic() - began))
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


def _progress(run: RunSpec, step: int, loss: float, done: int, seconds: float) -> dict[str, Any]:
    rate = done * run.batch_tokens / max(seconds, 1e-9)
    return {
        "phase": "train",
        "step": step,
        "loss": loss if math.isfinite(loss) else None,
        "tokens_per_second": rate,
        "flops_per_second": rate * flops_per_token(run.model, "exact"),
    }


def _start(
    run: RunSpec, branch_steps: Collection[int], ledger: Ledger, program: Program, own: Checkpoints
) -> tuple[int, TrainState]:
    state = program.initial(jax.random.key(run.seed))
    # A trunk may be trained again for a step at which an earlier plan did not leave it: go back before that step.
    missing = set(branch_steps) - set(own.steps())
    reached = [step for step in own.steps() if not missing or step < min(missing)]
    if reached:
        return reached[-1], own.restore(reached[-1], state)
    if run.branch is None:
        return 0, state
    with Checkpoints(ledger.run_folder(run.branch.trunk) / "checkpoints") as trunk:
        return run.branch.step, trunk.restore(run.branch.step, state)


def _lost_with_its_trunk(run: RunSpec, ledger: Ledger) -> str:
    """Why a branch cannot be trained, where its trunk diverged before the step it leaves at; else empty."""
    assert run.branch
    if run.branch.trunk not in ledger or ledger[run.branch.trunk].status == "finished":
        return ""
    with Checkpoints(ledger.run_folder(run.branch.trunk) / "checkpoints") as trunk:
        reached = run.branch.step in trunk.steps()
    return "" if reached else f"its trunk {run.branch.trunk} diverged before step {run.branch.step}"


def _compiled_in(optim: OptimSpec) -> OptimSpec:
    """What of an optimizer is fixed in a compiled step; the other numbers are its arguments."""
    names = ("name", "parametrization", "base_width", "base_layers")
    fixed = {name: getattr(optim, name) for name in names}
    return OptimSpec(**fixed, average=float(optim.average > 0), peak_lr=1.0, cooldown_steps=1)


@functools.lru_cache(maxsize=16)
def _program(model: ModelSpec, optim: OptimSpec, batch: int, evaluation: EvalSpec, placement: Placement) -> Program:
    mesh, graphdef = placement.mesh(), graph(model, optim)
    abstract = jax.eval_shape(functools.partial(init_state, model, optim), jax.random.key(0))
    layout = jax.tree.map(
        lambda leaf: _place(leaf, mesh), abstract, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    everywhere, rows_KxBxM = sharding(mesh), sharding(mesh, None, "batch", None)
    width = np.min_scalar_type(model.vocab_size - 1)
    chunk = max(1, min(MAX_CHUNK, round(CHUNK_FLOPS / (batch * model.context * flops_per_token(model, "exact")))))
    shape_CxBxM = _eval_shape(evaluation, model, placement)

    steps = jax.jit(
        functools.partial(train_steps, graphdef=graphdef, model=model, optim=optim, mesh=mesh),
        in_shardings=(layout, everywhere, Chunk(rows_KxBxM, *(everywhere,) * 4), everywhere),
        out_shardings=(layout, everywhere, everywhere),
        donate_argnums=0,
    ).lower(
        abstract,
        jax.ShapeDtypeStruct((), np.bool_),
        Chunk(
            jax.ShapeDtypeStruct((chunk, batch, model.context + 1), width),
            jax.ShapeDtypeStruct((chunk,), np.float32),
            jax.ShapeDtypeStruct((chunk,), np.float32),
            jax.ShapeDtypeStruct((chunk,), np.bool_),
            jax.ShapeDtypeStruct((), np.int32),
        ),
        Knobs.of(optim),
    )
    losses = jax.jit(
        functools.partial(window_losses, graphdef=graphdef),
        in_shardings=(layout.params, rows_KxBxM),
        out_shardings=everywhere,
    ).lower(abstract.params, jax.ShapeDtypeStruct(shape_CxBxM, width))
    initial = jax.jit(functools.partial(init_state, model, optim), out_shardings=layout)
    return Program(initial, steps.compile(), losses.compile(), chunk, shape_CxBxM)


def _place(leaf: Any, mesh: jax.sharding.Mesh) -> Any:
    """A weight, and an optimizer's moment of it, lies as its axes say; a counter lies everywhere."""
    if isinstance(leaf, nnx.Variable):
        return leaf.replace(fitting(mesh, leaf.get_metadata()["axes"], leaf.get_value().shape))
    return sharding(mesh)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """`rows` with zeros behind them up to `length`: a compiled call has one shape."""
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])


def _eval_shape(evaluation: EvalSpec, model: ModelSpec, placement: Placement) -> tuple[int, int, int]:
    """(C calls, B windows a call, M tokens a window) that cover the held-out windows; the last call is padded."""
    parts = placement.data * placement.fsdp
    windows = max(1, EVAL_TOKENS // model.context // parts) * parts
    return math.ceil(evaluation.tokens // model.context / windows), windows, model.context + 1


def _evaluate(run: RunSpec, source: data.Source, params: PyTree, program: Program) -> Loss:
    held_out = data.held_out(source, run.eval.tokens, run.model.context)
    calls, per_call, length = program.eval_shape
    window_CxBxM = _padded(held_out.token_RxT, calls * per_call).reshape(calls, per_call, length)
    loss_CxB = np.asarray(program.losses(params, window_CxBxM))
    return loss_of(loss_CxB.reshape(-1)[: len(held_out.token_RxT)], held_out, source.entropy)


def _record(
    run: RunSpec,
    source: data.Source,
    machine: Mapping[str, str],
    seconds: Mapping[str, float] | None,  # by phase; None for a run that never took a step
    *,
    first: int,
    last: int,
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
        clock = Clock(**seconds, steps=last - first, tokens_per_second=rate, flops_per_second=flops)
    return RunRecord(
        run=run,
        status="diverged" if reason else "finished",
        reason=reason,
        tokens=seen.tokens,
        unique_tokens=data.unique_tokens(source, seen),
        epochs=data.epochs(source, seen),
        loss=sound.mean if sound else None,
        loss_se=sound.standard_error if sound else None,
        bits_per_byte=sound.mean / math.log(2) / source.bytes_per_token if sound and source.bytes_per_token else None,
        entropy=source.entropy,
        clock=clock,
        data=source.provenance,
        machine=machine,
        averaged_loss=averaged.mean if averaged and not reason else None,
        averaged_loss_se=averaged.standard_error if averaged and not reason else None,
        noise_tokens=noise_tokens,
        spikes=spikes,
    )
