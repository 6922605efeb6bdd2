"""How many runs of one shape to train in one program: by trial on the devices at hand, once per shape and machine."""

import hashlib
import importlib.metadata
import json
import time
from pathlib import Path

import jax
import numpy as np

from scaling.record.files import commit_json
from scaling.spec import RunSpec, alike, compiled_in, to_json
from scaling.train.failures import out_of_memory
from scaling.train.host import memory_limit
from scaling.train.optim import Knobs
from scaling.train.placement import How, Placement, first
from scaling.train.program import Program, join, join_chunks, program
from scaling.train.step import Chunk

GROWTH = 4  # from one size that is tried to the next; each is a program to compile
GAIN = 1.1  # that a larger population must bring to be worth its longer compile
TRIAL_SECONDS = 0.5


def fastest(run: RunSpec, most: int, *, known: Path, placement: Placement | How = "auto") -> int:
    """The number of members, `most` at most, at which runs like this one advance fastest together.

    Sizes grow while they gain, and while a device has the memory that the compiled program asks for. Rates are kept in
    the JSON file `known`, so that a shape is tried once on a machine.
    """
    rates = _read(known)
    sizes = [GROWTH**k for k in range(32) if GROWTH**k < most] + [most]
    best, best_rate = 1, 0.0
    for members in sizes:
        placed = first(run, members, placement)
        key = _key(run, placed, members)
        if key not in rates:
            rates[key] = _rate(run, placed, members)
            commit_json(known, {**_read(known), key: rates[key]})
        if rates[key] <= GAIN * best_rate:  # a rate of zero does not fit
            break
        best, best_rate = members, rates[key]
    return best


def _rate(run: RunSpec, placement: Placement, members: int) -> float:
    """Zero for a population that does not fit."""
    try:
        compiled = program(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement, members=members)
        return member_steps_per_second(run, compiled) if compiled.memory <= memory_limit() else 0.0
    except Exception as error:
        if not out_of_memory(error):
            raise
        return 0.0


def member_steps_per_second(run: RunSpec, compiled: Program) -> float:
    """Optimizer steps of all members in a second of a running program; the median of three trials."""
    members, width = compiled.members, np.min_scalar_type(run.model.vocab_size - 1)
    state = jax.device_put(join([compiled.initial(jax.random.key(seed)) for seed in range(members)]), compiled.layout)
    knobs, finite = join([Knobs.of(run.optim)] * members), join([np.array(True)] * members)

    def chunk(count: int) -> Chunk:
        zeros_K = np.zeros(compiled.chunk, np.float32)  # a rate of zero: time does not depend on the numbers
        window_KxBxM = np.zeros((compiled.chunk, run.batch, run.model.context + 1), width)
        return join_chunks([Chunk(window_KxBxM, zeros_K, zeros_K, zeros_K > 0, np.int32(count))] * members)

    def seconds(state: object, steps: int) -> tuple[object, float]:
        began, full = time.monotonic(), chunk(min(steps, compiled.chunk))
        for _ in range(max(1, steps // compiled.chunk)):
            state, _, metrics = compiled.steps(state, finite, full, knobs)
        jax.block_until_ready((state, metrics))
        return state, time.monotonic() - began

    state, _ = seconds(state, 1)
    state, one = seconds(state, 2)
    steps = max(2, min(64 * compiled.chunk, round(2 * TRIAL_SECONDS / max(one, 1e-9))))
    steps = steps if steps < compiled.chunk else steps // compiled.chunk * compiled.chunk
    trials = []
    for _ in range(3):
        state, took = seconds(state, steps)
        trials.append(took)
    return members * steps / float(np.median(trials))


def _key(run: RunSpec, placement: Placement, members: int) -> str:
    """Of the shape and the devices: what a rate depends on."""
    spec = to_json(alike(run))
    shape = {name: spec[name] for name in ("model", "optim", "batch")}
    where = (jax.devices()[0].device_kind, jax.device_count(), importlib.metadata.version("jaxlib"))
    text = json.dumps([shape, repr(placement), where], sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} x{members}"


def _read(known: Path) -> dict[str, float]:
    try:
        values = json.loads(known.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
