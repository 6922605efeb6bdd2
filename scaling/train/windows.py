"""The windows that a compiled call takes, made where they are needed: by each process the rows of its own devices.

Suffixes: K steps of a call, C calls, B rows, M = context + 1 tokens.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.spec import RunSpec

Index = tuple[slice, ...]


class Windows:
    """Tokens that are not read yet, an array of `shape`: `windows[index]` is a part of it, and reads no more."""

    shape: tuple[int, int, int]

    def __getitem__(self, index: Index) -> np.ndarray:
        raise NotImplementedError

    def whole(self) -> np.ndarray:
        return self[:, :, :]

    def on(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """On the devices of all processes, each of which makes what lies on its own."""
        made: dict[str, np.ndarray] = {}  # devices may hold copies of the same rows

        def part(index: Index | None) -> np.ndarray:
            assert index is not None
            if repr(index) not in made:
                made[repr(index)] = self[index]
            return made[repr(index)]

        return jax.make_array_from_callback(self.shape, sharding, part)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches(Windows):
    """[K, B, M] of optimizer steps start .. start + count of a run, with zeros behind them: a call has one length."""

    run: RunSpec
    source: data.Source
    start: int
    count: int
    length: int  # K

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.length, self.run.batch, self.run.model.context + 1

    def __getitem__(self, index: Index) -> np.ndarray:
        steps, rows, tokens = index
        window_SxBxM = data.batches(self.source, self.run, self.start, self.count, rows=rows)
        return padded(window_SxBxM, self.length)[steps, :, tokens]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured(Windows):
    """[C, B, M] of held-out windows, from number `first` on, with zeros behind the last."""

    held_out: data.HeldOut
    first: int
    shape: tuple[int, int, int]

    def __getitem__(self, index: Index) -> np.ndarray:
        calls, rows, tokens = index
        row_CxB = self.first + np.arange(self.shape[0] * self.shape[1]).reshape(self.shape[:2])[calls, rows]
        there_CxB = row_CxB < len(self.held_out)
        window_CxBxM = np.zeros((*row_CxB.shape, self.shape[2]), self.held_out.source.dtype)
        if there_CxB.any():
            window_CxBxM[there_CxB] = self.held_out.windows(row_CxB[there_CxB])
        return window_CxBxM[..., tokens]


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """`rows` with zeros behind them up to `length`."""
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])


def texts(run: RunSpec) -> list[dict[str, Any]]:
    """What identifies the texts that a run is trained and measured on. Raises `Refusal` where one cannot be read."""
    found = [data.open_source(run.data, run.model), data.open_evaluated(run)]
    return [{key: value for key, value in source.provenance.items() if key != "python"} for source in found]
