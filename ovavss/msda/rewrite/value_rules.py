"""What each kind of node makes of the entries of small integer tensors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx
import sympy
from onnx import TensorProto

from ovavss.msda.rewrite.formulas import Dims, Size, is_at_least, product, quotient, rounded_down
from ovavss.msda.rewrite.graph import attributes

if TYPE_CHECKING:
    from ovavss.msda.rewrite.sizes import Sizes

# Longer integer vectors are not shapes.
LONGEST = 16

ValueRule = Callable[["Sizes", onnx.NodeProto], Dims | None]


def _value_shape(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    dims, given = sizes.dims.get(node.input[0]), attributes(node)
    return None if dims is None else dims[given.get("start", 0) : given.get("end")]


def _value_same(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    return sizes.values.get(node.input[0])


def _value_gather(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    entries, indices = (sizes.values.get(name) for name in node.input)
    if entries is None or indices is None or not all(i.is_Integer and i < len(entries) for i in indices):
        return None
    return tuple(entries[int(i)] for i in indices)


def _value_slice(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    entries = sizes.values.get(node.input[0])
    bounds = [sizes.values.get(name) for name in node.input[1:3]]
    if entries is None or any(b is None or len(b) != 1 or not b[0].is_Integer for b in bounds):
        return None
    if len(node.input) > 4 and sizes.values.get(node.input[4]) != (1,):
        return None
    start, end = (int(b[0]) for b in bounds if b is not None)
    return entries[start:end]


def _value_concat(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    entries: list[Size] = []
    for name in node.input:
        if name in sizes.values:
            entries += sizes.values[name]
            continue
        dims = sizes.dims.get(name)
        if dims is None or len(dims) != 1 or not dims[0].is_Integer or dims[0] > LONGEST:
            return None
        entries += [sympy.Symbol(f"{name}[{i}]", integer=True) for i in range(int(dims[0]))]  # may be -1, too
    return tuple(entries)


def _value_arithmetic(operation: Callable[[Size, Size], Size | None]) -> ValueRule:
    def rule(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
        left, right = (sizes.values.get(name) for name in node.input)
        if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        count = max(len(left), len(right))
        entries = [operation(left[i % len(left)], right[i % len(right)]) for i in range(count)]
        return None if None in entries else tuple(entries)

    return rule


def _value_division(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    """Integers are rounded towards zero, which is down for what is not negative."""
    whole = sizes.graph.types.get(node.output[0]) in (TensorProto.INT64, TensorProto.INT32)

    def divided(a: Size, b: Size) -> Size | None:
        exact = quotient(a, b)
        return rounded_down(a, b) if exact is None and whole and is_at_least(a, 0) else exact

    return _value_arithmetic(divided)(sizes, node)


def _value_product(sizes: "Sizes", node: onnx.NodeProto) -> Dims | None:
    entries = sizes.values.get(node.input[0])
    return None if entries is None or attributes(node).get("noop_with_empty_axes") else (product(entries),)


VALUE_RULES: dict[str, ValueRule] = {
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
    "Div": _value_division,
    "ReduceProd": _value_product,
}
