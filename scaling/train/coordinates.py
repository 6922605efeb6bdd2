"""The coordinate check: how much a few steps move the activations must not depend on the width.

arXiv:2203.03466, appendix D.1. Logits alone are blind to the roles before the last norm, so the residual stream is
measured too: as moved by all weights, and by those of one role while the others stay where they began.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scaling.spec import ModelSpec, OptimSpec
from scaling.train.optim import Knobs
from scaling.train.step import Chunk, graph, init_state, train_steps

# Each program runs once, and compiling it is most of the time.
QUICK = {"xla_backend_optimization_level": 0}


def movement(model: ModelSpec, optim: OptimSpec, steps: int) -> dict[str, float]:
    """Root mean square change over `steps` steps at the peak rate on one batch of 8 random windows.

    Keys: logits; stream, before the last norm; embedding, hidden, residual_out: the stream as moved by that role alone.
    """
    V, L = model.vocab_size, model.context
    batch = np.random.default_rng(0).integers(V, size=(1, 8, L + 1)).astype(np.min_scalar_type(V - 1))
    windows, tokens = np.tile(batch, (steps, 1, 1)), jnp.asarray(batch[0, :, :-1], jnp.int32)
    rates, never = np.full(steps, optim.peak_lr, np.float32), np.zeros(steps, bool)
    chunk = Chunk(windows, rates, 0 * rates, never, np.int32(steps))
    graphdef = graph(model, optim)
    before = jax.jit(lambda key: init_state(model, optim, key), compiler_options=QUICK)(jax.random.key(0))
    take = functools.partial(train_steps, graphdef=graphdef, model=model, optim=optim)
    after, *_ = jax.jit(take, compiler_options=QUICK)(before, np.array(True), chunk, Knobs.of(optim))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def forward(params: Any) -> tuple[jax.Array, jax.Array]:
        merged = nnx.merge(graphdef, params)
        return merged.stream(tokens), merged(tokens)

    def moved(role: str) -> Any:
        return jax.tree.map(
            lambda old, new: new if old.get_metadata()["role"] == role else old,
            before.params,
            after.params,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Param),
        )

    began, ended = forward(before.params), forward(after.params)
    change = {"stream": ended[0] - began[0], "logits": ended[1] - began[1]}
    change |= {role: forward(moved(role))[0] - began[0] for role in ("embedding", "hidden", "residual_out")}
    return {name: float(jnp.sqrt(jnp.mean(value**2))) for name, value in change.items()}
