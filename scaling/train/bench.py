"""What one shape of run takes on this machine, measured by making such runs: compiling, steps, evaluation, the rest."""

import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.record import Ledger
from scaling.spec import Branch, OptimSpec, RunSpec, compiled_in
from scaling.train import peak
from scaling.train.failures import Interrupted
from scaling.train.host import memory_limit
from scaling.train.loop import Watch, forget_weights, train
from scaling.train.placement import How, Placement, first
from scaling.train.program import forget, largest_batch, program

SPREAD = 0.02  # relative standard error of the median at which steps are measured well enough
LIMIT_SECONDS = 5.0  # of measuring steps, where that is not reached; at least FEWEST calls all the same
FEWEST = 3  # compiled calls that a median is taken of
WARM_UP = 2  # calls that are left out


def measure(
    run: RunSpec, *, search: bool, stop: Callable[[], bool], placement: Placement | How = "auto"
) -> dict[str, Any]:
    """The numbers of `scaling.machine.Speed` for this run's shape, by this process, and a few beside them.

    Takes the run's data and evaluation, and nothing of its length or rates. Compiles into JAX's persistent cache,
    which must not know the shape yet. `search` asks for the largest batch that fits into a device. Raises
    `Interrupted` when `stop` turns true.
    """
    run = replace(run, optim=_plain(run.optim), branch=None)
    placed = first(run, how=placement)
    began = time.monotonic()
    _ = data.provenance(run)
    opening = time.monotonic() - began
    ceiling = _ceiling(run.model.compute_dtype)
    cold = _compile(run, placed)
    forget()
    cached = _compile(run, placed)
    compiled = _program(run, placed)
    with tempfile.TemporaryDirectory() as folder:
        per_call = _calls(run, compiled.chunk, Path(folder), stop, placed)
        per_run, evaluate = _short_runs(run, Path(folder), placed)
    low, middle, high = statistics.quantiles(per_call, n=4, method="inclusive")
    most, source = peak.peak(run.model.compute_dtype)
    found: dict[str, Any] = {
        "train": middle,
        "spread": (high - low) / 2 / middle,
        "calls": len(per_call),
        "evaluate": evaluate,
        "compile_cold": cold,
        "compile_cached": cached,
        "per_run": per_run,
        "memory": compiled.memory,
        "opening": opening,
        "peak": most,
        "peak_source": source,
        "ceiling": ceiling,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "mesh": str(placed),
    }
    if search:
        limit = memory_limit()
        batch = largest_batch(run.model, run.optim, run.batch, limit, placed)
        found |= {"largest_batch": batch or 0, "memory_limit": limit}
    return found


@functools.cache
def _ceiling(dtype: str) -> float:
    """The machine's ceiling in FLOP/s for all devices of this process, measured again: it is raised or stays."""
    found = peak.keep_ceiling(dtype)
    peak.peak.cache_clear()
    return found


def _plain(optim: OptimSpec) -> OptimSpec:
    """The same step at a constant rate that moves next to nothing, so that no run diverges."""
    return OptimSpec(
        name=optim.name, parametrization=optim.parametrization, base_width=optim.base_width,
        base_layers=optim.base_layers, average=optim.average, peak_lr=1e-6, schedule="constant",
    )  # fmt: skip


def _program(run: RunSpec, placement: Placement) -> Any:
    return program(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement)


def _compile(run: RunSpec, placement: Placement) -> float:
    """Seconds from nothing to initial weights and programs that can be called."""
    began = time.monotonic()
    jax.block_until_ready(_program(run, placement).initial(jax.random.key(run.seed)))
    return time.monotonic() - began


def _calls(run: RunSpec, chunk: int, folder: Path, stop: Callable[[], bool], placement: Placement) -> list[float]:
    """Seconds per trained token, one value for each compiled call of a run under way, its data and log included.

    The run is as long as it says or as is needed, since its log has about as many rows whatever its length.
    """
    run = replace(run, steps=max(run.steps, (WARM_UP + FEWEST + 1) * chunk))
    ends: list[float] = []

    def progress(event: dict[str, Any]) -> None:
        if event["phase"] == "train":
            ends.append(time.perf_counter())

    def enough() -> bool:
        """Asked before each call's end is noted."""
        spans = np.diff(ends[WARM_UP - 1 :])
        if stop():
            return True
        if len(spans) < FEWEST:
            return False
        low, middle, high = np.quantile(spans, (0.25, 0.5, 0.75))
        # Of a median of n normal values: 1.25 sigma / sqrt(n), sigma = 0.74 times the distance of the quartiles.
        error = 1.25 * 0.74 * (high - low) / middle / len(spans) ** 0.5
        return bool(error < SPREAD) or ends[-1] - ends[0] > LIMIT_SECONDS

    try:
        # A branch step at the end: nothing is evaluated.
        train(
            run, results=folder, branch_steps=[run.steps], watch=Watch(progress=progress, stop=enough),
            placement=placement,
        )  # fmt: skip
    except Interrupted:
        if stop():
            raise
    # The last one, where the run was over, is of two calls: nothing is dispatched behind it.
    spans = np.diff(ends[: WARM_UP + max(FEWEST, len(ends) - WARM_UP - 1)])[WARM_UP - 1 :]
    return (spans / (chunk * run.batch_tokens)).tolist()


def _short_runs(run: RunSpec, folder: Path, placement: Placement) -> tuple[float, float]:
    """(seconds of a run beside its steps and evaluation, seconds per evaluated token), of a trunk and its branches."""
    trunk = replace(run, steps=2)
    cooldown = replace(run.optim, schedule="wsd", cooldown_steps=1) if run.optim.name != "schedule_free" else run.optim
    branches = [
        replace(run, steps=steps, optim=cooldown, branch=Branch(trunk=trunk.id, step=step))
        for step, steps in ((1, 2), (2, 3))
    ]
    ledger, beside, evaluations = Ledger(folder), [], []
    for spec, leave in itertools.chain([(trunk, (1, 2))], ((branch, ()) for branch in branches)):
        began = time.monotonic()
        record = train(spec, results=folder, branch_steps=leave, placement=placement)
        ledger.commit(record)
        clock = record.clock
        assert clock
        if not leave:
            forget_weights(spec, folder)
            evaluations.append(clock.evaluate / spec.eval.tokens)
        beside.append(time.monotonic() - began - clock.train - clock.evaluate)
    return statistics.mean(beside), min(evaluations)
