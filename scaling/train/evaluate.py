"""Loss on held-out windows, with its standard error."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scaling import data
from scaling.data import HeldOut
from scaling.spec import RunSpec
from scaling.train import team
from scaling.train.program import Program
from scaling.train.step import PyTree
from scaling.train.windows import Measured

BLOCKS = 32  # neighbouring windows share a document and its difficulty; blocks of many are nearly independent


class Loss(NamedTuple):
    mean: float  # nats per token
    standard_error: float  # nats per token


def evaluate(
    run: RunSpec, params: list[PyTree], compiled: Program, between: Callable[[int, int], None]
) -> list[list[Loss]]:
    """For each of `params` the loss of every member, on the same windows.

    In compiled calls of bounded length; `between(done, of)` is called before each, and may raise.
    """
    source = data.open_evaluated(run)
    held_out = data.held_out(source, run.eval.tokens, run.model.context)
    per_call = math.prod(compiled.eval_shape[:2])
    firsts = range(0, len(held_out), per_call)
    windows_N = [Measured(held_out=held_out, first=first, shape=compiled.eval_shape) for first in firsts]
    pieces, found = len(windows_N), []
    for weights in params:
        loss_NxPxR, in_flight = [], None
        for windows in windows_N:
            between(len(found) * pieces + len(loss_NxPxR) + (in_flight is not None), len(params) * pieces)
            in_flight, before = compiled.losses(weights, windows if team.led() else windows.whole()), in_flight
            if before is not None:  # waited for while the device is already busy with the next
                loss_NxPxR.append(np.asarray(before).reshape(compiled.members, -1))
        loss_NxPxR.append(np.asarray(in_flight).reshape(compiled.members, -1))
        loss_PxR = np.concatenate(loss_NxPxR, axis=1)[:, : len(held_out)]
        found.append([loss_of(loss_R, held_out, source.entropy) for loss_R in loss_PxR])
    return found


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
