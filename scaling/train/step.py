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
from scaling.train.optim import Knobs, moved, optimizer
from scaling.train.parametrization import lr_multiplier
from scaling.train.placement import CPU_PART_TOKENS

PyTree = Any


class TrainState(NamedTuple):
    params: PyTree
    opt_state: PyTree


class StepMetrics(NamedTuple):
    """One value a step, [K]."""

    loss_K: jax.Array  # training loss before the step, nats per token
    grad_norm_K: jax.Array  # before clipping


def init_state(model: ModelSpec, optim: OptimSpec, key: jax.Array) -> TrainState:
    params = nnx.state(Transformer(model, optim, key), nnx.Param)
    knobs = Knobs.of(optim)
    return TrainState(params, optimizer(optim.name, knobs).init(params))


def graph(model: ModelSpec, optim: OptimSpec) -> nnx.GraphDef:
    """The model without its weights."""
    abstract = nnx.eval_shape(lambda: Transformer(model, optim, jax.random.key(0)))
    return nnx.split(abstract, nnx.Param)[0]


def mean_loss(params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef) -> jax.Array:
    """Next-token cross-entropy of windows of M = context + 1 tokens, nats per token."""
    return token_losses(params, window_BxM, graphdef=graphdef).mean()


def token_losses(params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef) -> jax.Array:
    """[B, context] float32."""
    token_BxL, target_BxL = window_BxM[:, :-1].astype(jnp.int32), window_BxM[:, 1:].astype(jnp.int32)
    logit_VxT = nnx.merge(graphdef, params)(token_BxL)
    loss_T = optax.softmax_cross_entropy_with_integer_labels(logit_VxT, target_BxL.reshape(-1), axis=0)
    return loss_T.reshape(target_BxL.shape)


def mean_gradients(
    params: PyTree, window_BxM: jax.Array, *, graphdef: nnx.GraphDef, mesh: Mesh | None = None
) -> tuple[jax.Array, PyTree]:
    """Mean loss of a batch, and its gradient.

    On a mesh that holds whole copies of the weights, each copy takes its own rows and the copies meet once. On a CPU a
    copy takes its rows in equal parts, one after another, and adds up.
    """
    copies = mesh.shape["data"] if mesh and mesh.size == mesh.shape["data"] else 1
    platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    gradients = jax.value_and_grad(functools.partial(mean_loss, graphdef=graphdef))

    def of_copy(params: PyTree, window_BxM: jax.Array) -> tuple[jax.Array, PyTree]:
        B, M = window_BxM.shape
        parts = _parts(B, M - 1) if platform == "cpu" else 1
        if parts == 1:
            return gradients(params, window_BxM)
        # A part is every parts-th row, so that rows which are cut over devices stay where they are.
        window_RxPxM = window_BxM.reshape(B // parts, parts, M)
        total = jax.lax.fori_loop(
            0,
            parts,
            lambda i, total: jax.tree.map(jnp.add, total, gradients(params, window_RxPxM[:, i])),
            jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params)),
        )
        return jax.tree.map(lambda x: x / parts, total)

    if copies == 1:
        return of_copy(params, window_BxM)

    def of_all(params: PyTree, window_BxM: jax.Array) -> tuple[jax.Array, PyTree]:
        return jax.lax.pmean(of_copy(params, window_BxM), "data")

    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    # Unchecked: the check would have each part's gradients summed over the copies, where once a step is enough.
    return jax.shard_map(of_all, mesh=mesh, in_specs=(everywhere, rows), out_specs=everywhere, check_vma=False)(
        params, window_BxM
    )


def _parts(rows: int, context: int) -> int:
    """The fewest equal parts of rows with at most CPU_PART_TOKENS each, or of one row where rows are longer."""
    even = (n for n in range(1, rows + 1) if rows % n == 0)
    return next((n for n in even if rows // n * context <= CPU_PART_TOKENS), rows)


def train_steps(
    state: TrainState,
    window_KxBxM: jax.Array,
    lr_K: jax.Array,
    count: jax.Array,
    knobs: Knobs,
    *,
    graphdef: nnx.GraphDef,
    model: ModelSpec,
    optim: OptimSpec,
    mesh: Mesh | None = None,
) -> tuple[TrainState, StepMetrics]:
    """The first `count` of K steps.

    The number of steps is an argument, so one compiled program serves chunks of any length, trunks, cooldowns and
    restarts alike, and a step computes the same bits wherever a chunk begins. Of `optim` only the name and the
    parametrization are read here; the rest comes as arguments.
    """
    tx = optimizer(optim.name, knobs)
    multipliers = jax.tree.map(
        lambda param: param.replace(lr_multiplier(param.get_metadata()["role"], model.d_model, optim)),
        state.params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Param),
    )

    def one_step(i: jax.Array, carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
        (params, opt_state), metrics = carry
        loss, grads = mean_gradients(params, window_KxBxM[i], graphdef=graphdef, mesh=mesh)
        directions, opt_state = tx.update(grads, opt_state, params)
        params = jax.tree.map(
            lambda weight, direction, multiplier: moved(weight, direction, lr_K[i], multiplier, knobs.weight_decay),
            params,
            directions,
            multipliers,
        )
        metrics = StepMetrics(metrics.loss_K.at[i].set(loss), metrics.grad_norm_K.at[i].set(optax.tree.norm(grads)))
        return TrainState(params, opt_state), metrics

    unset_K = jnp.zeros(window_KxBxM.shape[0], jnp.float32)
    return jax.lax.fori_loop(0, count, one_step, (state, StepMetrics(unset_K, unset_K)))


def window_losses(params: PyTree, window_CxBxM: jax.Array, *, graphdef: nnx.GraphDef) -> jax.Array:
    """Mean loss of each held-out window, [C, B], in C batches of B."""
    return jax.lax.map(lambda window_BxM: token_losses(params, window_BxM, graphdef=graphdef).mean(-1), window_CxBxM)
