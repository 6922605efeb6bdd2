"""Loss on held-out windows, with its standard error."""

import math
from typing import NamedTuple

import numpy as np

from scaling.data import HeldOut

BLOCKS = 32  # neighbouring windows share a document and its difficulty; blocks of many are nearly independent


class Loss(NamedTuple):
    mean: float  # nats per token
    standard_error: float  # nats per token


def loss_of(window_loss_R: np.ndarray, held_out: HeldOut, entropy: float | None) -> Loss:
    """Mean held-out loss, from the model's mean loss on each window [R], nats per token.

    On a source that knows the probability of each token, the luck of the draw is taken out: the mean of
    -log p_model + log p_source estimates the excess over the entropy, which is exact (a control variate).
    """
    loss_R = np.asarray(window_loss_R, np.float64)
    offset = 0.0
    if held_out.log_prob_RxL is not None and entropy is not None:
        loss_R = loss_R + held_out.log_prob_RxL.mean(axis=1)
        offset = entropy
    blocks = np.array_split(loss_R, min(BLOCKS, len(loss_R)))
    means = np.array([block.mean() for block in blocks])
    spread = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Loss(offset + float(loss_R.mean()), float(spread))
