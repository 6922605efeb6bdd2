"""What a compiled program executes, read from its text: FLOPs of its products, and bytes that pass through memory.

XLA's own account (`compiled.cost_analysis()`) counts the body of a loop once, whatever its turns, and takes both sides
of every branch; here a loop counts its turns where the text knows them, and a branch that a step may not take counts
nothing.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scaling.train.collectives import Line, bits, parsed, turns

_TENSOR = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)")  # a memory space that is not the device's main memory
# Gives its operands another name, or is only waited for.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "iota", "async-update",
}  # fmt: skip
_SLICING = {"dynamic-slice", "slice", "gather"}
_NO_KERNELS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')  # a place, and a name for two of them


@dataclass
class Work:
    """Of one device in one step: what lies in no loop whose turns the text does not know is executed once a call, and
    counts, too, as if a call were one step."""

    flops: float = 0.0  # of matrix products that XLA compiled
    memory: float = 0.0  # bytes read from and written to the main memory of the device
    # Kernels that are no operations of XLA: (name in the program, operand shapes, turns)
    kernels: list[tuple[str, tuple[tuple[int, ...], ...], int]] = field(default_factory=list)


def work(compiled_text: str) -> Work:
    """What the text of `compiled.as_text()` of a TPU's or GPU's or CPU's program executes."""
    computations, entry = parsed(compiled_text)
    types = {name: {line.name: line.result for line in lines} for name, lines in computations.items()}
    program = _Program(computations, types)
    found = Work()
    program.walk(entry, 1, found)
    return found


class _Program:
    def __init__(self, computations: Mapping[str, list[Line]], types: Mapping[str, Mapping[str, str]]):
        self.computations = computations
        self.types = types

    def walk(self, name: str, times: int, into: Work) -> None:
        """Adds what a computation executes `times` times."""
        for line in self.computations.get(name, ()):
            if line.opcode == "conditional":
                continue
            if line.opcode in ("while", "call", "async-start") or line.opcode.startswith("async"):
                for called in _CALLED.findall(line.rest):
                    self.walk(called, times * turns(line, self.computations), into)
                continue
            into.flops += times * self._flops(name, line)
            into.memory += times * self._moved(name, line)
            if line.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in line.rest:
                shapes = tuple(s for n in self._operands(line) for s in _shapes(self.types[name].get(n, "")))
                into.kernels.append((_op_name(line), shapes, times))

    def _flops(self, name: str, line: Line) -> float:
        if line.opcode == "fusion":
            return sum(
                self._flops(called, inner)
                for called in _CALLED.findall(line.rest)
                for inner in self.computations.get(called, ())
            )
        if line.opcode in ("convolution", "dot"):
            left, right = (_shapes(self.types[name].get(n, ""))[0] for n in self._operands(line)[:2])
            return (_convolution if line.opcode == "convolution" else _dot)(line, left, right)
        return 0.0

    def _moved(self, name: str, line: Line) -> float:
        """Bytes that an instruction which is no part of another reads and writes."""
        if line.opcode in _FREE or line.opcode.endswith(("-done", "-update")) or _NO_KERNELS.search(line.rest):
            return 0.0
        operands = self._operands(line)
        if line.opcode == "fusion" and (called := _CALLED.findall(line.rest)):
            read = sum(
                min(self._read(called[0], i), _main_bytes(self.types[name].get(n, ""))) for i, n in enumerate(operands)
            )
            return read + self._written(called[0], line)
        if line.opcode in _SLICING:
            return 2 * _main_bytes(line.result)
        if line.opcode == "dynamic-update-slice":
            return 2 * _main_bytes(self.types[name].get(operands[1], ""))
        read = sum(_main_bytes(self.types[name].get(n, "")) for n in operands)
        if not line.opcode.endswith("-start"):
            return _main_bytes(line.result) + read
        parts = [m[0] for m in _TENSOR.finditer(line.result)]
        if line.opcode == "copy-start":  # (result, operand, what is waited on)
            return _main_bytes(parts[0]) + read
        if line.opcode == "slice-start":  # (operands, result, what is waited on): of the operand a part is read
            result = parts[len(operands)]
            return min(read, _bytes(result)) + _main_bytes(result)
        return 2.0 * read

    def _read(self, fused: str, index: int) -> float:
        """Bytes of a fusion's operand that it reads: of a stack of which one slice is taken, that slice."""
        lines = self.computations.get(fused, ())
        name = next((one.name for one in lines if one.opcode == "parameter" and one.rest.startswith(f"{index})")), None)
        if name is None:
            return 0.0
        return self._used(fused, name)

    def _used(self, fused: str, name: str) -> float:
        whole = _main_bytes(self.types[fused][name]) or _bytes(self.types[fused][name])
        total = 0.0
        for line in self.computations[fused]:
            operands = self._operands(line)
            if name not in operands:
                continue
            first = operands[0] == name
            if line.opcode in _SLICING and first:
                total += _bytes(line.result)
            elif line.opcode == "dynamic-update-slice" and first:
                total += 0.0
            elif line.opcode in ("bitcast", "reshape", "copy", "transpose"):
                total += self._used(fused, line.name)
            elif line.opcode == "fusion" and (called := _CALLED.findall(line.rest)):
                total += sum(self._read(called[0], i) for i, one in enumerate(operands) if one == name)
            else:
                return whole
        return min(total, whole)

    def _written(self, fused: str, line: Line) -> float:
        """Bytes of a fusion's results: of a stack in which one slice is replaced, that slice."""
        lines = self.computations.get(fused, ())
        if not lines:
            return _main_bytes(line.result)
        by_name, root = {one.name: one for one in lines}, lines[-1]
        roots = [by_name.get(n) for n in self._operands(root)] if root.opcode == "tuple" else [root]
        results = [m[0] for m in _TENSOR.finditer(line.result)]
        total = 0.0
        for one, result in zip(roots, results, strict=False):
            while one is not None and one.opcode in ("bitcast", "copy") and self._operands(one):
                one = by_name.get(self._operands(one)[0])
            size = _main_bytes(result)
            if one is not None and one.opcode == "dynamic-update-slice":
                size = min(size, _bytes(self.types[fused].get(self._operands(one)[1], "")))
            total += size
        return total

    @staticmethod
    def _operands(line: Line) -> list[str]:
        depth, end = 1, len(line.rest)
        for i, letter in enumerate(line.rest):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                end = i
                break
        return _NAME.findall(line.rest[:end])


def _shapes(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(size.strip("<=")) for size in m[2].split(",") if size) for m in _TENSOR.finditer(text)]


def _bytes(text: str) -> float:
    return float(sum(math.prod(_shapes(m[0])[0]) * bits(m[1]) / 8 for m in _TENSOR.finditer(text)))


def _main_bytes(text: str) -> float:
    """Without what lies in another memory, such as that on the chip."""
    return float(sum(_bytes(m[0]) for m in _TENSOR.finditer(text) if not _ELSEWHERE.search(m[3] or "")))


def _op_name(line: Line) -> str:
    found = re.search(r'op_name="([^"]*)"', line.rest)
    return found[1] if found else line.name


def _dot(line: Line, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
    along = [int(d) for d in contracted[1].split(",") if d] if contracted else []
    return 2.0 * math.prod(_shapes(line.result)[0]) * math.prod(left[d] for d in along)


def _convolution(line: Line, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """A TPU's products are convolutions: what one has beside rows, columns and a sum is a dimension of the window."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
    if labels is None:
        return 0.0
    ins, kernel, outs = labels[1], labels[2], labels[3]
    out, window = _shapes(line.result)[0], _window(line.rest)
    valid = 1
    for i in range(len(ins) - 2):
        label = str(i)
        one = {key: values[i] for key, values in window.items() if i < len(values)}
        pad = [int(p) for p in one.get("pad", "0_0").split("_")]
        valid *= _meetings(
            left[ins.index(label)], right[kernel.index(label)], out[outs.index(label)], int(one.get("stride", 1)),
            pad[0], int(one.get("lhs_dilate", 1)), int(one.get("rhs_dilate", 1)),
        )  # fmt: skip
    groups = re.search(r"batch_group_count=(\d+)", line.rest)
    batch = left[ins.index("b")] // (int(groups[1]) if groups else 1)
    return 2.0 * batch * out[outs.index("f")] * right[kernel.index("i")] * valid


def _window(attributes: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = [part.split("=") for part in found[1].split()] if found else []
    return {key: value.split("x") for key, value in pairs}


@functools.lru_cache(maxsize=4096)
def _meetings(size: int, taps: int, out: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """Pairs of a window's tap and a place of the result that meet a value, and neither padding nor a hole between."""
    at = np.arange(out)[:, None] * stride + np.arange(taps)[None] * spread - pad
    return int(((at >= 0) & (at % dilate == 0) & (at // dilate < size)).sum())


def splash_flops(name: str, shapes: tuple[tuple[int, ...], ...]) -> float:
    """Of one call of the splash attention kernel, by the formula of its products on or below the diagonal: two
    forwards; backwards each of the two kernels forms the scores and their gradients again. 0 for any other kernel."""
    if "splash" not in name:
        return 0.0
    *heads, length, width = max(shapes, key=math.prod)  # of the queries: keys and values may have fewer heads
    products = 4 if "dkv" in name else 3 if "dq" in name else 2
    return products * 2.0 * math.prod(heads) * length * (length + 1) / 2 * width
