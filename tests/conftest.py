"""A tiny run that every room can use; JAX is set up in tests/train/conftest.py alone."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scaling import machine
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

# Before JAX is imported, here or in a worker. Otherwise the key of a compiled program names the folder that it is kept
# in (for caches of GPU kernels inside), and two sessions, whose folders differ, share nothing.
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"


# It resets logging as it is imported, and that closes what the handlers of absl, which comes with JAX, write to: here a
# capture of pytest's, long gone, and pytest with it. So it comes first.
with contextlib.suppress(ImportError):
    import submitit  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the tests marked long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ten minutes on two cores hold the main cases of every law; the rest is asked for."""
    if not config.getoption("--long"):
        held = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in held]
        config.hook.pytest_deselected(items=held)


@pytest.fixture(scope="session", autouse=True)
def a_machine_that_nobody_measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor change the table of the machine they run on. What it has compiled they do use."""
    programs, cache = machine.programs_folder(), tmp_path_factory.mktemp("cache")
    programs.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", str(cache))
        machine.cache_folder().mkdir()
        machine.programs_folder().symlink_to(programs)
        yield


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """gs:// is an empty store in memory (tests/bucket): its `objects`, and what happens `before` a request."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bucket"))
    import gcsfs  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(gcsfs, "objects", gcsfs.Memory())
    monkeypatch.setattr(gcsfs, "before", gcsfs.nothing)
    return gcsfs


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
