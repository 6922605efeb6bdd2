"""Which window each row of a run reads, and which of its tokens are corrupted.

One permutation of a source's windows, which the data seed alone names, says which come first. `duplicate_tokens` are
the first of them and `unique_tokens` the first of them too, so that a smaller set is part of a larger one and runs that
differ in one number alone have the rest in common.

Suffixes: R rows, T = context + 1 tokens of a row, V tokens of an alphabet, U blocks of rows, Q rows of a block.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from scaling.data.order import draws, key, mix, shuffled
from scaling.spec import LEAST_SHARE, DataSpec

_BLOCK = 256  # rows of which the share of copies is exact, wherever a run ends but for the rest of one


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a run reads of a source; counts are of windows."""

    windows: int | None  # that the source has; None: endlessly many
    unique: int | None  # that are read, copies included; None: endlessly many
    copied: int  # of these, those that are read again and again
    share: Fraction  # of the rows that are copies
    seed: int

    @classmethod
    def of(cls, data: DataSpec, context: int, windows: int | None) -> "Sample":
        return cls(
            windows=windows,
            unique=data.unique_tokens // context if data.unique_tokens else windows,
            copied=data.duplicate_tokens // context if data.duplicated else 0,
            share=Fraction(data.duplicated).limit_denominator(round(1 / LEAST_SHARE)),
            seed=data.seed,
        )

    @property
    def others(self) -> int | None:
        """Windows that are not copied."""
        return None if self.unique is None else self.unique - self.copied

    def visited(self, row_R: np.ndarray) -> np.ndarray:
        """[R] the window that each of these rows of the run reads, each row a function of its number alone."""
        if not self.copied:
            place_R = self._turn(row_R, self.unique, "order")
        else:
            is_copy_R, copies_R = self._copies(row_R)
            place_R = np.where(
                is_copy_R,
                self._turn(copies_R, self.copied, "order of copies"),
                self.copied + self._turn(row_R - copies_R, self.others, "order"),
            )
        if self.windows is None or (self.unique == self.windows and not self.copied):
            return place_R
        return shuffled(place_R, self.windows, np.full(len(place_R), key("subset", self.seed), np.uint64))

    def _turn(self, number_R: np.ndarray, size: int | None, name: str) -> np.ndarray:
        """[R] places below `size`: each once an epoch, in an order that epoch and seed name."""
        if size is None:
            return number_R
        epoch_R, place_R = np.divmod(number_R, size)
        key_R = mix(epoch_R.astype(np.uint64) ^ np.uint64(key(name, self.seed)))
        return shuffled(place_R, size, key_R)

    def _copies(self, row_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[R] whether each row is a copy, and how many rows before it are.

        Of the first n rows floor(n * share) are, for every n that is a multiple of a block; within a block they fall
        where they may.
        """
        block_R, place_R = np.divmod(row_R, _BLOCK)
        block_U, of_R = np.unique(block_R, return_inverse=True)
        place_Q, first_U = np.arange(_BLOCK), block_U * _BLOCK
        key_U = mix(block_U.astype(np.uint64) ^ np.uint64(key("copies", self.seed)))
        at_UxQ = shuffled(np.tile(place_Q, len(block_U)), _BLOCK, np.repeat(key_U, _BLOCK)).reshape(-1, _BLOCK)
        at_UxQ += first_U[:, None]
        is_copy_UxQ = self._before(at_UxQ + 1) > self._before(at_UxQ)
        before_UxQ = self._before(first_U)[:, None] + np.cumsum(is_copy_UxQ, axis=1) - is_copy_UxQ
        return is_copy_UxQ[of_R, place_R], before_UxQ[of_R, place_R]

    def _before(self, rows: np.ndarray) -> np.ndarray:
        return rows * self.share.numerator // self.share.denominator

    def copies(self, rows: int) -> int:
        """Copies among the first `rows` rows of a run."""
        return int(self._copies(np.array([rows]))[1][0]) if self.copied else 0

    def different(self, rows: int) -> int:
        """Different windows among the first `rows` rows of a run."""
        copies = self.copies(rows)
        rest = rows - copies
        return min(copies, self.copied) + (rest if self.others is None else min(rest, self.others))


def corrupt(token_RxT: np.ndarray, start_R: np.ndarray, alphabet_V: np.ndarray, share: float, seed: int) -> None:
    """Put a uniform draw of the alphabet in the place of a share of these tokens of a text, from place `start` on.

    What becomes of a token depends on the seed and its place in the text alone: it is the text that is corrupted, as
    input and as target, the same in every epoch. What a smaller share replaces, a larger one replaces by the same.
    """
    stream, place_RxT = key("corrupted", seed), start_R[:, None] + np.arange(token_RxT.shape[1])
    hit_RxT = draws(stream, 2 * place_RxT) < share
    drawn_N = draws(stream, 2 * place_RxT[hit_RxT] + 1) * len(alphabet_V)
    token_RxT[hit_RxT] = alphabet_V[drawn_N.astype(np.int64)]
