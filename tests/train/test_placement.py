"""The rule by which a run is laid on devices, of which no one need be here."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec
from scaling.train import Placement, placement, program
from scaling.train.placement import APART, Devices, auto, least_bytes

GIB = 1 << 30
# 1.3e9 parameters, of which weights, gradients and moments take 19.8 GiB.
LARGE = RunSpec(
    model=ModelSpec(
        n_layers=24, d_model=2048, d_ff=8192, d_head=128, vocab_size=32768, context=2048, compute_dtype="bfloat16"
    ),
    optim=OptimSpec(peak_lr=1e-3, cooldown_steps=10),
    data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=4096),
    batch=256,
    steps=100,
)


def slice_of(count: int, memory: float, platform: str = "tpu", processes: int = 1) -> Devices:
    return Devices(count=count, memory=int(memory), platform=platform, processes=processes)


def test_every_device_that_the_batch_has_work_for_holds_a_copy(tiny: RunSpec):
    eight = slice_of(8, GIB, "cpu")
    assert auto(tiny, eight)[0] == Placement()  # 96 tokens a step keep one core busy
    assert auto(replace(tiny, batch=8 * 43), eight)[0] == Placement(data=8)
    assert auto(replace(tiny, batch=3 * 43), eight)[0] == Placement(data=3)
    assert auto(replace(tiny, batch=131), eight)[0] == Placement()
    assert auto(tiny, slice_of(8, GIB))[0] == Placement(data=8)


def test_the_state_is_cut_no_further_than_it_has_to_be():
    """Of 4 to 64 GiB a device the smallest divisor, and copies share what is left."""
    for memory, fsdp in ((64, 1), (16, 2), (8, 4), (4, 8)):
        found = auto(LARGE, slice_of(16, memory * GIB))[0]
        assert (found.fsdp, found.data, found.tensor) == (fsdp, 16 // fsdp, 1)


def test_microbatches_come_before_rematerialisation_and_both_before_the_state_is_cut_further():
    found = [one for one in auto(LARGE, slice_of(16, 64 * GIB)) if one.tensor == 1]
    assert found[0].fsdp == 1 and [one.fsdp for one in found] == sorted(one.fsdp for one in found)
    whole = [one for one in found if one.fsdp == 1]
    assert [one.microbatches for one in whole] == sorted(one.microbatches for one in whole)
    assert [one.remat for one in whole] == ["none"] * (len(whole) - 2) + ["dots", "blocks"]
    assert whole[-1].microbatches == 16


def test_rows_that_run_out_leave_devices_to_cut_the_layers(tiny: RunSpec):
    few = replace(LARGE, batch=4)
    found = auto(few, slice_of(16, 64 * GIB))[0]
    assert (found.data, found.tensor) == (4, 4)
    assert auto(replace(few, model=replace(few.model, d_ff=8193)), slice_of(16, 64 * GIB))[0].tensor == 1
    assert auto(replace(tiny, batch=4), slice_of(16, GIB))[0] == Placement(data=4)  # too narrow to be worth it


def test_a_layer_that_is_too_large_is_cut():
    """A block of 13 GiB in 16 bits cannot be gathered in 9, however many devices share the state."""
    wide = replace(LARGE.model, n_layers=2, d_model=24576, d_ff=4 * 24576)
    found = auto(replace(LARGE, model=wide, batch=256), slice_of(256, 9 * GIB))[0]
    assert found.tensor == 2


def test_members_are_dealt_out_over_devices(tiny: RunSpec):
    eight = slice_of(8, GIB)
    assert auto(tiny, eight, 16)[0] == Placement(member=8) and auto(tiny, eight, 3)[0] == Placement(member=3)
    assert Placement(member=8).of(12) == Placement(member=4) and Placement(member=2, data=2).of(1) == Placement(data=2)


def test_several_processes_have_equally_many_rows_or_are_refused(tiny: RunSpec):
    assert auto(replace(tiny, batch=12), slice_of(8, GIB, processes=2))[0] == Placement(data=6)
    with pytest.raises(ValueError, match="batch = 7: must be a multiple of the 2 processes"):
        auto(replace(tiny, batch=7), slice_of(8, GIB, processes=2))


def test_copies_or_cut_states_alone_can_be_asked_for():
    assert {(one.data, one.fsdp) for one in auto(LARGE, slice_of(16, 64 * GIB), how="data")} == {(16, 1)}
    assert auto(LARGE, slice_of(16, 64 * GIB), how="fsdp")[0] == Placement(fsdp=16)


def test_every_placement_of_the_rule_divides_what_it_cuts():
    for count in (1, 2, 6, 8, 12, 64):
        for batch in (1, 6, 64):
            run = replace(LARGE, batch=batch)
            for one in auto(run, slice_of(count, 8 * GIB)):
                assert one.devices <= count and batch % (one.shares * max(1, one.microbatches)) == 0
                assert (
                    run.model.d_model % one.fsdp == run.model.n_heads % one.tensor == run.model.d_ff % one.tensor == 0
                )


def test_nothing_that_fits_is_ruled_out(tiny: RunSpec, monkeypatch: pytest.MonkeyPatch):
    """What is said to be needed at the least is no more than what the compiled program asks for."""
    monkeypatch.setattr(program, "EVAL_TOKENS", 12)  # less than a step, which then is what needs the memory
    for placed in (Placement(data=2, fsdp=2, tensor=2), Placement(remat="blocks")):
        shape = (tiny.model, program.compiled_in(tiny.optim), tiny.batch, tiny.eval.tokens, placed)
        need = program.program.__wrapped__(*shape).memory
        assert need / 8 < least_bytes(tiny, placed, "cpu") <= need


def test_a_gpu_s_loop_over_layers_keeps_its_products_alone():
    """Reading back all that a loop kept takes longer than computing it again (benchmarks/remat.py)."""
    gpu, tpu = slice_of(1, 80 * GIB, "gpu"), slice_of(1, 95 * GIB)
    shallow, deep = (replace(LARGE, model=replace(LARGE.model, n_layers=n), batch=8) for n in (APART, APART + 1))
    assert auto(shallow, gpu)[0].remat == "none" and auto(deep, gpu)[0].remat == "dots"
    assert auto(deep, gpu)[-1].remat == "blocks" and auto(deep, tpu)[0].remat == "none"


def test_the_first_that_fits_is_taken_by_what_the_compiler_says(tiny: RunSpec, monkeypatch: pytest.MonkeyPatch):
    """Cut finer, then rematerialised, then the state cut; the run and its curve stay what they are."""
    tried: list[Placement] = []

    def planted(model, optim, batch, evaluation, placed, members):
        tried.append(placed)
        parts = max(1, placed.microbatches) * {"none": 1, "dots": 1, "blocks": 2}[placed.remat]
        return SimpleNamespace(memory=1e9 / parts / placed.fsdp)

    run = replace(tiny, batch=8 * 43)
    monkeypatch.setattr(program, "program", planted)
    finest = Placement(data=8, microbatches=43)
    for limit, wanted in (
        (1e9, Placement(data=8)), (1e8, finest), (1.2e7, replace(finest, remat="blocks")),
        (8e6, Placement(data=4, fsdp=2, microbatches=43, remat="blocks")),
    ):  # fmt: skip
        monkeypatch.setattr(placement, "memory_limit", lambda limit=limit: int(limit))
        assert program.roomy(run) == wanted
    assert all(placed.microbatches in (0, 43) for placed in tried)


def test_a_placement_is_said_as_it_is_asked_for():
    assert str(Placement()) == "data=1"
    assert str(Placement(data=8, fsdp=4, remat="blocks")) == "data=8,fsdp=4,remat=blocks"


def test_more_devices_than_there_are_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="needs 32 devices, and there are 8; give sizes whose product is at most 8"):
        Placement(data=8, fsdp=4).mesh()
