"""The strictest world that our dependencies allow, on eight simulated devices."""

import functools
from collections.abc import Iterator

import jax
import pytest

from scaling import machine

jax.config.update("jax_num_cpu_devices", 8)  # before the first device is touched
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(a_machine_that_nobody_measured: None) -> None:
    """What takes long to compile is compiled once on this machine, whichever process of the tests comes first."""
    from scaling.train import host

    host.keep_compiled_programs(machine.programs_folder())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
