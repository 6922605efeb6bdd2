from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.fitting.observe import Observations, observe, read_table

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def published() -> Callable[..., Any]:
    """A table of published runs, or a skip that says so."""

    def read(name: str, columns: Mapping[str, str] | None = None) -> Any:
        if not (PUBLISHED / name).is_file():
            pytest.skip(f"no published table {name} in ../shared/data")
        return read_table(PUBLISHED / name, columns)

    return read


@pytest.fixture
def runs() -> Callable[..., Observations]:
    """Runs at N and D with the losses given: 6 N D FLOPs, one group, a trunk of its own for each."""

    def build(n: Any, d: Any, loss: Any, **columns: Any) -> Observations:
        import pandas

        table: dict[str, Any] = {
            "n_params": np.asarray(n, float),
            "tokens": np.asarray(d, float),
            "loss": np.asarray(loss, float),
        }
        table["flops"] = 6 * table["n_params"] * table["tokens"]
        table["run_id"] = [f"r{i:03d}" for i in range(len(table["loss"]))]
        return observe(pandas.DataFrame(table | columns), params="n_params")

    return build


@pytest.fixture
def grid() -> tuple[np.ndarray, np.ndarray]:
    """25 points: 5 sizes from 4k to 1M parameters, 5 horizons from 0.2M to 50M tokens."""
    n, d = np.meshgrid(np.geomspace(4e3, 1e6, 5), np.geomspace(2e5, 5e7, 5), indexing="ij")
    return n.ravel(), d.ravel()
