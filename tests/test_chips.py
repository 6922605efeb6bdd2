"""What slices are, and what is refused of them."""

import math

import pytest

from scaling.chips import CHIPS, CHIPS_PER_HOST, GENERATIONS, Topology, topology
from scaling.spec import Refusal


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_slice_that_is_offered_is_known_and_whole(name: str):
    of = GENERATIONS[name]
    for shape in of.topologies:
        found = topology(f"{name}:{shape}", 2)
        assert found.name == f"{name}:{shape}" and len(found.shape) == of.axes
        assert found.chips == 2 * math.prod(found.shape) and found.devices == found.chips * CHIPS[of.kind].devices
        assert found.hosts * CHIPS_PER_HOST >= found.chips
    chips = [math.prod(map(int, shape.split("x"))) for shape in of.topologies]
    assert chips == sorted(set(chips))


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_chip_computes_faster_than_it_reads_and_reads_faster_than_it_sends(name: str):
    """In bytes of bfloat16: units of a table that were mixed up would show."""
    of = GENERATIONS[name]
    peak = CHIPS[of.kind].peaks["bfloat16"] * CHIPS[of.kind].devices
    assert 100 < peak / of.hbm_bandwidth < 700
    assert 2 < of.hbm_bandwidth / (2 * of.axes * of.link) < 15
    assert of.dcn is None or 4 < of.link / of.dcn < 20
    assert 1 << 34 <= of.hbm <= 1 << 38


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e:5x5", "v5e is offered as 1x1, 2x2"), ("v5e", "v5e is offered as"), ("v5e:4x4x4", "v5e is offered as"),
        ("v7:2x2", "must be GENERATION:SHAPE"), ("", "must be GENERATION:SHAPE"), ("v5p:16x16", "v5p is offered as"),
    ],
)  # fmt: skip
def test_a_slice_that_is_not_offered_is_refused_with_those_that_are(name: str, says: str):
    with pytest.raises(Refusal, match=says):
        topology(name)
    with pytest.raises(Refusal, match="--slices = 0"):
        topology("v5e:4x4", 0)


def test_an_axis_is_a_ring_where_the_wires_close_it():
    """v5e and v6e along a whole side of the pod; the others where a slice is made of cubes of 4 x 4 x 4."""

    def rings(name: str) -> list[bool]:
        of: Topology = topology(name)
        return [of.closes(axis) for axis in range(len(of.shape))]

    assert rings("v5e:16x16") == [True, True] and rings("v5e:8x16") == [False, True] and not any(rings("v6e:8x8"))
    assert all(rings("v5p:4x4x8")) and not any(rings("v5p:2x4x4"))
