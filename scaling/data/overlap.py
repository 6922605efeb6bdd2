"""How much of a text that a run is measured on stands in the text that it is trained on.

Suffixes: N places of a text, K passages.
"""

import functools

import numpy as np

from scaling.data.corpus import Corpus, Documents
from scaling.data.order import mix

PASSAGE = 64  # bytes
MOST_BYTES = 1 << 28  # of either text, looked through in about two seconds
_WORD = np.dtype("<u8")
_ODD = np.uint64(0x9E3779B97F4A7C15)
_LOOKED_AT = np.uint64(1 << 58)  # one place in 64


@functools.lru_cache(maxsize=8)
def trained_share(trained: Corpus, evaluated: Corpus) -> float | None:
    """The share of the held-out text of `evaluated`, both bytes, that is in the training text of `trained` word for
    word: of its different passages of 64 bytes, those at one place in 64, which the eight bytes there choose, so that
    a passage is chosen in both texts or in neither. None where one of them is too large to be looked through.
    """
    if max(trained.train_tokens, evaluated.held_out_tokens) > MOST_BYTES:
        return None
    wanted_K = _passages(evaluated.held_out)
    return float(np.isin(wanted_K, _passages(trained.train)).mean()) if len(wanted_K) else 0.0


def _passages(text: Documents) -> np.ndarray:
    """[K] hashes of the different chosen passages."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *map(_of_block, text.blocks())]))


def _of_block(block_N: np.ndarray) -> np.ndarray:
    block_N = np.ascontiguousarray(block_N)
    chosen = []
    for shift in range(min(_WORD.itemsize, max(0, len(block_N) - PASSAGE + 1))):
        words = (len(block_N) - shift) // _WORD.itemsize
        word_N = np.frombuffer(block_N.data, _WORD, words, shift)
        place_N = np.flatnonzero(word_N * _ODD < _LOOKED_AT) * _WORD.itemsize + shift
        chosen.append(place_N[place_N + PASSAGE <= len(block_N)])
    place_K = np.concatenate([np.empty(0, np.int64), *chosen])
    hash_K = np.zeros(len(place_K), np.uint64)
    if len(place_K):
        passage_KxP = np.lib.stride_tricks.sliding_window_view(block_N, PASSAGE)[place_K]
        for word_K in passage_KxP.view(_WORD).T:
            hash_K = mix(hash_K ^ word_K)
    return hash_K
