"""How the weights move: learning rate by step, and the optimizers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx

from scaling.spec import OptimSpec, RunSpec
from scaling.train.parametrization import Role

Number = jax.Array | np.float32
Flag = jax.Array | bool
PyTree = Any


class Knobs(NamedTuple):
    """The numbers of an optimizer that enter a compiled step as arguments, so that one compile serves a sweep."""

    beta1: Number
    beta2: Number
    epsilon: Number
    momentum: Number
    weight_decay: Number
    clip_norm: Number

    @classmethod
    def of(cls, optim: OptimSpec) -> "Knobs":
        return cls(*(np.float32(getattr(optim, name)) for name in cls._fields))


def learning_rates(run: RunSpec, start: int, count: int) -> np.ndarray:
    """Learning rate of optimizer steps start .. start + count, float32 [count].

    Linear warm-up, then constant; wsd ends in a decay to zero, linear or 1 - sqrt of the share that is over
    (arXiv:2405.18392, section 4); cosine (arXiv:1608.03983) and linear (arXiv:2502.15938) fall over the rest of the run
    or of `horizon_steps`, and stay at their end where the run is longer than its horizon.
    """
    o, step = run.optim, np.arange(start, start + count, dtype=np.float64)
    factor = np.minimum(1.0, (step + 1) / o.warmup_steps) if o.warmup_steps else np.ones(count)
    if o.schedule == "wsd":
        left = (run.steps - step) / o.cooldown_steps
        factor = np.minimum(factor, left if o.cooldown == "linear" else 1 - np.sqrt(np.clip(1 - left, 0, 1)))
    elif o.schedule in ("cosine", "linear"):
        horizon = o.horizon_steps or run.steps
        progress = np.clip((step - o.warmup_steps) / max(1, horizon - o.warmup_steps), 0, 1)
        fall = 0.5 * (1 + np.cos(np.pi * progress)) if o.schedule == "cosine" else 1 - progress
        factor = factor * (o.final_lr + (1 - o.final_lr) * fall)
    return (o.peak_lr * factor).astype(np.float32)


def blends(run: RunSpec, start: int, count: int) -> np.ndarray:
    """Share of the new weights in their average at steps start .. start + count, float32 [count].

    After t steps it is 1 / (average t): the average looks back on that share of the run so far, whatever its
    length, and weighs step s like s^(1 / average - 1) (power function average, arXiv:2312.02696, section 3.1).
    """
    step = np.arange(start, start + count, dtype=np.float64)
    return np.minimum(1.0, 1 / np.maximum(run.optim.average * (step + 1), 1e-300)).astype(np.float32)


def optimizer(name: str, knobs: Knobs, finite: Flag = True) -> optax.GradientTransformation:
    """Gradient -> direction of one step, for `changes`; schedule_free has its own there.

    The state stays as it is where the gradient is not `finite`.
    """
    return optax.chain(_clip(knobs), _directions(name, knobs, finite))


def _directions(name: str, knobs: Knobs, finite: Flag) -> optax.GradientTransformation:
    return {
        "adamw": lambda: _adam(knobs, finite),
        "sgd": lambda: _kept(optax.trace(decay=knobs.momentum), finite),  # type: ignore[arg-type]
        "muon": lambda: _kept(_muon(knobs), finite),
        "schedule_free": lambda: _schedule_free(knobs, jnp.zeros(()), None),
    }[name]()


def changes(
    optim: OptimSpec,
    knobs: Knobs,
    params: PyTree,
    grads: PyTree,
    opt_state: PyTree,
    lr: jax.Array,
    multipliers: PyTree,
    finite: Flag = True,
) -> tuple[PyTree, PyTree]:
    """What one step at the learning rate `lr`, times each tensor's multiplier, adds to the weights; optimizer state
    after it."""
    if optim.name == "schedule_free":
        tx = optax.chain(_clip(knobs), _kept(_schedule_free(knobs, lr, multipliers), finite))
        return tx.update(grads, opt_state, params)
    directions, opt_state = optimizer(optim.name, knobs, finite).update(grads, opt_state, params)
    return _changed(params, directions, lr, multipliers, knobs), opt_state


def measured(optim: OptimSpec, params: PyTree, opt_state: PyTree) -> PyTree:
    """The weights that a loss is measured on: those that were trained, or their average x under schedule_free.

    x follows from the trained y = (1 - beta1) z + beta1 x (arXiv:2405.15682, equation 1), with beta1 of the run.
    """
    if optim.name != "schedule_free":
        return params
    return jax.tree.map(lambda y, z: (y - (1 - optim.beta1) * z) / optim.beta1, params, opt_state[1].z)


def change(
    weight: jax.Array, direction: jax.Array, lr: jax.Array, multiplier: float, role: Role, weight_decay: Number
) -> jax.Array:
    """Of a weight in one step. Decay is decoupled and not scaled by width (arXiv:2512.05620); gains do not decay."""
    decay = jnp.zeros(()) if role == "gain" else weight_decay * weight
    return -lr * (multiplier * direction + decay)


def _changed(params: PyTree, directions: PyTree, lr: jax.Array, multipliers: PyTree, knobs: Knobs) -> PyTree:
    roles = jax.tree.map(
        lambda param: param.replace(param.get_metadata()["role"]),
        params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )
    return jax.tree.map(
        lambda weight, direction, multiplier, role: change(weight, direction, lr, multiplier, role, knobs.weight_decay),
        params,
        directions,
        multipliers,
        roles,
    )


def _clip(knobs: Knobs) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by one factor, which fuses into what follows; quotients are a pass of their own."""

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, knobs.clip_norm / optax.tree.norm(grads))
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # type: ignore[arg-type]


def _kept(tx: optax.GradientTransformation, finite: Flag) -> optax.GradientTransformation:
    """`tx`, whose state stays as it is where the gradient is not finite."""

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        directions, after = tx.update(grads, state, params)
        return directions, jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)

    return optax.GradientTransformation(tx.init, update)  # type: ignore[arg-type]


def _adam(knobs: Knobs, finite: Flag = True) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, whose direction is taken from the moments that are kept.

    From the moments before they are kept or not, XLA:CPU would compute them twice, and copy the old ones to do so.
    """

    def update(grads: PyTree, state: optax.ScaleByAdamState, params: PyTree = None) -> tuple[PyTree, PyTree]:
        mu = optax.tree.update_moment(grads, state.mu, knobs.beta1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, knobs.beta2, 2)
        after = optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        mu_hat = optax.tree.bias_correction(after.mu, knobs.beta1, after.count)
        nu_hat = optax.tree.bias_correction(after.nu, knobs.beta2, after.count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + knobs.epsilon), mu_hat, nu_hat), after

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = optax.tree.zeros_like
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _schedule_free(knobs: Knobs, lr: jax.Array, multipliers: PyTree) -> optax.GradientTransformationExtraArgs:
    """AdamW without a first moment inside schedule-free averaging, weighted by the squared rate (arXiv:2405.15682)."""
    inner = optax.scale_by_adam(b1=0.0, b2=knobs.beta2, eps=knobs.epsilon)  # type: ignore[arg-type]

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        directions, state = inner.update(grads, state, params)
        return _changed(params, directions, lr, multipliers, knobs), state

    base = optax.GradientTransformation(inner.init, update)  # type: ignore[arg-type]
    return optax.contrib.schedule_free(base, learning_rate=lr, b1=knobs.beta1)  # type: ignore[arg-type]


class MuonState(NamedTuple):
    hidden: PyTree  # by path, of the matrices that are orthogonalised
    others: PyTree


def _muon(knobs: Knobs) -> optax.GradientTransformation:
    """Matrices within the blocks by orthogonalised Nesterov momentum, all else by Adam (arXiv:2502.16982, section 2).

    An orthogonal m x n matrix has entries of root mean square max(m, n)^-1/2; 0.2 max(m, n)^1/2 times it moves weights
    as much as Adam does (equation 4 there), so that one learning rate serves both. Query, key and value of all heads
    are one matrix here and are orthogonalised as one; each layer of a stack is one by itself.
    """
    whole = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    matrices = optax.contrib.scale_by_muon(
        beta=knobs.momentum,  # type: ignore[arg-type]
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: whole, tree),
    )
    adam = _adam(knobs)

    def split(tree: PyTree) -> tuple[dict[str, nnx.Param], dict[str, nnx.Param]]:
        named = {jax.tree_util.keystr(path): leaf for path, leaf in _variables(tree)[0]}
        hidden = {key: leaf for key, leaf in named.items() if leaf.get_metadata()["role"] in ("hidden", "residual_out")}
        return hidden, {key: leaf for key, leaf in named.items() if key not in hidden}

    def init(params: PyTree) -> MuonState:
        hidden, others = split(params)
        return MuonState(matrices.init(hidden), adam.init(others))

    def update(grads: PyTree, state: MuonState, params: PyTree = None) -> tuple[PyTree, MuonState]:
        hidden, others = split(grads)
        turned, state_hidden = matrices.update(hidden, state.hidden)
        turned = jax.tree.map(lambda x: 0.2 * max(x.shape[-2:]) ** 0.5 * x, turned)
        plain, state_others = adam.update(others, state.others)
        leaves, structure = _variables(grads)
        both = turned | plain
        found = [both[jax.tree_util.keystr(path)] for path, _ in leaves]
        return jax.tree.unflatten(structure, found), MuonState(state_hidden, state_others)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _variables(tree: PyTree) -> tuple[list[tuple[Any, nnx.Param]], Any]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
