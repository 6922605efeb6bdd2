"""The strictest world that our dependencies allow, on eight simulated devices."""

import functools
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # before the first device is touched
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def _programs_of_small_chunks() -> object:
    """Compiled once for all modules that ask for them."""
    from scaling.train import program

    return functools.lru_cache(maxsize=16)(program.program.__wrapped__)


@pytest.fixture(scope="module")
def small_chunks(_programs_of_small_chunks: object) -> Iterator[None]:
    """Several compiled calls a run, so that what happens between them is seen."""
    from scaling.train import loop, program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "MAX_CHUNK", 6)
        patch.setattr(program, "program", _programs_of_small_chunks)
        patch.setattr(loop, "program", _programs_of_small_chunks)
        yield
