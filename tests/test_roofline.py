"""Laws of the roofline: what a step takes at least, by documented rates."""

from dataclasses import replace

import pytest

from scaling.chips import topology
from scaling.cost import count_params
from scaling.roofline import Exchange, estimate, exchange_seconds, expected, mfu, places
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec
from scaling.train.placement import Placement

V5E, CUBE = topology("v5e:16x16"), topology("v5p:4x4x4")
LINK = V5E.of.link
SIZE = 1e9

RUN = RunSpec(
    model=ModelSpec(n_layers=8, d_model=512, d_ff=2048, d_head=64, vocab_size=32_768, context=2048,
                    compute_dtype="bfloat16"),
    optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
    data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=1 << 20),
    batch=256,
    steps=1000,
)  # fmt: skip


def along(name: str, axis: int, count: int = 0) -> tuple[tuple[int, ...], ...]:
    """The first devices along one axis of the torus."""
    of = topology(name)
    line = [at for at in places(of) if all(c == 0 for i, c in enumerate(at) if i != 1 + axis)]
    return tuple(sorted(line)[: count or len(line)])


def seconds(kind: str, group: tuple[tuple[int, ...], ...], name: str = "v5e:16x16") -> float:
    within, between = exchange_seconds(Exchange(kind=kind, bytes=SIZE, group=group), topology(name))
    assert between == 0
    return within


def test_every_device_lies_somewhere_once():
    for name in ("v5e:4x8", "v5p:2x2x4", "tpu7x:2x2x2", "v5e:1x1"):
        for slices in (1, 2):
            of = topology(name, slices)
            assert len(set(places(of))) == len(places(of)) == of.devices


def test_devices_are_counted_host_by_host():
    """As libtpu describes v5e:4x4; tests/train/test_ahead.py holds it to that where libtpu is."""
    first = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1), (0, 2)]
    assert [at[1:3] for at in places(topology("v5e:4x4"))][:9] == first


def test_a_ring_moves_its_tensor_once_and_a_sum_twice():
    ring = along("v5e:16x16", 0)
    assert seconds("all-gather", ring) == pytest.approx(SIZE * 15 / 16 / (2 * LINK))
    assert seconds("reduce-scatter", ring) == seconds("all-gather", ring)
    assert seconds("all-reduce", ring) == pytest.approx(2 * seconds("all-gather", ring))


def test_a_line_takes_twice_as_long_as_a_ring():
    half = along("v5e:16x16", 0, 8)
    assert seconds("all-gather", half) == pytest.approx(SIZE * 7 / 8 / LINK)
    assert seconds("all-gather", along("v5e:8x8", 0), "v5e:8x8") == seconds("all-gather", half)


def test_a_group_over_more_axes_uses_all_their_links():
    alone, both = along("v5p:4x4x4", 0), tuple(places(CUBE))
    shares = (3 / 4) / (63 / 64)
    gathered = seconds("all-gather", alone, "v5p:4x4x4") / seconds("all-gather", both, "v5p:4x4x4")
    assert gathered == pytest.approx(3 * shares)


def test_groups_with_gaps_share_the_links_between():
    ring = along("v5e:16x16", 1)
    assert seconds("all-gather", ring[::4]) == pytest.approx(SIZE * 3 / 4 / (2 * LINK / 4))


def test_two_devices_of_a_chip_share_its_links():
    of = topology("tpu7x:4x4x4")
    line = [at for at in places(of) if at[2:] == (0, 0, 0)]
    both = [at for at in places(of) if at[2:4] == (0, 0)]
    chips = seconds("all-gather", tuple(line), "tpu7x:4x4x4") / (3 / 4)
    assert chips == pytest.approx(2 * seconds("all-gather", tuple(both), "tpu7x:4x4x4") / (7 / 8))


def test_between_slices_each_chip_sends_its_part():
    two = topology("v5e:4x4", 2)
    within, between = exchange_seconds(Exchange(kind="all-reduce", bytes=SIZE, group=tuple(places(two))), two)
    assert between == pytest.approx(2 * (1 / 2) * (SIZE / 16) / two.of.dcn)
    alone = exchange_seconds(Exchange(kind="all-reduce", bytes=SIZE, group=tuple(places(two)[:16])), two)
    assert alone == (within, 0.0)


def test_a_bandwidth_that_is_not_documented_is_not_made_up():
    two = topology("v4:2x2x2", 2)
    sums = Exchange(kind="all-reduce", bytes=SIZE, group=tuple(places(two)))
    assert exchange_seconds(sums, two)[1] is None
    found = estimate(two, "bfloat16", 1e12, 1e9, [sums])
    assert found.network is None and found.terms["interconnect"] == found.links > 0


def test_the_largest_term_bounds_a_step_and_their_sum_is_no_less():
    for flops, memory, size, bound in ((1e13, 1e9, 1e6, "compute"), (1e9, 1e11, 1e6, "memory"),
                                       (1e9, 1e6, 1e10, "interconnect")):  # fmt: skip
        sums = [Exchange(kind="all-reduce", bytes=size, group=tuple(places(V5E)))]
        found = estimate(V5E, "bfloat16", flops, memory, sums)
        assert found.bound == bound and found.seconds == found.terms[bound] < found.seconds_in_turn
        assert found.compute == pytest.approx(flops / 197e12)
    assert estimate(topology("tpu7x:2x2x1"), "bfloat16", 2307e12 / 2, 0, []).seconds == pytest.approx(1)


def test_at_its_peak_a_step_has_an_mfu_of_one():
    flops = RUN.batch_tokens * 6 * count_params(RUN.model).matmul
    attention = RUN.batch_tokens * 12 * RUN.model.n_layers * RUN.model.d_model * (RUN.model.context + 1) / 2
    assert mfu(RUN, 256, V5E, (flops + attention) / (256 * 197e12)) == pytest.approx(1)


def test_what_is_cut_more_finely_needs_less():
    def hbm(**sizes: int | str) -> float:
        return expected(RUN, Placement(**sizes), V5E).hbm

    assert hbm(data=16) > hbm(data=4, fsdp=4) > hbm(fsdp=16)
    assert hbm(data=16) > hbm(data=16, microbatches=2) > hbm(data=16, microbatches=16)
    assert hbm(data=16) > hbm(data=16, remat="dots") > hbm(data=16, remat="blocks")


def test_the_same_work_is_done_on_every_mesh():
    """FLOPs of all devices; rematerialised blocks run forwards once more."""
    whole = expected(RUN, Placement(), V5E).flops
    for cut in (Placement(data=16), Placement(fsdp=8, tensor=2), Placement(data=4, microbatches=8)):
        assert expected(RUN, cut, V5E).flops * cut.devices == pytest.approx(whole)
    assert 1.1 < expected(RUN, Placement(remat="blocks"), V5E).flops / whole < 4 / 3


def test_copies_exchange_gradients_alone_and_cut_weights_in_every_part():
    def kinds(**sizes: int) -> dict[str, float]:
        return {e.kind: e.bytes * e.times for e in expected(RUN, Placement(**sizes), V5E).exchanges}

    n = count_params(RUN.model).total
    assert kinds(data=16) == kinds(data=16, microbatches=4) == {"all-reduce": 4 * n}
    assert kinds(fsdp=16, microbatches=4) == {k: 4 * v for k, v in kinds(fsdp=16).items()}
    assert kinds() == {}
    few = replace(RUN, batch=16)
    assert expected(few, Placement(tensor=4), V5E).exchanges[0].times > 4 * RUN.model.n_layers
