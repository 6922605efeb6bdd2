"""Held-out bits per byte of interpolated byte n-gram models on bytes:stdlib: what a trained byte model has to beat.

python benchmarks/byte_baseline.py --out benchmarks/results/byte_baseline.json

Witten-Bell interpolation: with c(h) bytes seen after the context h, T(h) of them distinct,
p(x | h) = (c(h x) + T(h) p(x | h without its first byte)) / (c(h) + T(h)), and 1/256 below order 0. Contexts reach back
over document ends, as the windows of a training run do. The training half and the held-out half are those of every run.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from scaling import data
from scaling.data.corpus import Corpus
from scaling.spec import DataSpec, ModelSpec

ORDERS = range(6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    model = ModelSpec(n_layers=1, d_model=16, d_ff=64, vocab_size=256, context=1)
    source = data.open_source(DataSpec(source="bytes:stdlib"), model)
    assert isinstance(source, Corpus)
    train, held_out = (np.concatenate([*part.blocks()]) for part in (source.train, source.held_out))
    bits = dict(zip(ORDERS, bits_per_byte(train, held_out), strict=True))
    for order, value in bits.items():
        print(f"order {order}: {value:.3f} bits per byte")
    if options.out:
        document = {"train_bytes": len(train), "held_out_bytes": len(held_out), "bits_per_byte": bits}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document | {"text": dict(source.provenance)}, indent=1) + "\n")


def bits_per_byte(train: np.ndarray, held_out: np.ndarray) -> list[float]:
    """Mean -log2 p of the held-out bytes under the model of each order; the first of them have shorter contexts."""
    p_R = np.full(len(held_out), 1 / 256)
    found = []
    for order in ORDERS:
        seen, counts = np.unique(grams(train, order + 1), return_counts=True)
        context, first = np.unique(seen >> np.uint64(8), return_index=True)
        total, distinct = np.add.reduceat(counts, first), np.diff([*first, len(seen)])
        gram_R = grams(held_out, order + 1)
        c_R = looked_up(seen, counts, gram_R)
        n_R, t_R = (looked_up(context, values, gram_R >> np.uint64(8)) for values in (total, distinct))
        after_R = np.divide(c_R + t_R * p_R[order:], n_R + t_R, out=p_R[order:].copy(), where=n_R > 0)
        p_R = np.concatenate([p_R[:order], after_R])
        found.append(float(-np.log2(p_R).mean()))
    return found


def grams(tokens: np.ndarray, length: int) -> np.ndarray:
    """Every run of `length` bytes as one number, the last byte lowest: [R - length + 1]."""
    packed = np.zeros(len(tokens) - length + 1, np.uint64)
    for i in range(length):
        packed = (packed << np.uint64(8)) | tokens[i : len(tokens) - length + 1 + i].astype(np.uint64)
    return packed


def looked_up(keys: np.ndarray, values: np.ndarray, wanted_R: np.ndarray) -> np.ndarray:
    """The value of each key, 0 where there is none; `keys` are sorted."""
    place_R = np.minimum(np.searchsorted(keys, wanted_R), len(keys) - 1)
    return np.where(keys[place_R] == wanted_R, values[place_R], 0).astype(np.float64)


if __name__ == "__main__":
    main()
