import numpy as np
import pytest
from scipy import stats

from scaling.data.order import draws, key, mix, shuffled


def _permutation(size: int, name: int) -> np.ndarray:
    return shuffled(np.arange(size), size, np.full(size, name, np.uint64))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000, 1023, 1024, 1025, 65536, 65537])
def test_a_shuffle_is_a_permutation(size):
    for name in (0, 1, 2**64 - 1):
        np.testing.assert_array_equal(np.sort(_permutation(size, name)), np.arange(size))


def test_every_key_names_another_order():
    orders = {tuple(_permutation(50, name)) for name in range(200)}
    assert len(orders) == 200


def test_all_orders_of_three_occur():
    assert len({tuple(_permutation(3, key(name))) for name in range(200)}) == 6


def test_an_element_lands_anywhere_with_equal_probability():
    size, keys = 37, mix(np.arange(20_000, dtype=np.uint64))
    for index in (0, 36):
        places = shuffled(np.full(len(keys), index), size, keys)
        assert stats.chisquare(np.bincount(places, minlength=size)).pvalue > 1e-4


def test_neighbours_do_not_stay_neighbours():
    order = _permutation(100_000, 7)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert np.mean(np.diff(order) == 1) < 1e-3


def test_a_huge_range_is_shuffled_without_being_stored():
    size = 10**15 + 37
    places = shuffled(np.arange(1000), size, np.full(1000, 5, np.uint64))
    assert len(np.unique(places)) == 1000
    assert places.min() >= 0 and places.max() < size
    assert stats.kstest(places / size, "uniform").pvalue > 1e-4


def test_the_hash_is_splitmix64():
    # The first three outputs of the reference generator started at 0; its state advances by the odd constant.
    step = 0x9E3779B97F4A7C15
    state = np.array([0, step, 2 * step % 2**64], np.uint64)
    assert [hex(x) for x in mix(state).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_draws_are_uniform_and_streams_unrelated():
    counter = np.arange(200_000)
    one, two = draws(key("one"), counter), draws(key("two"), counter)
    for u in (one, two):
        assert 0 <= u.min() and u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-4
    bound = 5 / np.sqrt(len(one))
    assert abs(np.corrcoef(one, two)[0, 1]) < bound
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < bound
    assert len(np.intersect1d(one, two)) < 10
