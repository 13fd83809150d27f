"""From a tensor's own axes to wanted ones: which Reshape, Transpose, Reshape do it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ovavss.msda.rewrite.axes import Axis, Digit, Lost, joined, size_of
from ovavss.msda.rewrite.formulas import Size, same


@dataclass(frozen=True)
class InputSize:
    """The size of an axis of the Reshape's input, read as the model runs."""

    axis: int


@dataclass(frozen=True)
class Reshape:
    """Entries as ONNX's Reshape has them: 0 copies, -1 follows from the rest."""

    entries: tuple[int | InputSize, ...]


@dataclass(frozen=True)
class Transpose:
    """Axis i of the result is axis perm[i] of the input."""

    perm: tuple[int, ...]


Step: TypeAlias = Reshape | Transpose


def plan(dims: Sequence[Size], wanted: Sequence[Axis]) -> list[Step]:
    """The steps from a tensor of these sizes to the wanted axes; Lost where they are not all of its elements."""
    own = [_digits_of(axis, size, wanted) for axis, size in enumerate(dims)]
    flat = tuple(digit for axis in own for digit in axis)
    order = tuple(digit for axis in wanted for digit in axis)
    if len(flat) != len(order):
        raise Lost("entries that are not used")
    if flat == order:
        return _reshape(own, wanted)
    single: list[Axis] = [(digit,) for digit in flat]
    steps = _reshape(own, single)
    steps.append(Transpose(tuple(flat.index(digit) for digit in order)))
    return steps + _reshape([(digit,) for digit in order], wanted)


def _digits_of(axis: int, size: Size, wanted: Sequence[Axis]) -> Axis:
    """The wanted digits of an axis from the largest stride to the smallest, without gaps."""
    waiting = [digit for group in wanted for digit in group if digit.of == axis]
    found: list[Digit] = []
    stride: Size = 1
    while waiting:
        digit = next((d for d in waiting if same(d.stride, stride)), None)
        if digit is None:
            raise Lost("entries that are not used")
        waiting.remove(digit)
        found.insert(0, digit)
        stride = stride * digit.size
    if not same(stride, size):
        raise Lost("entries that are not used")
    return tuple(found)


def _reshape(before: Sequence[Axis], after: Sequence[Axis]) -> list[Step]:
    before, after = [joined(axis) for axis in before], [joined(axis) for axis in after]
    if before == after:
        return []
    entries: list[int | InputSize | None] = []
    for index, axis in enumerate(after):
        size = size_of(axis)
        if getattr(size, "is_Integer", True):
            entries.append(int(size))
        elif index < len(before) and before[index] == axis:
            entries.append(0)
        else:
            entries.append(InputSize(before.index(axis)) if axis in before else None)
    if entries.count(None) > 1:
        raise Lost("several sizes that are not known")
    if None not in entries:
        read = next((i for i, entry in enumerate(entries) if isinstance(entry, InputSize)), None)
        if read is not None:
            entries[read] = None
    return [Reshape(tuple(-1 if entry is None else entry for entry in entries))]
