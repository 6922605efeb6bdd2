"""A finite text: documents end to end, cut into windows, some documents held out.

Suffixes: R rows, T = context + 1 tokens of a row.
"""

import functools
import hashlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaling.data.sample import Sample, corrupt
from scaling.spec import DataSpec, ModelSpec, Refusal

_BLOCK_TOKENS = 1 << 22  # what a scan over a whole file holds in memory at once
_HASHED_BYTES = 1 << 30  # a larger text is identified by a sample of its blocks
_SAMPLED_BLOCKS, _SAMPLED_TOKENS = 1024, 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Documents that are read as one text; `open_document(i)` maps document i when a window needs it."""

    sizes: tuple[int, ...]  # tokens of each document
    open_document: Callable[[int], np.ndarray]

    @functools.cached_property
    def tokens(self) -> int:
        return sum(self.sizes)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.sizes, dtype=np.int64)

    def windows(self, start_R: np.ndarray, length: int, dtype: np.dtype) -> np.ndarray:
        """[R, length] tokens from each start on; a window may run from one document into the next."""
        if len(self.sizes) == 1:
            window_WxT = np.lib.stride_tricks.sliding_window_view(self.open_document(0), length)
            return window_WxT[start_R].astype(dtype, copy=False)
        token_RxT = np.empty((len(start_R), length), dtype)
        first_R = np.searchsorted(self._ends, start_R, side="right")
        for row in np.argsort(first_R, kind="stable").tolist():  # by document, so that each is opened once
            document, filled = int(first_R[row]), 0
            offset = int(start_R[row]) - int(self._ends[document]) + self.sizes[document]
            while filled < length:
                piece = self.open_document(document)[offset : offset + length - filled]
                token_RxT[row, filled : filled + len(piece)] = piece
                document, filled, offset = document + 1, filled + len(piece), 0
        return token_RxT

    def blocks(self) -> Iterator[np.ndarray]:
        """All tokens in order, a few MiB at a time."""
        for i, size in enumerate(self.sizes):
            document = read_at_random(self.open_document(i), False)
            for start in range(0, size, _BLOCK_TOKENS):
                yield document[start : start + _BLOCK_TOKENS]
            read_at_random(document)

    def sha256(self) -> str:
        """Of the content end to end; above 1 GiB of blocks evenly spread over it, which the text then says."""
        digest = hashlib.sha256()
        item_bytes = self.open_document(0).itemsize
        if self.tokens * item_bytes <= _HASHED_BYTES:
            for block in self.blocks():
                digest.update(np.ascontiguousarray(block).data)
            return digest.hexdigest()
        start_R = np.linspace(0, self.tokens - _SAMPLED_TOKENS, _SAMPLED_BLOCKS).astype(np.int64)
        for start in start_R:
            digest.update(self.windows(start[None], _SAMPLED_TOKENS, self.open_document(0).dtype).data)
        return f"{digest.hexdigest()} of {_SAMPLED_BLOCKS} blocks of {_SAMPLED_TOKENS * item_bytes} B"


def read_at_random(array: np.ndarray, at_random: bool = True) -> np.ndarray:
    """Tell the system how a memory-mapped array will be read; any other array is left as it is.

    Without this, each window of a file makes the system read ahead of it: 1000 times slower where that was measured.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):  # not on Windows
        base.madvise(mmap.MADV_RANDOM if at_random else mmap.MADV_SEQUENTIAL)
    return array


def in_memory(arrays: list[np.ndarray]) -> Documents:
    """Documents that are arrays already, memory-mapped ones included."""
    return Documents(sizes=tuple(map(len, arrays)), open_document=arrays.__getitem__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """A source of finitely many tokens (see `scaling.data.source` for what is asked of it)."""

    name: str
    kind: Literal["bytes", "tokens"]
    dtype: np.dtype  # of the windows
    whole: Documents  # in path order; train and held_out are disjoint parts of it
    train: Documents
    held_out: Documents
    facts: tuple[tuple[str, str], ...] = ()  # what else identifies it
    entropy: None = None  # of real text: not known

    @property
    def train_tokens(self) -> int:
        return self.train.tokens

    @property
    def held_out_tokens(self) -> int:
        return self.held_out.tokens

    @property
    def bytes_per_token(self) -> float | None:
        return 1.0 if self.kind == "bytes" else None

    @property
    def vocab_size(self) -> int:
        return 256 if self.kind == "bytes" else self._id_range[1] + 1

    @functools.cached_property
    def _id_range(self) -> tuple[int, int]:
        """Smallest and largest token id, from a scan over everything."""
        ranges = [(int(block.min()), int(block.max())) for block in self.whole.blocks()]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @functools.cached_property
    def provenance(self) -> dict[str, str]:
        return {
            "source": self.name,
            "sha256": self.whole.sha256(),
            "sha256_held_out": self.held_out.sha256(),
            "files": str(len(self.whole.sizes)),
            "train_tokens": str(self.train_tokens),
            "held_out_tokens": str(self.held_out_tokens),
            **dict(self.facts),
        }

    @functools.cached_property
    def alphabet_V(self) -> np.ndarray:
        """The tokens that the training text uses, from a scan over it."""
        used_V = np.zeros(self.vocab_size, bool)
        for block in self.train.blocks():
            used_V[block] = True
        return np.flatnonzero(used_V).astype(self.dtype)

    def train_windows(self, context: int) -> int:
        """Windows that the text has. Neighbours share a token, so that each token is predicted once an epoch: all
        but the first and fewer than `context` at the end."""
        return max(0, (self.train_tokens - 1) // context)

    def held_out_windows(self, context: int) -> int:
        return max(0, (self.held_out_tokens - 1) // context)

    def sample(self, data: DataSpec, context: int) -> Sample:
        return Sample.of(data, context, self.train_windows(context))

    def train_rows(self, row_R: np.ndarray, context: int, data: DataSpec) -> np.ndarray:
        """[R, context + 1] tokens of these rows of a run on `data`."""
        if not self.train_windows(context):
            raise Refusal(f"model.context = {context}: {self.name} trains on {self.train_tokens} tokens, no window")
        start_R = self.sample(data, context).visited(row_R) * context
        token_RxT = self.train.windows(start_R, context + 1, self.dtype)
        if data.corrupted:
            corrupt(token_RxT, start_R, self.alphabet_V, data.corrupted, data.seed)
        return token_RxT

    def held_out_rows(self, row_R: np.ndarray, context: int) -> np.ndarray:
        """[R, context + 1] tokens of these held-out windows."""
        return self.held_out.windows(row_R * context, context + 1, self.dtype)

    def misfits(self, model: ModelSpec) -> list[str]:
        """What keeps this model from reading this source, one line each."""
        if self.kind == "bytes":
            if model.vocab_size == 256:
                return []
            return [f"model.vocab_size = {model.vocab_size}: {self.name} is read as bytes, so it must be 256"]
        low, high = self._id_range
        if low < 0:
            return [f"data.source = {self.name!r}: holds token {low}; ids must be at least 0"]
        if high < model.vocab_size:
            return []
        return [
            f"model.vocab_size = {model.vocab_size}: {self.name} holds token {high}; set it to at least {high + 1}, "
            "or say tokens:uint16:PATH or tokens:uint32:PATH if the file was read with the wrong width"
        ]
