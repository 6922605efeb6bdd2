"""What a compiled program communicates, read from its text."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # of the types whose name does not end in them
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_TENSOR = re.compile(r"(\w+)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS = re.compile(r"'([\w.\-]+)'(?::\((\d+)\)(\d+))?")
_HANDED = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}x')
_BY_NETWORK = {
    "ALL_REDUCE": "all-reduce", "ALL_GATHER": "all-gather", "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all", "ONE_TO_ONE": "collective-permute",
}  # fmt: skip
_ORDER = re.compile(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One tensor that the devices of a group exchange. Several that travel in one operation have its name in common."""

    name: str  # of the operation in the text
    kind: str  # one of KINDS
    dtype: str  # f32, bf16, s32, ...
    shape: tuple[int, ...]  # of the whole tensor, as a device of the group sees it
    bytes: int  # of that tensor: the result, and of a reduce-scatter the operand
    group: tuple[int, ...]  # devices that exchange it, of the first group, as the mesh counts them
    in_loop: bool  # in the body of a loop, as all that a step does is
    times: int  # in one turn of the loops whose number of turns the text does not know, as that over the steps is
    sometimes: bool  # in a branch that a step may not take: the gradient noise, which is measured now and then

    @property
    def group_size(self) -> int:
        return len(self.group)

    @property
    def sent(self) -> float:
        """Bytes that a device sends for it, once, where the group is a ring."""
        share = (self.group_size - 1) / self.group_size
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(compiled_text: str) -> list[Collective]:
    """Every collective of a compiled program, in the order of its text: `compiled.as_text()` of JAX, on any platform.

    A collective in a loop counts `times` the turns that the text knows of, in loops within loops their product; a loop
    whose turns are an argument counts as one turn. So over the program of `scaling.train.step.train_steps` the sum of
    `bytes * times` of those that are `in_loop` and not `sometimes` is what a step exchanges. Asynchronous pairs count
    once. Exchanges within a group of one device are none and left out. Between slices of TPUs a device sends its own
    part of a tensor, and meets one device of each.
    """
    computations, entry = parsed(compiled_text)
    partitions = re.search(r"num_partitions=(\d+)", compiled_text)
    everybody = int(partitions[1]) if partitions else 1
    found: list[Collective] = []
    for at in _visits(computations, entry):
        for line in computations[at.computation]:
            found += _of(line, at, everybody)
    return found


class Line(NamedTuple):
    name: str
    result: str  # its type, as text
    opcode: str
    rest: str  # operands and attributes


class _Visit(NamedTuple):
    """A computation, and under what circumstances it is executed."""

    computation: str
    times: int = 1
    in_loop: bool = False
    sometimes: bool = False


def parsed(text: str) -> tuple[dict[str, list[Line]], str]:
    """Instructions by computation, and the name of the one that is entered."""
    computations: dict[str, list[Line]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            result, rest = _split(found[2])
            if opcode := _OPCODE.match(rest):
                current.append(Line(found[1], result, opcode[1], rest[opcode.end() :]))
    return computations, entry


def _split(text: str) -> tuple[str, str]:
    """The type that an instruction begins with, which may be a tuple of them, and the rest."""
    if not text.startswith("("):
        result, _, rest = text.partition(" ")
        return result, rest
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def turns(line: Line, computations: Mapping[str, list[Line]]) -> int:
    """Of a loop; 1 where the text does not know, and of what is no loop.

    A CPU's and a GPU's text says it. A TPU's has the condition alone, `counter < constant`; a counter of JAX's loops
    begins at 0 and goes up by 1."""
    if line.opcode != "while":
        return 1
    if trips := _TRIPS.search(line.rest):
        return int(trips[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line.rest)
    lines = computations.get(condition[1], []) if condition else []
    if not lines or lines[-1].opcode != "compare" or "direction=LT" not in lines[-1].rest:
        return 1
    by_name = {one.name: one for one in lines}
    left, right = (by_name.get(name) for name in re.findall(r"%([\w.\-]+)", lines[-1].rest)[:2])
    if left is None or right is None or left.opcode != "get-tuple-element" or right.opcode != "constant":
        return 1
    return int(right.rest.partition(")")[0])


def _visits(computations: dict[str, list[Line]], entry: str) -> Iterator[_Visit]:
    """Every computation that the entry leads to, once for each call of it."""
    left = [_Visit(entry)]
    while left:
        at = left.pop()
        if at.computation not in computations:
            continue
        yield at
        for line in computations[at.computation]:
            called = [name for _, name in _CALLED.findall(line.rest)]
            called += [name.strip(" %") for _, names in _BRANCHES.findall(line.rest) for name in names.split(",")]
            for name in called:
                left.append(
                    _Visit(
                        name,
                        at.times * turns(line, computations),
                        at.in_loop or line.opcode == "while",
                        at.sometimes or line.opcode == "conditional",
                    )
                )


def _between_slices(line: Line, at: _Visit, everybody: int) -> Iterator[Collective]:
    """What a device hands to its host for the network between slices: its own part of a tensor, which it exchanges with
    the devices of its place in the others."""
    how = _HANDED.search(line.rest)
    if not how or how[1] not in _BY_NETWORK:
        return
    pairs = line.rest.count("->")
    slices = len(listed[1].split(",")) if (listed := _SLICES.search(line.rest)) else 2
    each = pairs or everybody  # a slice has a program of its own
    dtype, shape = _tensors(line, "send")[0]
    yield Collective(
        name=line.name, kind=_BY_NETWORK[how[1]], dtype=dtype, shape=shape,
        bytes=math.ceil(math.prod(shape) * bits(dtype) / 8), group=tuple(each * k for k in range(slices)),
        in_loop=at.in_loop, times=at.times, sometimes=at.sometimes,
    )  # fmt: skip


def _of(line: Line, at: _Visit, everybody: int) -> Iterator[Collective]:
    kind = line.opcode.removesuffix("-start")
    if kind == "send":
        yield from _between_slices(line, at, everybody)
    if kind not in KINDS:
        return
    fused = kind == "all-reduce" and at.computation.startswith("all-reduce-scatter")  # as a TPU's text has it
    group = _group(line.rest, everybody)
    if len(group) == 1:
        return
    for dtype, shape in _tensors(line, kind):
        if kind == "reduce-scatter":
            shape = _gathered(line.rest, shape, len(group))
        size = math.ceil(math.prod(shape) * bits(dtype) / 8)
        yield Collective(
            name=line.name, kind="reduce-scatter" if fused else kind, dtype=dtype, shape=shape, bytes=size,
            group=group, in_loop=at.in_loop, times=at.times,
            sometimes=at.sometimes,
        )  # fmt: skip


def _tensors(line: Line, kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, shape) of each result. What starts an asynchronous exchange gives its operands too, and before them."""
    found = [
        (dtype, tuple(int(size.strip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _TENSOR.findall(line.result)
    ]
    if line.opcode.endswith("-start") and kind != "all-reduce":
        found = [one for one in found if one != ("u32", ())]  # what a permutation waits on
        found = found[len(found) // 2 :]
    return found


def _gathered(attributes: str, shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """The shape before it was scattered."""
    along = re.search(r"dimensions=\{(\d+)\}", attributes)
    whole = list(shape)
    whole[int(along[1]) if along else 0] *= group
    return tuple(whole)


def _group(attributes: str, everybody: int) -> tuple[int, ...]:
    """The first group, of the three ways to write groups, and of pairs."""
    if pair := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(pair[1]), int(pair[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return tuple(int(device) for device in listed[1].split(","))
    if counted := _COUNTED.search(attributes):
        return tuple(_counted(counted[2], counted[3])[: int(counted[1])].tolist())
    if axes := _AXES.search(attributes):
        along = _along(dict(re.findall(r"'([\w.\-]+)'=(\d+)", axes[1])), _AXIS.findall(axes[2]))
        if not (order := _ORDER.search(axes[0])):
            return along
        devices = _counted(order[1], order[2])
        return tuple(devices[list(along)].tolist())
    return tuple(range(everybody))


def _counted(shape: str, order: str | None) -> np.ndarray:
    """0, 1, ... in a grid, read with its axes in another order."""
    sizes = [int(n) for n in shape.split(",")]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose([int(axis) for axis in order.split(",")] if order else range(len(sizes))).ravel()


def _along(sizes: dict[str, str], axes: list[tuple[str, str, str]]) -> tuple[int, ...]:
    """The first device's group along some axes of a mesh, or along the part of one: 'f':(2)4 are 4 of which one more
    counts as the axis after it would, had the 2 before it been an axis of their own."""
    strides, stride = {}, 1
    for name, size in reversed(sizes.items()):
        strides[name] = stride
        stride *= int(size)
    steps = [
        np.arange(int(part or sizes[name]))
        * strides[name]
        * (int(sizes[name]) // int(before or 1) // int(part or sizes[name]))
        for name, before, part in axes
    ]
    total = np.zeros(1, int)
    for step in steps:
        total = (total[:, None] + step[None]).ravel()
    return tuple(total.tolist())


def bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)  # s32, bf16, f8e4m3fn, c64
    return int(digits[0]) if digits else 0
