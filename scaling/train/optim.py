"""How the weights move: learning rate by step, and the optimizers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scaling.spec import OptimSpec, RunSpec

Number = jax.Array | np.float32


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

    Linear warm-up, then constant, a final linear decay to zero (wsd, arXiv:2405.18392), or a cosine over the whole
    rest of the run (arXiv:1608.03983).
    """
    o, step = run.optim, np.arange(start, start + count, dtype=np.float64)
    factor = np.minimum(1.0, (step + 1) / o.warmup_steps) if o.warmup_steps else np.ones(count)
    if o.schedule == "wsd":
        factor = np.minimum(factor, (run.steps - step) / o.cooldown_steps)
    elif o.schedule == "cosine":
        progress = np.clip((step - o.warmup_steps) / max(1, run.steps - o.warmup_steps), 0, 1)
        factor = factor * (o.final_lr + (1 - o.final_lr) * 0.5 * (1 + np.cos(np.pi * progress)))
    return (o.peak_lr * factor).astype(np.float32)


def blends(run: RunSpec, start: int, count: int) -> np.ndarray:
    """Share of the new weights in their average at steps start .. start + count, float32 [count].

    After t steps it is 1 / (average t): the average looks back on that share of the run so far, whatever its
    length, and weighs step s like s^(1 / average - 1) (power function average, arXiv:2312.02696, section 3.1).
    """
    step = np.arange(start, start + count, dtype=np.float64)
    return np.minimum(1.0, 1 / np.maximum(run.optim.average * (step + 1), 1e-300)).astype(np.float32)


def optimizer(name: str, knobs: Knobs) -> optax.GradientTransformation:
    """Gradient -> direction of one step; the caller multiplies by the learning rate and decays the weights."""
    clip = optax.clip_by_global_norm(knobs.clip_norm)  # type: ignore[arg-type]
    direction = {
        "adamw": lambda: optax.scale_by_adam(b1=knobs.beta1, b2=knobs.beta2, eps=knobs.epsilon),  # type: ignore[arg-type]
        "sgd": lambda: optax.trace(decay=knobs.momentum),  # type: ignore[arg-type]
    }[name]()
    return optax.chain(clip, direction)


def moved(weight: jax.Array, direction: jax.Array, lr: jax.Array, multiplier: float, weight_decay: Number) -> jax.Array:
    """A weight after one step. Decay is decoupled and not scaled by width (arXiv:2512.05620); gains do not decay."""
    decay = weight_decay * weight if weight.ndim > 1 else jnp.zeros(())
    return weight - lr * (multiplier * direction + decay)
