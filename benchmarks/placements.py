"""One run on every kind of mesh: its curve against that of one device, checkpoints from each on each other, and what a
step exchanges.

python benchmarks/placements.py --out benchmarks/results/placements.json

150 steps below the edge of stability (docs/training.md) of two layers at width 32, on eight simulated devices of one
CPU, in float32 and with activations in bfloat16. The run is stopped after 75 steps on each mesh, and what it saved goes
on on each mesh to its end. Asked for is that the devices' rows make up the batches that the spec names, that a restored
state is the saved one to the bit, and that losses are those of one device within 1e-5 (float32) and 5e-3 (bfloat16),
relative. Exits 1 where that is not so. About ten minutes of one core.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.record import Ledger
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec, compiled_in
from scaling.train import Interrupted, Placement, Watch, loop, program, train_population
from scaling.train.collectives import collectives
from scaling.train.program import Program, part

RUN = RunSpec(
    model=ModelSpec(n_layers=2, d_model=32, d_ff=128, d_head=8, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=2.5e-3, warmup_steps=50, beta2=0.99, cooldown_steps=30),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=8192),
    batch=16,
    steps=150,
)
HALF, CALL = 75, 25  # steps until the stop, and of one compiled call
WITHIN = {"float32": 1e-5, "bfloat16": 5e-3}
ONE = Placement()
PLACES = [
    ONE, Placement(data=2), Placement(data=4), Placement(data=8), Placement(fsdp=4), Placement(fsdp=8),
    Placement(tensor=4), Placement(data=2, tensor=2), Placement(data=2, fsdp=2), Placement(data=2, fsdp=2, tensor=2),
    Placement(member=2, data=4), Placement(data=2, fsdp=2, microbatches=2, remat="blocks"),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the differences as JSON")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    program.MAX_CHUNK = CALL
    found: dict[str, Any] = {"devices": jax.device_count(), "steps": RUN.steps, "stopped_at": HALF}
    for dtype in WITHIN:
        found[dtype] = of_type(replace(RUN, model=replace(RUN.model, compute_dtype=dtype)), WITHIN[dtype])
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(found[dtype]["holds"] for dtype in WITHIN) else 1


def of_type(run: RunSpec, within: float) -> dict[str, Any]:
    """Every placement on its own, then every one after every other."""
    source, calls = data.open_source(run.data, run.model), range(0, run.steps, CALL)
    named = [sha(data.batches(source, run, start, CALL)) for start in calls]
    alone, found, resumed, exact = np.zeros(0), {}, {}, True
    with tempfile.TemporaryDirectory() as name, watched() as seen:
        home = Path(name)
        for place in PLACES:
            halfway(run, place, home / "half" / str(place))
            curve = finished(run, place, home / "half" / str(place), home / "whole")
            alone = curve if place == ONE else alone
            batches = [shown for shown, members in seen.batches if members == len(together(run, place))]
            found[str(place)] = {
                "batches_equal": batches == named,
                "largest_difference": furthest(curve, alone),
                "exchanged": exchanged(run, place),
            }
            print(run.model.compute_dtype, place, {k: v for k, v in found[str(place)].items() if k != "exchanged"})
            seen.batches.clear()
        for before in PLACES:
            resumed[str(before)] = {}
            for after in PLACES:
                start = home / "half" / str(before)
                if after.member > 1 >= before.member:  # the population's other run comes from one device
                    start = joined(run, start, home)
                seen.restored.clear()
                curve = finished(run, after, start, home / "whole")
                exact &= seen.restored[0] in seen.left
                resumed[str(before)][str(after)] = furthest(curve, alone)
            print(run.model.compute_dtype, f"from {before} on any:", max(resumed[str(before)].values()), flush=True)
    furthest_of_all = max(
        *(one["largest_difference"] for one in found.values()), *(d for row in resumed.values() for d in row.values())
    )
    holds = exact and furthest_of_all <= within and all(one["batches_equal"] for one in found.values())
    return {
        "holds": bool(holds), "within": within, "furthest": furthest_of_all, "restored_to_the_bit": exact,
        "placements": found, "resumed": resumed,
    }  # fmt: skip


def together(run: RunSpec, place: Placement) -> list[RunSpec]:
    return [run, replace(run, seed=1)] if place.member > 1 else [run]


def halfway(run: RunSpec, place: Placement, folder: Path) -> None:
    asked = iter([False] * (HALF // CALL))
    try:
        list(
            train_population(
                together(run, place), results=folder, placement=place, watch=Watch(stop=lambda: next(asked, True))
            )
        )
    except Interrupted:
        return
    raise AssertionError("it was not stopped")


def finished(run: RunSpec, place: Placement, start: Path, folder: Path) -> np.ndarray:
    """Training loss of each step, [150], of a run that goes on from a copy of what is in `start`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    list(train_population(together(run, place), results=folder, placement=place))
    return np.array([row["loss"] for row in Ledger(folder).curve(run.id)])


def joined(run: RunSpec, start: Path, home: Path) -> Path:
    folder, other = home / "joined", replace(run, seed=1)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    if not (home / "other").exists():
        halfway(other, ONE, home / "other")
    shutil.copytree(home / "other" / "runs" / other.id, folder / "runs" / other.id)
    return folder


def furthest(curve: np.ndarray, alone: np.ndarray) -> float:
    return float(np.abs(curve / alone - 1).max())


def exchanged(run: RunSpec, place: Placement) -> dict[str, dict[str, int]]:
    """By kind, in a step that is not probed: operations, and bytes of the tensors that they give a device."""
    shape = (run.model, compiled_in(run.optim), run.batch, run.eval.tokens, place)
    compiled = program.program(*shape, members=len(together(run, place)))
    of_a_step = [one for one in collectives(compiled.steps.as_text()) if one.in_loop and not one.sometimes]  # type: ignore[attr-defined]
    return {
        kind: {
            "operations": sum({one.name: one.times for one in of_a_step if one.kind == kind}.values()),
            "bytes": sum(one.bytes * one.times for one in of_a_step if one.kind == kind),
        }
        for kind in sorted({one.kind for one in of_a_step})
    }


class Seen:
    """Hashes of what lies on the devices: the batch of each call, and states as calls leave them and as put back."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []  # with the number of members
        self.left: set[str] = set()
        self.restored: list[str] = []


@contextmanager
def watched() -> Iterator[Seen]:
    seen, made_as_ever = Seen(), loop.program

    def watching(*shape: Any, members: int) -> Program:
        made = made_as_ever(*shape, members=members)
        layout = made.steps.input_shardings[0][2].window_KxBxM  # type: ignore[attr-defined]

        def steps(state: Any, finite: Any, chunk: Any, knobs: Any) -> Any:
            there = jax.device_put(chunk.window_KxBxM, layout)
            whole = np.zeros(there.shape, there.dtype)
            for shard in there.addressable_shards:
                whole[shard.index] = shard.data
            seen.batches.append((sha(part(whole, 0, members)[: chunk.count]), members))
            state, finite, metrics = made.steps(state, finite, chunk, knobs)
            seen.left.add(sha(*jax.tree.leaves(part(state, 0, members))))
            return state, finite, metrics

        def put(states: list[Any]) -> Any:
            state = made.put(states)
            seen.restored.append(sha(*jax.tree.leaves(part(state, 0, members))))
            return state

        return made._replace(steps=steps, put=put)

    loop.program = watching  # type: ignore[assignment]
    try:
        yield seen
    finally:
        loop.program = made_as_ever


def sha(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
