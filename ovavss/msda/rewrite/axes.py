"""What reshapes, transposes and slices do to a tensor's elements, followed from a source tensor to where it is used.

Each axis of a tensor is a tuple of digits (in row-major order) of the source's axes; sizes of 1 are empty tuples. So
two spellings of the same movement give the same axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import onnx
import sympy
from onnx import TensorProto

from ovavss.msda.rewrite.formulas import Size, product, quotient, same
from ovavss.msda.rewrite.graph import Graph, attributes
from ovavss.msda.rewrite.sizes import Sizes


class Part(NamedTuple):
    """`length` entries from `start` on of a digit, as an axis of its own."""

    digit: "Digit"
    start: Size
    length: Size


class Digit(NamedTuple):
    """(index // stride) % size of an axis of the source, or of a part of it."""

    of: "int | str | Part"
    stride: Size
    size: Size


Axis: TypeAlias = tuple[Digit, ...]


@dataclass(frozen=True)
class Layout:
    """Axes; what single entries were chosen on the way; the values are scale * source + offset."""

    axes: tuple[Axis, ...]
    chosen: tuple[tuple[Digit, Size], ...] = ()
    scale: float = 1.0
    offset: float = 0.0


class Lost(Exception):
    """The movement cannot be followed."""


_MOVES = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather"}
_CASTS = {"Cast", "CastLike"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_AFFINE = {"Add", "Sub", "Mul", "Div"}


def is_move(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node's output has values of its first input, at most rounded to another float type."""
    if node.op_type in _CASTS:
        return {graph.types.get(node.input[0]), graph.types.get(node.output[0])} <= _FLOATS
    return node.op_type in _MOVES


def whole(dims: Sequence[Size]) -> Layout:
    """Of the source itself."""
    return Layout(tuple(() if size == 1 else (Digit(axis, sympy.Integer(1), size),) for axis, size in enumerate(dims)))


def joined(axis: Axis) -> Axis:
    """Neighboring digits that are one digit."""
    result: list[Digit] = []
    for digit in axis:
        before = result[-1] if result else None
        if before and before.of == digit.of and same(before.stride, digit.stride * digit.size):
            result[-1] = Digit(digit.of, digit.stride, before.size * digit.size)
        else:
            result.append(digit)
    return tuple(result)


def regrouped(digits: Axis, sizes: Sequence[Size]) -> tuple[Axis, ...]:
    """The digits, split where needed, as axes of these sizes."""
    rest = list(joined(digits))
    axes = []
    for size in sizes:
        axis: list[Digit] = []
        while size != 1:
            if not rest:
                raise Lost("a reshape to more elements")
            digit = rest.pop(0)
            if (left := quotient(size, digit.size)) is not None:
                axis.append(digit)
                size = left
            elif (inner := quotient(digit.size, size)) is not None:
                axis.append(Digit(digit.of, digit.stride * inner, size))
                rest.insert(0, Digit(digit.of, digit.stride, inner))
                size = 1
            else:
                raise Lost(f"a reshape of {digit.size} into {size}")
        axes.append(joined(tuple(axis)))
    if rest:
        raise Lost("a reshape to fewer elements")
    return tuple(axes)


def size_of(axis: Axis) -> Size:
    """How long an axis is."""
    return product([digit.size for digit in axis])


def ancestors(graph: Graph, name: str, affine: bool = False) -> list[str]:
    """The tensor itself and those that it is a moved copy of (`affine`: also scaled and shifted), nearest first."""
    names = [name]
    while (maker := graph.makers.get(names[-1])) is not None:
        if is_move(graph, maker):
            names.append(maker.input[0])
        elif affine and maker.op_type in _AFFINE and (operand := _variable(graph, maker)) is not None:
            names.append(operand)
        else:
            break
    return names


def follow(graph: Graph, sizes: Sizes, names: Sequence[str], layout: Layout) -> Layout:
    """The layout of the last of `names`, each made from the one before, the first of which has `layout`."""
    for source, name in pairwise(names):
        layout = step(graph, sizes, graph.makers[name], source, name, layout)
    return layout


def step(graph: Graph, sizes: Sizes, node: onnx.NodeProto, source: str, name: str, layout: Layout) -> Layout:
    """What a node that moves `source` makes of its layout for its output `name`."""
    if node.op_type in _AFFINE:
        return _affine(graph, node, source, layout)
    if not is_move(graph, node) or node.input[0] != source:
        raise Lost(f"a {node.op_type}")
    try:
        return _move(sizes, node, name, layout)
    except (KeyError, IndexError, ValueError) as error:
        raise Lost(f"a {node.op_type} of unknown sizes") from error


def _move(sizes: Sizes, node: onnx.NodeProto, name: str, layout: Layout) -> Layout:
    axes = layout.axes
    given = attributes(node)
    match node.op_type:
        case "Identity" | "Cast" | "CastLike":
            return layout
        case "Transpose":
            return replace(layout, axes=tuple(axes[axis] for axis in given.get("perm", range(len(axes))[::-1])))
        case "Reshape" | "Flatten":
            return replace(layout, axes=regrouped(tuple(d for axis in axes for d in axis), sizes.dims[name]))
        case "Squeeze":
            given_axes = sizes.axes(node)
            if given_axes is None:
                raise Lost("a Squeeze without axes")
            gone = {axis % len(axes) for axis in given_axes}
            if any(axes[axis] for axis in gone):
                raise Lost("a Squeeze of an axis that may be larger than 1")
            return replace(layout, axes=tuple(axis for i, axis in enumerate(axes) if i not in gone))
        case "Unsqueeze":
            added = sizes.axes(node) or ()
            new = list(axes)
            for axis in sorted(a % (len(axes) + len(added)) for a in added):
                new.insert(axis, ())
            return replace(layout, axes=tuple(new))
        case "Split":
            axis, parts = sizes.split(node)
            index = list(node.output).index(name)
            return _part(layout, axis, sympy.Add(*parts[:index]), parts[index])
        case "Slice":
            for axis, start, length in sizes.slices(node):
                if length is None:
                    raise ValueError("an unknown length")
                layout = _part(layout, axis, start, length)
            return layout
        case _:  # Gather
            indices = sizes.values[node.input[1]]
            if len(indices) != 1 or not indices[0].is_Integer:
                raise Lost("a Gather of several entries")
            axis = given.get("axis", 0) % len(axes)
            position = indices[0] + size_of(axes[axis]) if indices[0].is_negative else indices[0]
            layout = _part(layout, axis, position, sympy.Integer(1))
            if not sizes.dims[node.input[1]]:
                layout = replace(layout, axes=(*layout.axes[:axis], *layout.axes[axis + 1 :]))
            return layout


def _part(layout: Layout, axis: int, start: Size, length: Size) -> Layout:
    digits = layout.axes[axis]
    if same(length, size_of(digits)):
        return layout
    if len(digits) != 1:
        raise Lost("a slice of a merged axis")
    digit, chosen = digits[0], layout.chosen
    if length == 1:
        new: Axis = ()
        chosen = (*chosen, (digit, start))
    else:
        new = (Digit(Part(digit, start, length), sympy.Integer(1), length),)
    return replace(layout, axes=(*layout.axes[:axis], new, *layout.axes[axis + 1 :]), chosen=chosen)


def _scalar(graph: Graph, name: str) -> float | None:
    constant = graph.constant(name)
    return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def _variable(graph: Graph, node: onnx.NodeProto) -> str | None:
    """The one input that is not a constant number."""
    variables = [name for name in node.input if _scalar(graph, name) is None]
    if len(variables) != 1 or (node.op_type in ("Sub", "Div") and variables[0] != node.input[0]):
        return None
    return variables[0]


def _affine(graph: Graph, node: onnx.NodeProto, source: str, layout: Layout) -> Layout:
    if _variable(graph, node) != source:
        raise Lost(f"a {node.op_type} of two tensors")
    other = next(name for name in node.input if name != source)
    number, constant = _scalar(graph, other), graph.constant(other)
    assert number is not None and constant is not None
    if constant.ndim > len(layout.axes):
        raise Lost("a constant of more axes")
    scale, offset = layout.scale, layout.offset
    match node.op_type:
        case "Add":
            offset += number
        case "Sub":
            offset -= number
        case "Mul":
            scale, offset = scale * number, offset * number
        case _:
            scale, offset = scale / number, offset / number
    return replace(layout, scale=scale, offset=offset)
