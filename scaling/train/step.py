"""Many optimizer steps in one compiled call, as a pure function of (state, tokens)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.model import Transformer
from scaling.train.optim import Knobs, changes, optimizer
from scaling.train.parametrization import lr_multiplier
from scaling.train.placement import Remat

PyTree = Any
Array = Any  # NumPy's outside a compiled call, JAX's inside


class TrainState(NamedTuple):
    params: PyTree
    opt_state: PyTree
    average: PyTree | None  # of the weights over the last share of the steps; None where `optim.average` is 0


class Chunk(NamedTuple):
    """What enters one call of up to K steps."""

    window_KxBxM: Array
    lr_K: Array
    blend_K: Array  # share of the new weights in their average (`optim.blends`)
    probed_K: Array  # bool: whether the gradient noise is measured at this step
    count: Array  # steps to take, at most K


class StepMetrics(NamedTuple):
    """One value a step, [K]."""

    loss_K: jax.Array  # training loss before the step, nats per token; not a number ends the run
    grad_norm_K: jax.Array  # before clipping
    update_norm_K: jax.Array  # of the change of all weights
    signal_K: jax.Array  # |G|^2 of the true gradient, unbiased; not a number where it was not measured
    noise_K: jax.Array  # tr(Sigma) of the gradient of one window, unbiased; likewise


def init_state(model: ModelSpec, optim: OptimSpec, key: jax.Array) -> TrainState:
    params = nnx.state(Transformer(model, optim, key), nnx.Param)
    average = jax.tree.map(jnp.copy, params) if optim.average else None
    return TrainState(params, optimizer(optim.name, Knobs.of(optim)).init(params), average)


def graph(model: ModelSpec, optim: OptimSpec) -> nnx.GraphDef:
    """The model without its weights."""
    abstract = nnx.eval_shape(lambda: Transformer(model, optim, jax.random.key(0)))
    return nnx.split(abstract, nnx.Param)[0]


class Cut(NamedTuple):
    """How a batch meets the devices; changes the order of sums and nothing else (`placement.Placement`)."""

    mesh: Mesh | None = None
    part_rows: int = 1 << 62  # the most rows of its share that a device takes at once
    remat: Remat = "none"


WHOLE = Cut()  # a batch at once on one device


def mean_loss(params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, remat: Remat = "none") -> jax.Array:
    """Next-token cross-entropy of windows of M = context + 1 tokens, nats per token."""
    return token_losses(params, window_BxM, graphdef=graphdef, remat=remat).mean()


def token_losses(params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, remat: Remat = "none") -> jax.Array:
    """[B, context] float32."""
    token_BxL, target_BxL = window_BxM[:, :-1].astype(jnp.int32), window_BxM[:, 1:].astype(jnp.int32)
    logit_VxT = nnx.merge(graphdef, params)(token_BxL, remat=remat)
    loss_T = optax.softmax_cross_entropy_with_integer_labels(logit_VxT, target_BxL.reshape(-1), axis=0)
    return loss_T.reshape(target_BxL.shape)


def mean_gradients(
    params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, cut: Cut = WHOLE
) -> tuple[jax.Array, PyTree]:
    """Mean loss of a batch, and its gradient."""
    loss, grads, terms = summed_gradients(params, window_BxM, graphdef=graphdef, cut=cut)
    return loss / terms, jax.tree.map(lambda g: g * (1 / terms), grads)


def summed_gradients(
    params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, cut: Cut = WHOLE
) -> tuple[jax.Array, PyTree, int]:
    """`mean_gradients` times the number of terms that it is the mean of, and that number.

    On a mesh that holds whole copies of the weights, each copy takes its own rows and the copies meet once; where
    weights are cut, the compiler gathers them as they are used. A share of the rows is taken in equal parts, one after
    another, and added up.
    """
    mesh = cut.mesh
    copies = mesh.shape["data"] if mesh and mesh.shape["fsdp"] == mesh.shape["tensor"] == 1 else 1
    gradients = jax.value_and_grad(functools.partial(mean_loss, graphdef=graphdef, remat=cut.remat))

    parts = _parts(window_BxM.shape[0] // shares(mesh), cut.part_rows)

    def of_copy(params: PyTree, window_BxM: jax.Array) -> tuple[jax.Array, PyTree]:
        B, M = window_BxM.shape
        if parts == 1:
            return gradients(params, window_BxM)
        # A part is every parts-th row, so that rows which are cut over devices stay where they are.
        window_RxPxM = window_BxM.reshape(B // parts, parts, M)
        return jax.lax.fori_loop(
            0,
            parts,
            lambda i, total: jax.tree.map(jnp.add, total, gradients(params, window_RxPxM[:, i])),
            jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params)),
        )

    if copies == 1:
        return *of_copy(params, window_BxM), parts

    def of_all(params: PyTree, window_BxM: jax.Array) -> tuple[jax.Array, PyTree]:
        return jax.lax.psum(of_copy(params, window_BxM), "data")

    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    # Unchecked: the check would have each part's gradients summed over the copies, where once a step is enough.
    sums = jax.shard_map(of_all, mesh=mesh, in_specs=(everywhere, rows), out_specs=everywhere, check_vma=False)
    return *sums(params, window_BxM), parts * copies


def shares(mesh: Mesh | None) -> int:
    """How many ways the rows of a batch are dealt out over the devices."""
    return mesh.shape["data"] * mesh.shape["fsdp"] if mesh else 1


def _parts(rows: int, most: int) -> int:
    """The fewest equal parts of rows with at most `most` each."""
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)


def gradient_noise(
    params: PyTree, grads: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, cut: Cut = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """|G|^2 and tr(Sigma) of one window's gradient, from the gradient of a batch and that of half of it.

    Their quotient tr(Sigma) / |G|^2 is the gradient noise scale in windows (arXiv:1812.06162, section 2.2 and appendix
    A.1). With b of B windows, E|G_b - G_B|^2 = tr(Sigma) (1/b - 1/B): the difference of the two gradients is used, and
    not that of their norms, since the part they share then cancels before it is squared.
    """
    B = window_BxM.shape[0]
    b = B // 2
    if b == 0:
        return jnp.array(jnp.nan), jnp.array(jnp.nan)
    if b % shares(cut.mesh):
        cut = cut._replace(mesh=None)  # rows that the devices cannot share evenly are left to the compiler
    _, half = mean_gradients(params, window_BxM[:b], graphdef=graphdef, cut=cut)
    noise = optax.tree.norm(jax.tree.map(jnp.subtract, half, grads)) ** 2 / (1 / b - 1 / B)
    return optax.tree.norm(grads) ** 2 - noise / B, noise


def train_steps(
    state: TrainState,
    finite: jax.Array,
    chunk: Chunk,
    knobs: Knobs,
    *,
    graphdef: nnx.GraphDef,
    model: ModelSpec,
    optim: OptimSpec,
    cut: Cut = WHOLE,
    members: int = 1,
) -> tuple[TrainState, jax.Array, StepMetrics]:
    """The first `chunk.count` of K steps, or fewer: none after a loss, gradient or change that is not finite.

    Then `finite` comes out false, the weights are those before the step at fault, and a call with it changes nothing.

    The number of steps is an argument, so one compiled program serves chunks of any length, trunks, cooldowns and
    restarts alike, and a step computes the same bits wherever a chunk begins. Of `optim` only the name, the
    parametrization and whether it averages are read here; the rest comes as arguments. With several `members` all
    arguments and results but `chunk.probed_K` and `chunk.count` have a leading axis for them.
    """
    multipliers = jax.tree.map(
        lambda param: param.replace(lr_multiplier(param.get_metadata()["role"], model, optim)),
        state.params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Param),
    )

    def one_step(
        before: TrainState, going: jax.Array, window_BxM: jax.Array, lr: jax.Array, blend: jax.Array, knobs: Knobs,
        probed: jax.Array,
    ) -> tuple[TrainState, jax.Array, StepMetrics]:  # fmt: skip
        total, sums, terms = summed_gradients(before.params, window_BxM, graphdef=graphdef, cut=cut)

        def mean() -> PyTree:
            """Not computed ahead: one factor fuses into what uses it."""
            return jax.tree.map(lambda g: g * (1 / terms), sums)

        signal, noise = jax.lax.cond(
            probed,
            lambda: gradient_noise(before.params, mean(), window_BxM, graphdef=graphdef, cut=cut),
            lambda: (jnp.array(jnp.nan), jnp.array(jnp.nan)),
        )
        loss, grad_norm = total / terms, optax.tree.norm(mean())
        # XLA:CPU copies a weight whose old value may still be read when its new one is written. So what reads the old
        # weights is asked for before they move: the noise here, the norm of the change below.
        finite = going & jnp.isfinite(loss) & jnp.isfinite(grad_norm) & ~jnp.isposinf(noise)
        change, opt_state = changes(optim, knobs, before.params, mean(), before.opt_state, lr, multipliers, finite)
        update_norm = optax.tree.norm(change)
        finite &= jnp.isfinite(update_norm)
        # Selected and not branched on: around a conditional XLA:CPU copies the state, a tenth of a step at width 64.
        params = jax.tree.map(lambda weight, by: jnp.where(finite, weight + by, weight), before.params, change)
        average = before.average
        if average is not None:
            share = jnp.where(finite, blend, 0)
            average = jax.tree.map(lambda mean, new: mean + share * (new - mean), average, params)
        values = StepMetrics(
            loss_K=jnp.where(finite, loss, jnp.nan),
            grad_norm_K=grad_norm,
            update_norm_K=update_norm,
            signal_K=signal,
            noise_K=noise,
        )
        return TrainState(params, opt_state, average), finite, values

    # Whether a step is probed is one for all members: a branch for each would be taken both ways by all.
    step = one_step if members == 1 else jax.vmap(one_step, (0, 0, 0, 0, 0, 0, None), spmd_axis_name="member")
    axis = 0 if members == 1 else 1  # of the steps

    def body(carry: tuple[jax.Array, TrainState, jax.Array, StepMetrics]) -> tuple:
        i, before, going, metrics = carry
        window, lr, blend = (
            jax.lax.dynamic_index_in_dim(column, i, axis, keepdims=False)
            for column in (chunk.window_KxBxM, chunk.lr_K, chunk.blend_K)
        )
        after, going, values = step(before, going, window, lr, blend, knobs, chunk.probed_K[i])
        return i + 1, after, going, jax.tree.map(lambda column, value: column.at[..., i].set(value), metrics, values)

    unset = jnp.zeros(chunk.lr_K.shape, jnp.float32)
    begin = (jnp.zeros((), jnp.int32), state, finite, StepMetrics(*(unset for _ in StepMetrics._fields)))
    _, state, finite, metrics = jax.lax.while_loop(lambda c: (c[0] < chunk.count) & jnp.any(c[2]), body, begin)
    return state, finite, metrics


def window_losses(params: PyTree, window_CxBxM: jax.Array, *, graphdef: nnx.GraphDef) -> jax.Array:
    """Mean loss of each held-out window, [C, B], in C batches of B."""
    return jax.lax.map(lambda window_BxM: token_losses(params, window_BxM, graphdef=graphdef).mean(-1), window_CxBxM)
