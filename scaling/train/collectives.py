"""What a compiled program communicates, read from its text."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
_AXIS = re.compile(r"'([\w.\-]+)'(?::\(\d+\)(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One tensor that the devices of a group exchange. Several that travel in one operation have its name in common."""

    name: str  # of the operation in the text
    kind: str  # one of KINDS
    dtype: str  # f32, bf16, s32, ...
    shape: tuple[int, ...]  # of the whole tensor, as a device of the group sees it
    bytes: int  # of that tensor: the result, and of a reduce-scatter the operand
    group_size: int  # devices that exchange it
    in_loop: bool  # in the body of a loop, as all that a step does is
    times: int  # in one turn of the loops whose number of turns the text does not know, as that over the steps is
    sometimes: bool  # in a branch that a step may not take: the gradient noise, which is measured now and then

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
    once. Exchanges within a group of one device are none and left out.
    """
    computations, entry = _parsed(compiled_text)
    partitions = re.search(r"num_partitions=(\d+)", compiled_text)
    everybody = int(partitions[1]) if partitions else 1
    found: list[Collective] = []
    for at in _visits(computations, entry):
        for line in computations[at.computation]:
            found += _of(line, at, everybody)
    return found


class _Line(NamedTuple):
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


def _parsed(text: str) -> tuple[dict[str, list[_Line]], str]:
    """Instructions by computation, and the name of the one that is entered."""
    computations: dict[str, list[_Line]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            result, rest = _split(found[2])
            if opcode := _OPCODE.match(rest):
                current.append(_Line(found[1], result, opcode[1], rest[opcode.end() :]))
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


def _visits(computations: dict[str, list[_Line]], entry: str) -> Iterator[_Visit]:
    """Every computation that the entry leads to, once for each call of it."""
    left = [_Visit(entry)]
    while left:
        at = left.pop()
        if at.computation not in computations:
            continue
        yield at
        for line in computations[at.computation]:
            turns = int(trips[1]) if line.opcode == "while" and (trips := _TRIPS.search(line.rest)) else 1
            called = [name for _, name in _CALLED.findall(line.rest)]
            called += [name.strip(" %") for _, names in _BRANCHES.findall(line.rest) for name in names.split(",")]
            for name in called:
                left.append(
                    _Visit(
                        name,
                        at.times * turns,
                        at.in_loop or line.opcode == "while",
                        at.sometimes or line.opcode == "conditional",
                    )
                )


def _of(line: _Line, at: _Visit, everybody: int) -> Iterator[Collective]:
    kind = line.opcode.removesuffix("-start")
    if kind not in KINDS:
        return
    fused = kind == "all-reduce" and at.computation.startswith("all-reduce-scatter")  # as a TPU's text has it
    group = _group_size(line.rest, everybody)
    if group == 1:
        return
    for dtype, shape in _tensors(line, kind):
        if kind == "reduce-scatter":
            shape = _gathered(line.rest, shape, group)
        size = math.ceil(math.prod(shape) * _bits(dtype) / 8)
        yield Collective(
            name=line.name, kind="reduce-scatter" if fused else kind, dtype=dtype, shape=shape, bytes=size,
            group_size=group, in_loop=at.in_loop, times=at.times,
            sometimes=at.sometimes,
        )  # fmt: skip


def _tensors(line: _Line, kind: str) -> list[tuple[str, tuple[int, ...]]]:
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


def _group_size(attributes: str, everybody: int) -> int:
    """Of the three ways to write groups, and of pairs."""
    if "source_target_pairs=" in attributes:
        return 2
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(counted[1])
    if axes := _AXES.search(attributes):
        sizes = dict(re.findall(r"'([\w.\-]+)'=(\d+)", axes[1]))
        return math.prod(int(part or sizes[name]) for name, part in _AXIS.findall(axes[2]))
    return everybody


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)  # s32, bf16, f8e4m3fn, c64
    return int(digits[0]) if digits else 0
