"""One run on every kind of mesh of eight devices: the same batches, the same curve, checkpoints that go from each to
each other, and on the wires what belongs there."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from scaling import data
from scaling.cost import count_params
from scaling.record import Ledger
from scaling.spec import RunSpec, compiled_in
from scaling.train import Interrupted, Placement, Watch, loop, model, train_population
from scaling.train.collectives import Collective, collectives
from scaling.train.placement import APART
from scaling.train.program import Program, part, state_bytes
from scaling.train.step import init_state

pytestmark = pytest.mark.usefixtures("small_chunks", "soon_compiled")

ONE = Placement()
PLACES = [
    Placement(data=2), Placement(data=4), Placement(data=8), Placement(fsdp=4), Placement(tensor=4),
    Placement(data=2, tensor=2), Placement(data=2, fsdp=2), Placement(member=2, data=4),
    Placement(data=2, fsdp=2, tensor=2, microbatches=2, remat="blocks"),
]  # fmt: skip
CALL = 6  # steps of a compiled call (`small_chunks`)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module")
def soon_compiled() -> Iterator[None]:
    """What devices exchange is settled long before machine code is made well."""
    compile_well = jax.stages.Lowered.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", lambda lowered, _=None: compile_well(lowered, QUICK))
        yield


@pytest.fixture(scope="module")
def steady(tiny: RunSpec) -> RunSpec:
    """150 steps below the edge of stability: above it any rounding grows tenfold in tens of them (docs/training.md)."""
    four_heads = replace(tiny.model, n_layers=1, d_head=4)
    return replace(tiny, model=four_heads, steps=150, optim=replace(tiny.optim, peak_lr=2e-3))


@pytest.fixture(scope="module")
def alone(steady: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Losses on one device."""
    return curve(steady, ONE, tmp_path_factory.mktemp("alone"))


def together(run: RunSpec, place: Placement) -> list[RunSpec]:
    return [run, replace(run, seed=1)] if place.member > 1 else [run]


def compiled(run: RunSpec, place: Placement) -> Program:
    shape = (run.model, compiled_in(run.optim), run.batch, run.eval.tokens, place)
    return loop.program(*shape, members=len(together(run, place)))


def losses(run: RunSpec, folder: Path) -> np.ndarray:
    return np.array([row["loss"] for row in Ledger(folder).curve(run.id)])


def curve(run: RunSpec, place: Placement, folder: Path) -> np.ndarray:
    records = [*train_population(together(run, place), results=folder, placement=place)]
    assert {record.machine["mesh"] for record in records} == {str(place)}
    return losses(run, folder)


def sha(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


class Watched:
    """What the run's programs have on the devices: `batches` that the rows of each call make up, and the states of the
    first member: as the last call left it, and as they were put back."""

    def __init__(self, program: Callable[..., Program]):
        self._program, self.batches, self.left, self.restored = program, [], "", []

    def __call__(self, *shape: Any, members: int) -> Program:
        made = self._program(*shape, members=members)
        layout = made.steps.input_shardings[0][2].window_KxBxM  # type: ignore[attr-defined]

        def steps(state: Any, finite: Any, chunk: Any, knobs: Any) -> Any:
            there = jax.device_put(chunk.window_KxBxM, layout)
            whole = np.zeros(there.shape, there.dtype)
            for shard in there.addressable_shards:
                whole[shard.index] = shard.data
            self.batches.append(sha(part(whole, 0, members)[: chunk.count]))
            state, finite, metrics = made.steps(state, finite, chunk, knobs)
            self.left = sha(*jax.tree.leaves(part(state, 0, members)))
            return state, finite, metrics

        def put(states: list[Any]) -> Any:
            state = made.put(states)
            self.restored.append(sha(*jax.tree.leaves(part(state, 0, members))))
            return state

        return made._replace(steps=steps, put=put)


def advance(runs: list[RunSpec], place: Placement, folder: Path, calls: int) -> None:
    """By so many compiled calls, and save."""
    asked = iter([False] * calls)
    with pytest.raises(Interrupted):
        list(train_population(runs, results=folder, placement=place, watch=Watch(stop=lambda: next(asked, True))))


def test_all_eight_devices_are_here():
    assert jax.device_count() == 8


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_placement_never_changes_the_curve(steady: RunSpec, alone: np.ndarray, place: Placement, tmp_path: Path):
    np.testing.assert_allclose(curve(steady, place, tmp_path), alone, rtol=1e-5)


def test_half_precision_is_moved_no_further_than_its_rounding(steady: RunSpec, alone: np.ndarray, tmp_path: Path):
    """On all axes at once; every mesh alone: benchmarks/placements.py."""
    half = replace(steady, model=replace(steady.model, compute_dtype="bfloat16"))
    one, cut = (
        curve(half, place, tmp_path / str(place.shares)) for place in (ONE, Placement(data=2, fsdp=2, tensor=2))
    )
    np.testing.assert_allclose(cut, one, rtol=5e-3)
    assert np.abs(one / alone - 1).max() > 1e-5, "nothing was rounded"


def test_a_run_goes_from_mesh_to_mesh_with_the_batches_and_the_curve_of_one_device(
    steady: RunSpec, alone: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a cycle through all of them, so any may follow any: each finds the bits that the one before had, and goes on
    as one device would. The other member of a population is brought to the same step by one device."""
    watched, hop, left = Watched(loop.program), 2, []
    for leg, place in enumerate([ONE, *PLACES]):
        for other in together(steady, place)[1:]:
            advance([other], ONE, tmp_path, hop * leg)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "program", watched)
            advance(together(steady, place), place, tmp_path, hop)
        assert watched.restored[1:] == left  # the first is the state that begins
        left.append(watched.left)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "program", watched)
        list(train_population([steady], results=tmp_path, placement=ONE))
    np.testing.assert_allclose(losses(steady, tmp_path), alone, rtol=1e-5)
    source = data.open_source(steady.data, steady.model)
    calls = range(0, steady.steps, CALL)
    assert watched.batches == [sha(data.batches(source, steady, start, CALL)) for start in calls]


def test_no_device_ever_holds_the_whole_state(steady: RunSpec):
    """Weights and moments are born in their shards, and stay there."""
    whole = state_bytes(steady.model, compiled_in(steady.optim))
    made = compiled(steady, Placement(fsdp=4))
    born, kept = (f.memory_analysis() for f in (made.initial, made.steps))  # type: ignore[attr-defined]
    assert whole / 4 <= born.output_size_in_bytes < whole / 3.9
    assert born.output_size_in_bytes + born.temp_size_in_bytes < whole / 2
    assert kept.alias_size_in_bytes < whole / 3.9 and kept.argument_size_in_bytes < whole / 2
    state = made.initial(jax.random.key(0))
    up, moment = (tree["blocks"][0]["up_DxF"].get_value() for tree in (state.params, state.opt_state[1].mu))
    assert moment.sharding == up.sharding and up.sharding.shard_shape(up.shape) == (4, 32)


def of_a_step(run: RunSpec, place: Placement) -> list[Collective]:
    """All that every step exchanges."""
    found = collectives(compiled(run, place).steps.as_text())  # type: ignore[attr-defined]
    assert all(one.in_loop for one in found), "nothing is exchanged once a call"
    return [one for one in found if not one.sometimes]


def shapes(run: RunSpec) -> Counter[tuple[int, ...]]:
    """Of the weights, each axis wherever it lies."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_state(run.model, run.optim, jax.random.key(0)).params))
    return Counter(tuple(sorted(leaf.shape)) for leaf in leaves)


def test_copies_meet_once_a_step_in_their_gradients(steady: RunSpec):
    for place in (Placement(data=2), Placement(data=4), Placement(data=8)):
        found = of_a_step(steady, place)
        assert {(one.kind, one.group_size, one.times) for one in found} == {("all-reduce", place.data, 1)}
        assert Counter(tuple(sorted(one.shape)) for one in found) == shapes(steady) + Counter({(): 1})  # the loss


def test_a_cut_state_is_gathered_by_tensor_and_no_activation_travels(steady: RunSpec):
    weights = shapes(steady)
    for place in (Placement(fsdp=4), Placement(data=2, fsdp=2)):
        found = of_a_step(steady, place)
        gathered = [one for one in found if one.kind == "all-gather"]
        assert {one.group_size for one in gathered} == {place.fsdp} and not weights.keys() - forms(gathered).keys()
        # The gains twice, since each of their two uses is its own.
        assert all(weights[form] <= count <= 2 * weights[form] for form, count in forms(gathered).items())
        summed = [one for one in found if one.kind in ("all-reduce", "reduce-scatter") and one.shape]
        assert {one.kind for one in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
        # What one XLA sums at once another sums over fsdp, and its parts over data.
        assert sum(one.bytes for one in summed) <= (1 + (place.data > 1) / place.fsdp) * 4 * N(steady)
        assert {form for form in forms(summed) if len(form) > 1} <= weights.keys() | parts(weights, place.fsdp)


def test_cut_layers_sum_activations_and_gather_nothing(steady: RunSpec):
    """Twice a block forwards and twice backwards, as each of its halves ends in one sum; the table and the head too."""
    spec, tokens = steady.model, steady.batch_tokens
    for place in (Placement(tensor=4), Placement(data=2, tensor=2)):
        found = of_a_step(steady, place)
        assert {one.kind for one in found} == {"all-reduce"}
        stream = sorted((spec.d_model, tokens // place.data))
        sums = forms([one for one in found if one.group_size == place.tensor])[tuple(stream)]
        assert sums == 2 * 2 * spec.n_layers + 2


def test_members_exchange_nothing_but_whether_one_goes_on(steady: RunSpec):
    """Of their two rows each member sums over its own four devices."""
    found = of_a_step(steady, Placement(member=2, data=4))
    others = [one for one in found if one.group_size != 4]
    assert [(one.kind, one.dtype, one.shape) for one in others] == [("all-reduce", "pred", ())]
    own = [one for one in found if one.group_size == 4]
    assert {one.kind for one in own} == {"all-reduce"} and {one.times for one in own} == {1}


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_nothing_gathers_all_parameters_or_moments(steady: RunSpec, place: Placement):
    """Neither as one tensor nor in one operation; and all gathers of a pass together are the weights once, so that no
    moment is among them."""
    gathers = [one for one in of_a_step(steady, place) if one.kind == "all-gather"]
    together = Counter[str]()
    for one in gathers:
        together[one.name] += one.bytes
    assert max(together.values(), default=0) < 4 * N(steady) * 2 / 3  # a table is half of so small a model
    passes = (2 if place.remat != "none" else 1) * max(1, place.microbatches)
    assert sum(one.bytes * one.times for one in gathers) <= passes * 4 * N(steady) * 1.1


def test_a_loop_over_layers_gathers_one_at_a_time(steady: RunSpec, monkeypatch: pytest.MonkeyPatch):
    """As accelerators have it: never the stack of them, nor that of their moments."""
    monkeypatch.setattr(model, "device_here", lambda: SimpleNamespace(platform="tpu"))
    layers = APART + 1
    deep = replace(steady, model=replace(steady.model, n_layers=layers))
    gathers = [one for one in of_a_step(deep, Placement(fsdp=4)) if one.kind == "all-gather"]
    assert max(one.bytes for one in gathers) <= 4 * steady.model.vocab_size * steady.model.d_model
    looped = [one for one in gathers if one.times == layers]
    assert {form for form in forms(looped) if len(form) > 1} <= shapes(steady).keys()
    # Forwards and backwards, each in a loop of its own.
    assert 4 * count_params(deep.model).kaplan <= sum(one.bytes * one.times for one in looped) <= 2.2 * 4 * N(deep)


def N(run: RunSpec) -> int:
    return count_params(run.model).total


def forms(found: list[Collective]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(sorted(one.shape)) for one in found)


def parts(weights: Counter[tuple[int, ...]], of: int) -> set[tuple[int, ...]]:
    """Their shapes with one axis cut."""
    return {
        tuple(sorted((*form[:axis], form[axis] // of, *form[axis + 1 :])))
        for form in weights
        for axis in range(len(form))
    }
