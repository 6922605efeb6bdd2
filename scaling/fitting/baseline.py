"""What a law's forecast must beat: a straight line through two points."""

from collections.abc import Callable

import numpy as np

from scaling.fitting.laws import Array


def line_through_two(along: Array, y: Array) -> Callable[[Array], Array]:
    """The straight line of ln y in ln C through the best run and the best of those with at most half its compute.

    `along` is C and `y` the loss, each [R]. Without a run of half the compute the line is level.
    """
    last = int(np.lexsort((along, y))[0])
    before = np.flatnonzero(along <= along[last] / 2)
    if not len(before):
        return lambda values: np.full(len(values), y[last])
    first = before[y[before].argmin()]
    slope = np.log(y[last] / y[first]) / np.log(along[last] / along[first])
    return lambda values: y[last] * (values / along[last]) ** slope
