"""Compiled for slices that are not here. What needs libtpu (the extra tpu) is skipped where it is not installed; that a
step lowers for a TPU is checked everywhere."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

from scaling.chips import CHIPS, GENERATIONS, topology
from scaling.roofline import expected, places
from scaling.spec import ModelSpec, Refusal, RunSpec
from scaling.train import ahead, rank
from scaling.train.ahead import Compiled, Memory
from scaling.train.placement import Placement

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed (the extra tpu)")


@pytest.fixture(scope="module")
def small(tiny: RunSpec) -> RunSpec:
    """Of heads and a context that the TPU's kernel takes."""
    model = ModelSpec(
        n_layers=1, d_model=128, d_ff=256, d_head=64, vocab_size=256, context=128, compute_dtype="bfloat16"
    )
    return replace(tiny, model=model)


@pytest.mark.parametrize("place", [dict(data=16), dict(fsdp=16), dict(data=8, tensor=2)], ids=str)
def test_a_step_lowers_for_a_tpu_on_every_kind_of_mesh(small: RunSpec, place: dict[str, int]):
    """With its attention kernel, forwards and backwards, each on the rows and heads of its own device."""
    text = ahead.lowered(replace(small, batch=32), Placement(**place), topology("v5e:4x4"))
    assert "mhlo.num_partitions = 16" in text
    calls = [line for line in text.splitlines() if "@tpu_custom_call" in line]
    rows, heads = 32 // place.get("data", 1) // place.get("fsdp", 1), 2 // place.get("tensor", 1)
    assert sum(f"tensor<{rows}x{heads}x128x64xbf16>" in line for line in calls) >= 3


def test_candidates_take_all_devices_and_fit_by_formula(small: RunSpec):
    large = replace(small, batch=64, model=replace(small.model, n_layers=40, d_model=2560, d_ff=10240, context=2048))
    for name in ("v5e:4x4", "v5p:4x4x4"):
        of = topology(name)
        found = rank.candidates(large, of)
        assert len(found) == len(set(found)) > 3
        assert all(one.devices == of.devices and large.batch % one.shares == 0 for one in found)
        assert all(expected(large, one, of).hbm <= rank.HEADROOM * of.device_hbm for one in found)
        estimates = [rank.formula(large, one, of).seconds for one in found]
        assert estimates == sorted(estimates)
    assert rank.candidates(replace(small, batch=1), topology("v5e:1x1")) == [Placement()]


def test_what_does_not_fit_is_followed_by_what_may(small: RunSpec):
    """The rule's placements in turn until one fits, then the best by formula; nothing is compiled twice."""
    of, tried = topology("v5e:2x2"), []

    def planted(run: RunSpec, placement: Placement, slice_of: object) -> Compiled:
        tried.append(placement)
        fits = placement.tensor == 1 and placement.microbatches > 1
        memory = Memory(fits=fits, limit=100, peak=50 if fits else 130)
        found = rank.formula(run, placement, of) if fits else None
        return Compiled(placement=placement, memory=memory, seconds=1.0, estimate=found)

    first, others = ahead.judge(small, of, "auto", 3, planted)
    assert tried == [*dict.fromkeys(tried)] and {first.placement, *(one.placement for one in others)} == set(tried)
    assert tried[0] == rank.by_rule(small, of)[0] and first.memory.fits and first.memory.over == 0
    best = ahead.proposed(first, others)
    assert best and best.memory.fits
    sizes = Placement(data=2, tensor=2)
    asked, _ = ahead.judge(small, of, sizes, 1, planted)
    assert asked.placement == sizes and asked.memory.over == 30
    assert "estimate" not in asked.to_json(small, of)


def test_a_compiler_that_ran_out_of_memory_says_by_how_much():
    of = topology("v5e:4x4")
    for said in (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.",
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (20.50G) exceeds available HBM (15.75G).",
    ):
        memory = ahead._refused(said, of)
        assert (memory.fits, memory.limit, memory.over) == (False, int(15.75 * 2**30), int(4.75 * 2**30))
    with pytest.raises(RuntimeError, match="does not say"):
        ahead._refused("RESOURCE_EXHAUSTED", of)


def test_a_run_that_cannot_take_every_device_is_refused_by_its_numbers(small: RunSpec):
    """A v5e compiles nothing for some of its devices: three rows of two heads do not make sixteen."""
    with pytest.raises(Refusal, match="3 rows, 2 heads, .* take a smaller slice, or a batch that is a multiple of 16"):
        ahead.judge(replace(small, batch=3), topology("v5e:4x4"), "auto", 1)
    few = replace(small, batch=12, model=replace(small.model, d_model=256, d_ff=512))
    assert {one.devices for one in rank.by_rule(few, topology("v5e:4x4"))} == {16}


@needs_libtpu
@pytest.mark.parametrize("name", GENERATIONS)
def test_slices_are_as_libtpu_describes_them(name: str):
    for shape in GENERATIONS[name].topologies[:5]:
        of = topology(f"{name}:{shape}")
        found = ahead.devices(of)
        assert [ahead.place(device) for device in found] == places(of)
        assert len({device.process_index for device in found}) == of.hosts
        assert CHIPS[found[0].device_kind] == of.chip
    two = ahead.devices(topology(f"{name}:{GENERATIONS[name].topologies[1]}", 2))
    assert [ahead.place(d) for d in two] == places(topology(f"{name}:{GENERATIONS[name].topologies[1]}", 2))


@needs_libtpu
def test_a_run_is_compiled_for_a_slice_that_is_not_here(small: RunSpec):
    of = topology("v5e:2x2")
    found = ahead.compile_for(small, Placement(data=2, fsdp=2), of)
    assert found.memory.fits and 0 < found.memory.peak < found.memory.limit
    kernels = small.batch * small.model.context * (small.model.context + 1) / 2 * small.model.d_model * 2 * 9
    exact, of_all = ahead.step_flops(small), found.placement.devices
    scores = small.batch * small.model.context * (small.model.context + 1) / 2 * small.model.d_model * 2 * 6
    assert found.kernel_flops * of_all == pytest.approx(kernels)
    assert (found.flops - found.kernel_flops) * of_all == pytest.approx(exact - scores, rel=1e-6)
    kinds = found.to_json(small, of)["collectives"]
    assert kinds["all-gather"]["bytes"] > 0 and kinds["all-reduce"]["bytes"] > 0
    assert found.estimate.seconds <= found.estimate.seconds_in_turn
