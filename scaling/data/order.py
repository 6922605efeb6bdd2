"""Pseudo-random numbers as functions of a counter, and shuffles that are computed instead of stored.

Everything is integer arithmetic modulo 2^64, so a number depends neither on the machine nor on the NumPy version.
Suffix: N elements.
"""

import hashlib
import math

import numpy as np

_ROUNDS = 4  # of two half-rounds each


def key(*words: object) -> int:
    """64 bits that differ for every sequence of words."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little")


def mix(x_N: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that leaves no visible pattern: the output function of SplitMix64.

    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
    """
    x_N = x_N + np.uint64(0x9E3779B97F4A7C15)
    x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_N ^ (x_N >> np.uint64(31))


def draws(stream: int, counter_N: np.ndarray) -> np.ndarray:
    """Number `counter` of a stream, uniform in [0, 1) with 53 bits.

    The counter is mixed before the key enters, so streams of two keys are not shifted copies of each other.
    """
    bits_N = mix(mix(counter_N.astype(np.uint64)) ^ np.uint64(stream))
    return (bits_N >> np.uint64(11)) * 2.0**-53


def shuffled(index_N: np.ndarray, size: int, key_N: np.ndarray) -> np.ndarray:
    """Where a permutation of range(size) sends each index; every key names another permutation.

    A Feistel network on the rectangle of ceil(sqrt(size)) rows that holds range(size): each half-round shifts one
    coordinate by a hash of the other. Indices that land in the unused corner go through it again (cycle walking:
    Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002), which keeps it a permutation.
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    place_N = index_N.astype(np.uint64)
    outside = np.arange(len(place_N))
    while len(outside):
        place_N[outside] = _feistel(place_N[outside], key_N[outside], np.uint64(rows), np.uint64(columns))
        outside = outside[place_N[outside] >= size]
    return place_N.astype(np.int64)


def _feistel(place_N: np.ndarray, key_N: np.ndarray, rows: np.uint64, columns: np.uint64) -> np.ndarray:
    half = np.uint64(32)  # the upper bits of a hash; a coordinate is below 2^32, so their sum does not overflow
    row_N, column_N = np.divmod(place_N, columns)
    for _ in range(_ROUNDS):
        key_N = mix(key_N)
        row_N = (row_N + (mix(column_N ^ key_N) >> half)) % rows
        key_N = mix(key_N)
        column_N = (column_N + (mix(row_N ^ key_N) >> half)) % columns
    return row_N * columns + column_N
