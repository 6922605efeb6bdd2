"""A tiny run that every room can use; JAX is set up in tests/train/conftest.py alone."""

import pytest

from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec


@pytest.fixture(scope="session")
def tiny() -> RunSpec:
    """20 steps of a two-layer model on the endless source of known entropy: trains in well under a second."""
    return RunSpec(
        model=ModelSpec(n_layers=2, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=12),
        optim=OptimSpec(peak_lr=1e-2, warmup_steps=2, cooldown_steps=4),
        data=DataSpec(source="zipf-facts"),
        eval=EvalSpec(tokens=1200),
        batch=8,
        steps=20,
    )
