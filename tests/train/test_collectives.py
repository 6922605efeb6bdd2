"""What the devices of each placement say to each other, read from the compiled program."""

import pytest

from scaling.train.collectives import Collective, collectives

TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (p: f32[64,32]) -> f32[16,32] {
  %p = f32[64,32]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[64,32]{1,0:T(8,128)S(1)} all-reduce(%p), channel_id=9, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %slice = f32[16,32]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %i, %z), dynamic_slice_sizes={16,32}
}

%part (t: (s32[], bf16[16,32])) -> (s32[], bf16[16,32]) {
  %all-gather-start = (bf16[32,32], bf16[64,32]) all-gather-start(), dimensions={0}, replica_groups={{0,1},{2,3},{4,5}}
  %all-gather-done = bf16[64,32]{1,0} all-gather-done(%all-gather-start)
  %reduce-scatter = f32[8,32]{1,0} reduce-scatter(%g), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

%probed (t: f32[32]) -> f32[32] {
  %collective-permute-start = (u8[4,33], u8[4,33], u32[], u32[]) collective-permute-start(), source_target_pairs={{0,1}}
}

%not_probed (t: f32[32]) -> f32[32] {
  ROOT %t = f32[32] parameter(0)
}

%step (t: (s32[], f32[32])) -> (s32[], f32[32]) {
  %while.1 = (s32[], bf16[16,32]) while(), condition=%less, body=%part, backend_config={"known_trip_count":{"n":"3"}}
  %conditional = f32[32] conditional(%p, %a, %b), branch_computations={%not_probed, %probed}
  all-reduce.1 = (f32[], /*i=1*/f32[32]) all-reduce(), replica_groups=mesh['d'=2,'f'=4], device_ids=([8]) {'d','f':(1)2}
  %alone = f32[32]{0} all-reduce(%g), replica_groups=mesh['data'=8,'fsdp'=1] {'fsdp'}, to_apply=%add
  %fusion = f32[16,32] fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}

ENTRY %main (p: f32[32]) -> f32[32] {
  %all-to-all = f32[32]{0} all-to-all(%p), replica_groups={}
  ROOT %while = (s32[], f32[32]) while(%p), condition=%less, body=%step
}
"""


def test_every_way_to_write_a_collective_is_read():
    found = {one.name: one for one in collectives(TEXT)}
    assert found.keys() == {
        "all-to-all", "all-reduce.1", "all-reduce.9", "all-gather-start", "reduce-scatter", "collective-permute-start",
    }  # fmt: skip
    gather = found["all-gather-start"]
    assert gather == Collective(
        name="all-gather-start", kind="all-gather", dtype="bf16", shape=(64, 32), bytes=2 * 64 * 32, group=(0, 1),
        in_loop=True, times=3, sometimes=False,
    )  # fmt: skip
    scatter, fused = found["reduce-scatter"], found["all-reduce.9"]
    assert (scatter.shape, scatter.bytes, scatter.times) == ((32, 32), 4096, 3)
    assert (fused.kind, fused.shape, fused.group_size, fused.times) == ("reduce-scatter", (64, 32), 4, 1)
    assert not found["all-to-all"].in_loop and found["all-to-all"].group_size == 8
    assert found["collective-permute-start"].sometimes and found["collective-permute-start"].shape == (4, 33)
    together = [one for one in collectives(TEXT) if one.name == "all-reduce.1"]
    assert [(one.shape, one.bytes, one.group_size) for one in together] == [((), 4, 4), ((32,), 128, 4)]
    assert sum(one.bytes * one.times for one in collectives(TEXT) if one.in_loop and not one.sometimes) == (
        3 * (4096 + 4096) + 132 + 8192
    )


def test_a_ring_sends_a_sum_twice_and_a_gathered_tensor_once():
    found = {one.name: one for one in collectives(TEXT)}
    assert found["all-gather-start"].sent == found["all-gather-start"].bytes / 2
    assert found["all-reduce.1"].sent == found["all-reduce.1"].bytes * 2 * 3 / 4


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("replica_groups={{0,4},{1,5}}", (0, 4)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b':(2)2}", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("source_target_pairs={{3,5},{5,3}}", (3, 5)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_the_devices_of_a_group_are_known_however_they_are_written(written: str, group: tuple[int, ...]):
    """So that it is known which links they use."""
    kind = "collective-permute" if "pairs" in written else "all-reduce"
    line = f"  ROOT %x = f32[8]{{0}} {kind}(%p), {written}, channel_id=1"
    text = f"num_partitions=8\nENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}\n"
    assert [one.group for one in collectives(text)] == [group]


def test_a_loop_of_a_tpu_turns_as_often_as_its_condition_lets_it():
    """There the text does not say how often; a limit that is an argument is not known, and counts once."""
    body = "%body (t: (s32[])) -> (s32[]) {\n  %y = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}\n}\n"
    limits = {"%n = s32[]{:T(128)} constant(12)": 12, "%n = s32[]{:T(128)} get-tuple-element(%t), index=1": 1}
    for limit, times in limits.items():
        condition = (
            "%condition (t: (s32[])) -> pred[] {\n  %i = s32[]{:T(128)} get-tuple-element(%t), index=0\n"
            f"  {limit}\n  ROOT %less = pred[]{{:T(512)}} compare(%i, %n), direction=LT\n}}\n"
        )
        entry = "ENTRY %main (p: f32[8]) -> f32[8] {\n  %w = (s32[]) while(%t), condition=%condition, body=%body\n}\n"
        assert [one.times for one in collectives(body + condition + entry)] == [times]


def test_what_slices_send_each_other_goes_by_the_network():
    """A TPU's text has no collective there: each device hands its part to its host."""
    targets = {
        '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"': "all-reduce",
        "_xla_megascale_target={{100000->200000},{100001->200001},{100002->200002},{100003->200003}},"
        '_xla_megascale_transfer_type="ONE_TO_ONE"': "collective-permute",
    }
    for target, kind in targets.items():
        send = f"  %s = (f32[2,8]{{1,0}}, u32[], token[]) send(%x, %t), frontend_attributes={{{target}}}"
        (found,) = collectives(f"num_partitions=4\nENTRY %main (p: f32[8]) -> f32[8] {{\n{send}\n}}\n")
        assert (found.kind, found.bytes, found.group) == (kind, 64, (0, 4))
