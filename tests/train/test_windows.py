"""Each process makes the rows of its own devices, and they are those of one process."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from scaling import data
from scaling.spec import RunSpec
from scaling.train import Placement
from scaling.train.placement import sharding
from scaling.train.windows import Batches, Measured, padded

MESHES = [
    Placement(), Placement(data=2), Placement(data=8), Placement(data=2, fsdp=4), Placement(fsdp=2, tensor=4),
    Placement(tensor=8),
]  # fmt: skip


class Counted:
    """A source that knows which rows it was asked for."""

    def __init__(self, source: data.Source):
        self._source, self.asked = source, []

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def train_rows(self, row_R: np.ndarray, *rest):
        self.asked += row_R.tolist()
        return self._source.train_rows(row_R, *rest)

    def held_out_rows(self, row_R: np.ndarray, *rest):
        self.asked += row_R.tolist()
        return self._source.held_out_rows(row_R, *rest)


def counted(run: RunSpec) -> Counted:
    return Counted(data.open_source(run.data, run.model))


def batches(run: RunSpec, source: Counted) -> Batches:
    return Batches(run=run, source=source, start=5, count=3, length=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", MESHES, ids=str)
def test_a_batch_has_one_hash_on_any_mesh_and_each_row_is_made_once(tiny: RunSpec, placement: Placement):
    source = counted(tiny)
    made = batches(tiny, source).on(sharding(placement.mesh(), None, "batch", None))
    whole = padded(data.batches(data.open_source(tiny.data, tiny.model), tiny, 5, 3), 4)
    assert hashlib.sha256(np.asarray(made).data).digest() == hashlib.sha256(whole.data).digest()
    assert sorted(source.asked) == [*range(5 * 8, 8 * 8)], "copies on several devices are made once"


def test_no_row_of_another_host_is_read(tiny: RunSpec):
    source = counted(tiny)
    part = batches(tiny, source)[:, 2:4, :]
    assert source.asked == [42, 43, 50, 51, 58, 59]
    np.testing.assert_array_equal(part, batches(tiny, counted(tiny)).whole()[:, 2:4])


@pytest.mark.parametrize("placement", MESHES[1:4], ids=str)
def test_held_out_windows_are_the_same_on_any_mesh_and_end_in_zeros(tiny: RunSpec, placement: Placement):
    run = replace(tiny, eval=replace(tiny.eval, tokens=30 * 12))
    source = counted(run)
    held_out = data.held_out(source, run.eval.tokens, 12)  # type: ignore[arg-type]
    made = [
        np.asarray(
            Measured(held_out=held_out, first=first, shape=(2, 8, 13)).on(
                sharding(placement.mesh(), None, "batch", None)
            )
        )
        for first in (0, 16)
    ]
    assert sorted(source.asked) == [*range(30)]
    found = np.concatenate(made).reshape(32, 13)
    np.testing.assert_array_equal(found[:30], held_out.token_RxT)
    assert not found[30:].any()
