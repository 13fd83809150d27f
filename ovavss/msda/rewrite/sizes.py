"""Sizes of tensors as formulas of the model's free sizes, with as much reasoning as reshapes around an attention need.

One pass over the nodes; what a node does to sizes and is not known here gives free sizes, each with a name of its own.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import sympy

from ovavss.msda.rewrite.graph import Graph, attributes

Size = Any  # a sympy expression
Dims = tuple[Size, ...]
# Longer integer vectors are not shapes.
_LONGEST = 16
_END = 2**31 - 1

_SAME = {
    "Identity", "Cast", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Silu", "Swish", "Softplus",
    "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "InstanceNormalization",
    "GroupNormalization", "Sqrt", "Reciprocal", "Erf", "Tanh", "Clip", "Dropout", "Floor", "Ceil", "Round", "Neg",
    "Exp", "Log", "Abs", "Gelu", "Not", "IsNaN", "Trilu", "CumSum", "CastLike",
}  # fmt: skip
_BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Sum", "And", "Or", "Equal", "Greater", "Less"}


class Sizes:
    """`dims[name]`: a tensor's sizes, where its rank is known. `values[name]`: entries of a small integer tensor."""

    def __init__(self, graph: Graph, inferred: onnx.ModelProto) -> None:
        """`inferred`: the same model after ONNX's own shape inference."""
        self.graph = graph
        self.dims: dict[str, Dims] = {}
        self.values: dict[str, Dims] = {}
        told = {
            value.name: value.type.tensor_type.shape
            for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
            if value.type.tensor_type.HasField("shape")
        }
        for value in inferred.graph.input:
            if value.name in told:
                self.dims[value.name] = self._told(value.name, told[value.name])
        for tensor in inferred.graph.initializer:
            self.dims[tensor.name] = tuple(map(sympy.Integer, tensor.dims))
        for node in graph.nodes:
            for name in node.input:
                self._take_constant(name)
            for name, dims in zip(node.output, self._dims_of(node)):
                expected = self._told(name, told[name]) if name in told else None
                if dims is None or expected is None or len(dims) != len(expected):
                    dims = expected if dims is None else dims
                else:
                    dims = tuple(e if e.is_Integer else d for d, e in zip(dims, expected))
                if dims is not None:
                    self.dims[name] = dims
            self._take_values(node)

    def _told(self, name: str, shape: onnx.TensorShapeProto) -> Dims:
        return tuple(
            sympy.Integer(d.dim_value) if d.HasField("dim_value") else _free(d.dim_param or f"{name}:{axis}")
            for axis, d in enumerate(shape.dim)
        )

    def _take_constant(self, name: str) -> None:
        if name in self.values or (constant := self.graph.constant(name)) is None:
            return
        self.dims.setdefault(name, tuple(map(sympy.Integer, constant.shape)))
        if constant.ndim > 1 or constant.size > _LONGEST or constant.dtype.kind not in "iuf":
            return
        if np.all(constant == np.floor(constant)) and np.all(np.abs(constant.astype(float)) <= 2.0**63):
            self.values[name] = tuple(sympy.Integer(int(v)) for v in constant.reshape(-1))

    def _take_values(self, node: onnx.NodeProto) -> None:
        name = node.output[0] if node.output else ""
        if len(self.dims.get(name, (None, None))) > 1:  # a matrix, or of unknown rank
            return
        rule = _VALUE_RULES.get(node.op_type)
        entries = rule(self, node) if rule is not None else None
        if entries is not None and len(entries) <= _LONGEST:
            self.values[name] = entries

    def _dims_of(self, node: onnx.NodeProto) -> Sequence[Dims | None]:
        nothing = [None] * len(node.output)
        try:
            if node.domain not in ("", "ai.onnx"):
                return nothing
            if node.op_type in _SAME:
                return [self.dims.get(node.input[0]), *nothing[1:]]
            if node.op_type in _BROADCAST:
                return [self._broadcast([self.dims[name] for name in node.input], node.output[0])]
            rule = _DIM_RULES.get(node.op_type)
            return nothing if rule is None else rule(self, node)
        except (KeyError, IndexError, TypeError, ValueError):
            return nothing  # a rank or a value is not known, or the node is malformed

    def _broadcast(self, shapes: list[Dims], name: str) -> Dims:
        result = []
        for axis in range(-max(map(len, shapes)), 0):
            sizes = list(dict.fromkeys(s for shape in shapes if -axis <= len(shape) and (s := shape[axis]) != 1))
            # Of sizes above 1, all are equal, or the model could not run.
            known = [s for s in sizes if s.is_Integer] or [s for s in sizes if _is_above_one(s)] or sizes[:1]
            certain = len(sizes) < 2 or _is_above_one(known[0])
            result.append((known[0] if certain else _free(f"{name}:{axis}")) if sizes else sympy.Integer(1))
        return tuple(result)

    def axes(self, node: onnx.NodeProto, index: int = 1, key: str = "axes") -> tuple[int, ...] | None:
        """Integers that are an input or, in older opsets, an attribute."""
        if len(node.input) > index and node.input[index]:
            return tuple(map(int, self.values[node.input[index]]))
        given = attributes(node).get(key)
        return None if given is None else tuple(given)

    def slices(self, node: onnx.NodeProto) -> list[tuple[int, Size, Size]]:
        """Axis, start and length of each sliced axis; KeyError where they are not known."""
        dims = self.dims[node.input[0]]
        starts, ends = (self.values[node.input[i]] for i in (1, 2))
        axes = self.axes(node, 3) or tuple(range(len(starts)))
        steps = self.axes(node, 4) or (1,) * len(starts)
        result = []
        for axis, start, end, step in zip(axes, starts, ends, steps):
            if step != 1:
                raise ValueError("a step")
            size = dims[axis]
            if any(v.is_nonnegative is None for v in (start, end)):
                raise ValueError("a bound that may be negative")
            start, end = (v + size if v.is_negative else v for v in (start, end))
            if end.is_Integer and (end >= _END or (size.is_Integer and end > size)):
                end = size
            elif end != size and not sympy.expand(size - end).is_nonnegative:
                raise ValueError("an end that may lie beyond the tensor")
            result.append((axis % len(dims), start, sympy.expand(end - start)))
        return result

    def split(self, node: onnx.NodeProto) -> tuple[int, Dims]:
        """Axis and sizes of a Split."""
        dims, axis = self.dims[node.input[0]], attributes(node).get("axis", 0) % len(self.dims[node.input[0]])
        if len(node.input) > 1 and node.input[1]:
            parts = self.values[node.input[1]]
            if not all(part.is_nonnegative for part in parts):
                raise ValueError("parts of unknown size")
            return axis, parts
        if "split" in attributes(node):
            return axis, tuple(map(sympy.Integer, attributes(node)["split"]))
        if not sympy.Mod(dims[axis], len(node.output)) == 0:
            raise ValueError("parts of unequal size")
        return axis, (dims[axis] / len(node.output),) * len(node.output)


def _free(name: str) -> Size:
    return sympy.Symbol(name, integer=True, positive=True)


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are equal whatever the free sizes are."""
    return a == b or sympy.expand(a - b) == 0


@cache
def _is_above_one(size: Size) -> bool:
    """Whether a size is 2 or more whatever the free sizes are."""
    least = sympy.expand(size.subs({s: 1 + sympy.Symbol(s.name, nonnegative=True) for s in size.free_symbols}))
    return bool((least - 2).is_nonnegative)


def product(sizes: Sequence[Size]) -> Size:
    return sympy.Mul(*sizes)


def quotient(a: Size, b: Size) -> Size | None:
    """a / b where that is a whole number whatever the free sizes are."""
    if a.is_Integer and b.is_Integer:
        return a // b if a % b == 0 else None
    numerator, denominator = sympy.fraction(sympy.cancel(a / b))
    return sympy.expand(numerator) if denominator == 1 else None


_DimRule = Callable[[Sizes, onnx.NodeProto], Sequence[Dims | None]]
_ValueRule = Callable[[Sizes, onnx.NodeProto], Dims | None]


def _transpose(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims = sizes.dims[node.input[0]]
    return [tuple(dims[axis] for axis in attributes(node).get("perm", range(len(dims))[::-1]))]


def _reshape(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    source, target = sizes.dims.get(node.input[0]), sizes.values[node.input[1]]
    keep_zero = attributes(node).get("allowzero", 0)
    dims: list[Size | None] = []
    for axis, size in enumerate(target):
        if size == 0 and not keep_zero:
            dims.append(None if source is None else source[axis])
        else:
            dims.append(size if size.is_positive else None)
    if source is not None:
        # A reshape keeps the number of elements, so one size that is not known, or not in the source's terms, follows.
        own = set().union(*(size.free_symbols for size in source))
        open_axes = [axis for axis, size in enumerate(dims) if size is None]
        if not open_axes:
            open_axes = [axis for axis, size in enumerate(dims) if size is not None and size.free_symbols - own]
        if len(open_axes) == 1:
            others = [size for axis, size in enumerate(dims) if axis != open_axes[0]]
            dims[open_axes[0]] = quotient(product(source), product(others)) or dims[open_axes[0]]
    return [tuple(_free(f"{node.output[0]}:{axis}") if size is None else size for axis, size in enumerate(dims))]


def _flatten(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axis = sizes.dims[node.input[0]], attributes(node).get("axis", 1)
    return [(product(dims[:axis]), product(dims[axis:]))]


def _split(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    axis, parts = sizes.split(node)
    dims = sizes.dims[node.input[0]]
    return [(*dims[:axis], part, *dims[axis + 1 :]) for part in parts]


def _slice(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims = list(sizes.dims[node.input[0]])
    for axis, _, length in sizes.slices(node):
        dims[axis] = length
    return [tuple(dims)]


def _squeeze(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = sizes.dims[node.input[0]], sizes.axes(node)
    gone = {axis % len(dims) for axis in axes} if axes is not None else {i for i, s in enumerate(dims) if s == 1}
    if axes is None and any(not size.is_Integer for size in dims):
        return [None]
    return [tuple(size for axis, size in enumerate(dims) if axis not in gone)]


def _unsqueeze(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = list(sizes.dims[node.input[0]]), sizes.axes(node) or ()
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, sympy.Integer(1))
    return [tuple(dims)]


def _gather(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, indices = sizes.dims[node.input[0]], sizes.dims[node.input[1]]
    axis = attributes(node).get("axis", 0) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


def _concat(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    parts = [sizes.dims[name] for name in node.input]
    axis = attributes(node)["axis"] % len(parts[0])
    return [(*parts[0][:axis], sympy.Add(*(part[axis] for part in parts)), *parts[0][axis + 1 :])]


def _matmul(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    left, right = (sizes.dims[name] for name in node.input)
    return [(*left[:-1], right[-1])] if len(right) == 2 else [None]


def _grid_sample(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    maps, grid = (sizes.dims[name] for name in node.input)
    return [(*maps[:2], *grid[1:-1])]


def _reduce(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = sizes.dims[node.input[0]], sizes.axes(node)
    gone = {axis % len(dims) for axis in axes or range(len(dims))}
    if attributes(node).get("keepdims", 1):
        return [tuple(sympy.Integer(1) if axis in gone else size for axis, size in enumerate(dims))]
    return [tuple(size for axis, size in enumerate(dims) if axis not in gone)]


def _filled(sizes: Sizes, node: onnx.NodeProto) -> Sequence[Dims | None]:
    target = sizes.values[node.input[0]]
    return [tuple(size if size.is_nonnegative else _free(f"{node.output[0]}:{a}") for a, size in enumerate(target))]


_DIM_RULES: dict[str, _DimRule] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Split": _split,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Concat": _concat,
    "MatMul": _matmul,
    "GridSample": _grid_sample,
    "ReduceSum": _reduce,
    "ConstantOfShape": _filled,
}


def _value_shape(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    dims, given = sizes.dims.get(node.input[0]), attributes(node)
    return None if dims is None else dims[given.get("start", 0) : given.get("end")]


def _value_same(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    return sizes.values.get(node.input[0])


def _value_gather(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    entries, indices = (sizes.values.get(name) for name in node.input)
    if entries is None or indices is None or not all(i.is_Integer and i < len(entries) for i in indices):
        return None
    return tuple(entries[int(i)] for i in indices)


def _value_slice(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    entries = sizes.values.get(node.input[0])
    bounds = [sizes.values.get(name) for name in node.input[1:3]]
    if entries is None or any(b is None or len(b) != 1 or not b[0].is_Integer for b in bounds):
        return None
    if len(node.input) > 4 and sizes.values.get(node.input[4]) != (1,):
        return None
    start, end = (int(b[0]) for b in bounds if b is not None)
    return entries[start:end]


def _value_concat(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    entries: list[Size] = []
    for name in node.input:
        if name in sizes.values:
            entries += sizes.values[name]
            continue
        dims = sizes.dims.get(name)
        if dims is None or len(dims) != 1 or not dims[0].is_Integer or dims[0] > _LONGEST:
            return None
        entries += [sympy.Symbol(f"{name}[{i}]", integer=True) for i in range(int(dims[0]))]  # may be -1, too
    return tuple(entries)


def _value_arithmetic(operation: Callable[[Size, Size], Size | None]) -> _ValueRule:
    def rule(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
        left, right = (sizes.values.get(name) for name in node.input)
        if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        count = max(len(left), len(right))
        entries = [operation(left[i % len(left)], right[i % len(right)]) for i in range(count)]
        return None if None in entries else tuple(entries)

    return rule


def _value_product(sizes: Sizes, node: onnx.NodeProto) -> Dims | None:
    entries = sizes.values.get(node.input[0])
    return None if entries is None or attributes(node).get("noop_with_empty_axes") else (product(entries),)


_VALUE_RULES: dict[str, _ValueRule] = {
    "Shape": _value_shape,
    "Identity": _value_same,
    "Cast": _value_same,
    "Reshape": _value_same,
    "Squeeze": _value_same,
    "Unsqueeze": _value_same,
    "Gather": _value_gather,
    "Slice": _value_slice,
    "Concat": _value_concat,
    "Mul": _value_arithmetic(lambda a, b: sympy.expand(a * b)),
    "Add": _value_arithmetic(lambda a, b: a + b),
    "Sub": _value_arithmetic(lambda a, b: a - b),
    "Div": _value_arithmetic(lambda a, b: quotient(a, b) if b != 0 else None),
    "ReduceProd": _value_product,
}
