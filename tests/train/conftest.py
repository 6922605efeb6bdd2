"""The strictest world that our dependencies allow, on eight simulated devices."""

from collections.abc import Iterator

import jax
import pytest

from scaling import machine
from scaling.train import host, program

jax.config.update("jax_num_cpu_devices", 8)  # before the first device is touched
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(a_machine_that_nobody_measured: None) -> None:
    """What takes long to compile is compiled once on this machine, whichever process of the tests comes first."""
    host.keep_compiled_programs(machine.programs_folder())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Several compiled calls a run, so that what happens between them is seen; and one program of a shape for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "MAX_CHUNK", 6)
        program.program.cache_clear()
        yield
    program.program.cache_clear()
