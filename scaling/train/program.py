"""What is compiled for one shape of run: every run of that shape, and every population of them, uses it.

Suffixes: P members of a population, K steps of a call, C calls, B rows, M = context + 1 tokens.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from scaling.cost import flops_per_token
from scaling.spec import ModelSpec, OptimSpec, RunSpec, compiled_in, to_json
from scaling.train import team
from scaling.train.failures import out_of_memory
from scaling.train.host import compiled_once
from scaling.train.optim import Knobs
from scaling.train.placement import Devices, How, Placement, auto, fitting, platform_of, sharding
from scaling.train.step import Chunk, Cut, StepMetrics, TrainState, graph, init_state, train_steps, window_losses

# Of one compiled call: long enough to hide its dispatch, short enough to stop within a second, on a core or a chip.
CHUNK_FLOPS = {"cpu": 2e10}
CHIP_CHUNK_FLOPS = 1e13
MAX_CHUNK = 512  # steps
TEAM_CHUNK = 64  # steps of several processes, which meet in each of them, and wait longer for that than they compute
EVAL_TOKENS = 8192  # of one forward pass, over all members
FINER = 3  # times that a step which ran out of memory is cut finer
MOST_TOKENS = 1 << 24  # of a step, in the search for the largest batch: more than any study has trained with


class Program(NamedTuple):
    """Compiled functions. Where `members` is above 1 all but `initial` have a leading axis of that length."""

    initial: Callable[[jax.Array], TrainState]  # of one member
    steps: Callable[..., tuple[TrainState, jax.Array, StepMetrics]]  # (state, finite, chunk, knobs), see `train_steps`
    losses: Callable[..., jax.Array]  # (params, window_CxBxM), the windows without the leading axis
    layout: TrainState  # how the state lies on the devices
    members: int
    chunk: int  # K: steps that one call can hold
    eval_shape: tuple[int, int, int]  # (C, B, M) of one call of `losses`
    memory: int  # bytes that a device needs for `steps` or `losses`: arguments, results and temporaries
    put: Callable[[list[TrainState]], TrainState]  # the states of the members, from the host or not, on the devices


class Traced(NamedTuple):
    """The two programs of a shape before they are lowered, for the devices of any mesh."""

    steps: Any  # jax.stages.Traced
    losses: Any
    layout: TrainState
    chunk: int
    eval_shape: tuple[int, int, int]
    each: NamedSharding  # of what every member has one of
    chunks: Chunk  # shardings
    windows: NamedSharding  # of those held out


def traced(
    model: ModelSpec,
    optim: OptimSpec,
    batch: int,
    eval_tokens: int,
    placement: Placement,
    members: int,
    mesh: Mesh | AbstractMesh,
) -> Traced:
    """What `program` compiles; `mesh` is of this process's devices, or of a slice that is not here."""
    graphdef, platform = graph(model, optim), platform_of(mesh)
    part_rows = placement.part_rows(batch, model.context, platform)
    cut = Cut(mesh, part_rows, placement.remat)
    stacked = functools.partial(_stacked, members=members)
    single, layout = _layout(model, optim, mesh, members)
    leading = () if members == 1 else ("member",)
    each, rows_KxBxM = sharding(mesh, *leading), sharding(mesh, *leading, None, "batch", None)
    everywhere, windows = sharding(mesh), sharding(mesh, None, "batch", None)
    chunks = Chunk(rows_KxBxM, each, each, everywhere, everywhere)
    width = np.min_scalar_type(model.vocab_size - 1)
    step_flops = members * batch * model.context * flops_per_token(model, "exact")
    most_flops = CHUNK_FLOPS.get(platform, CHIP_CHUNK_FLOPS)
    longest = MAX_CHUNK if jax.process_count() == 1 else TEAM_CHUNK
    chunk = max(1, min(longest, round(most_flops / step_flops)))
    shape_CxBxM = _eval_shape(eval_tokens, model, placement, members, most_flops)

    step = functools.partial(train_steps, graphdef=graphdef, model=model, optim=optim, cut=cut, members=members)
    loss = functools.partial(window_losses, graphdef=graphdef)
    if members > 1:
        loss = jax.vmap(loss, in_axes=(0, None), spmd_axis_name="member")
    here = jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh)
    with here, _precision(model, platform):
        steps = jax.jit(
            step,
            in_shardings=(layout, each, chunks, each),
            out_shardings=(layout, each, each),
            donate_argnums=0,
        ).trace(
            jax.tree.map(stacked, single),
            stacked(jax.ShapeDtypeStruct((), np.bool_)),
            Chunk(
                stacked(jax.ShapeDtypeStruct((chunk, batch, model.context + 1), width)),
                stacked(jax.ShapeDtypeStruct((chunk,), np.float32)),
                stacked(jax.ShapeDtypeStruct((chunk,), np.float32)),
                jax.ShapeDtypeStruct((chunk,), np.bool_),
                jax.ShapeDtypeStruct((), np.int32),
            ),
            jax.tree.map(lambda leaf: stacked(jax.ShapeDtypeStruct((), leaf.dtype)), Knobs.of(optim)),
        )
        losses = jax.jit(loss, in_shardings=(layout.params, windows), out_shardings=each).trace(
            jax.tree.map(stacked, single.params), jax.ShapeDtypeStruct(shape_CxBxM, width)
        )
    return Traced(steps, losses, layout, chunk, shape_CxBxM, each, chunks, windows)


@functools.lru_cache(maxsize=16)
def program(
    model: ModelSpec, optim: OptimSpec, batch: int, eval_tokens: int, placement: Placement, members: int = 1
) -> Program:
    """Compile for one shape; `optim` is what `compiled_in` gave."""
    of = traced(model, optim, batch, eval_tokens, placement, members, placement.mesh())
    layout, steps, losses = of.layout, of.steps.lower(), of.losses.lower()
    shape = (model, optim, batch, eval_tokens, placement)
    with compiled_once(*shape, members) if jax.process_count() == 1 else _compiled_by_all(*shape, members):
        initial, done, measure = _initial(model, optim, placement, members), steps.compile(), losses.compile()
    memory = max(_memory(done), _memory(measure))

    def put(states: list[TrainState]) -> TrainState:
        return jax.device_put(join(states), layout)

    made = Program(initial, done, measure, layout, members, of.chunk, of.eval_shape, memory, put)
    if jax.process_count() == 1:
        return made
    made = _across(made, of.each, of.chunks, of.windows)
    return team.Calls(made).over() if team.led() else made


def _compiled_by_all(
    model: ModelSpec, optim: OptimSpec, batch: int, eval_tokens: int, placement: Placement, members: int
) -> contextlib.AbstractContextManager[None]:
    if members > 1:
        raise ValueError("a population is trained by one process")
    of = {"model": model, "optim": optim, "placement": placement}
    return team.compiling(batch=batch, eval_tokens=eval_tokens, **{name: to_json(spec) for name, spec in of.items()})


def _across(made: Program, each: NamedSharding, chunks: Chunk, windows: NamedSharding) -> Program:
    """With arguments from the host, which every process has whole, windows excepted: each makes its own. `initial`
    takes the data of a key."""

    def initial(key_data: Any) -> TrainState:
        return made.initial(jax.random.wrap_key_data(team.spread(key_data, each)))

    def put(states: list[TrainState]) -> TrainState:
        return team.spread(states[0], made.layout)

    def steps(state: TrainState, finite: Any, chunk: Chunk, knobs: Knobs) -> Any:
        return made.steps(state, team.spread(finite, each), team.spread(chunk, chunks), team.spread(knobs, each))

    def losses(weights: Any, window_CxBxM: Any) -> jax.Array:
        return made.losses(weights, team.spread(window_CxBxM, windows))

    return made._replace(initial=initial, put=put, steps=steps, losses=losses)


def _precision(model: ModelSpec, platform: str) -> contextlib.AbstractContextManager[object]:
    """float32 is float32: accelerators would multiply it in fewer bits. A CPU does not, and is left alone."""
    if model.compute_dtype != "float32" or platform == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")


def forget() -> None:
    """As in a new process: nothing is compiled."""
    program.cache_clear()
    _initial.cache_clear()
    jax.clear_caches()


@functools.lru_cache(maxsize=16)
def _single(model: ModelSpec, optim: OptimSpec) -> TrainState:
    """The shapes of one member's state."""
    return jax.eval_shape(functools.partial(init_state, model, optim), jax.random.key(0))


def state_bytes(model: ModelSpec, optim: OptimSpec) -> int:
    """Of one member's state, and so of its checkpoint."""
    leaves = jax.tree.leaves(_single(model, optim))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _layout(
    model: ModelSpec, optim: OptimSpec, mesh: Mesh | AbstractMesh, members: int
) -> tuple[TrainState, TrainState]:
    """The shapes of one member's state, and how the state of all lies on the devices."""
    single = _single(model, optim)
    layout = jax.tree.map(
        lambda leaf: _place(leaf, mesh, members), single, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return single, layout


@functools.lru_cache(maxsize=16)
def _initial(
    model: ModelSpec, optim: OptimSpec, placement: Placement, members: int
) -> Callable[[jax.Array], TrainState]:
    """One member's first state from a key; the same for every batch."""
    mesh = placement.mesh()
    _, layout = _layout(model, optim, mesh, members)
    alone = layout if members == 1 else sharding(mesh)
    # It runs once, and optimizing it fully took a quarter of a shape's compilation; the bits are the same.
    quick = {"xla_backend_optimization_level": 1} if platform_of(mesh) == "cpu" else None
    begin = jax.jit(functools.partial(init_state, model, optim), out_shardings=alone, compiler_options=quick)
    return begin.lower(jax.eval_shape(lambda: jax.random.key(0))).compile()


def join(states: list[Any]) -> Any:
    """The members' trees as one with a leading axis; a single member is as it is."""
    return states[0] if len(states) == 1 else jax.tree.map(lambda *leaves: _stack(leaves), *states)


def join_chunks(chunks: list[Chunk]) -> Chunk:
    """The members' chunks as one: they take the same steps, and are probed at the same."""
    return join(chunks)._replace(probed_K=chunks[0].probed_K, count=chunks[0].count)


def part(tree: Any, member: int, members: int) -> Any:
    """One member's tree out of what `join` gave."""
    return tree if members == 1 else jax.tree.map(lambda leaf: leaf[member], tree)


def roomy(run: RunSpec, members: int = 1, how: How = "auto") -> Placement:
    """The first of `placement.auto` whose step fits the devices here.

    Found by compiling and asking XLA, not by running out. Where nothing fits, the thriftiest.
    """
    devices = Devices.here()
    found = auto(run, devices, members, how)
    for placement in found:
        need = needed(run.model, compiled_in(run.optim), run.batch, run.eval.tokens, placement, members=members)
        if need <= devices.memory:
            return placement
    return found[-1]


def finer(run: RunSpec, placement: Placement) -> Iterator[Placement]:
    """What is left to try, one after another, when a step ran out of memory: at least twice the microbatches, at most
    FINER times, and at last rematerialisation."""
    rows, parts = _parts(run, placement)
    for _ in range(FINER):
        parts = next((n for n in range(2 * parts, rows + 1) if rows % n == 0), None)
        if parts is None:
            break
        placement = replace(placement, microbatches=parts)
        yield placement
    harder = {"none": ("dots", "blocks"), "dots": ("blocks",), "blocks": ()}[placement.remat]
    yield from (replace(placement, remat=remat) for remat in harder)


def _parts(run: RunSpec, placement: Placement) -> tuple[int, int]:
    """(rows of a device, parts that it takes them in)."""
    rows = run.batch // placement.shares
    return rows, -(-rows // placement.part_rows(run.batch, run.model.context, jax.default_backend()))


def needed(*shape: Any, **members: int) -> float:
    """Bytes of a device that the program of a shape asks for; infinite where the compiler itself runs out."""
    try:
        return program(*shape, **members).memory
    except Exception as error:
        if not out_of_memory(error):
            raise
        return math.inf


def largest_batch(model: ModelSpec, optim: OptimSpec, batch: int, limit: int, placement: Placement) -> int | None:
    """The largest batch * 2^k of whole rows whose compiled step needs at most `limit` bytes a device, up to the first
    with MOST_TOKENS.

    Found by compiling and asking XLA, not by running out. None where not even `batch` fits.
    """
    found = None
    while needed(model, compiled_in(optim), batch, model.context, placement) <= limit:
        found = batch
        if batch * model.context >= MOST_TOKENS:
            break
        batch *= 2
    return found


def _stack(leaves: tuple[Any, ...]) -> Any:
    return np.stack(leaves) if isinstance(leaves[0], np.ndarray | np.generic) else jnp.stack(leaves)


def _stacked(leaf: Any, members: int) -> Any:
    """The shape with a leading axis for the members of a population."""
    return leaf if members == 1 else jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype)


def _place(leaf: Any, mesh: Mesh | AbstractMesh, members: int) -> Any:
    """A weight, and an optimizer's moment of it, lies as its axes say; a counter lies everywhere."""
    leading = () if members == 1 else ("member",)
    if isinstance(leaf, nnx.Variable):
        axes, shape = leaf.get_metadata()["axes"], leaf.get_value().shape
        return leaf.replace(fitting(mesh, (*leading, *axes), (*(members for _ in leading), *shape)))
    return fitting(mesh, leading, (members,) if leading else ())


def _eval_shape(
    eval_tokens: int, model: ModelSpec, placement: Placement, members: int, most_flops: float
) -> tuple[int, int, int]:
    """(C batches, B windows of each, M tokens of a window) of one call; the calls that it takes to cover the held-out
    windows are equally long, and the last is padded."""
    windows = max(1, EVAL_TOKENS // members // model.context // placement.shares) * placement.shares
    batches = math.ceil(eval_tokens // model.context / windows)
    batch_flops = members * windows * model.context * flops_per_token(model, "exact") / 3  # a forward pass
    calls = math.ceil(batches / max(1, round(most_flops / batch_flops)))
    return math.ceil(batches / calls), windows, model.context + 1


def _memory(compiled: Any) -> int:
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return kept + sizes.temp_size_in_bytes
