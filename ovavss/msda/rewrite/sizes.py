"""Sizes of tensors as formulas of the model's free sizes, with as much reasoning as reshapes around an attention need.

One pass over the nodes; what a node does to sizes and is not known here gives free sizes, each with a name of its own.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import sympy

from ovavss.msda.rewrite.dim_rules import DIM_RULES
from ovavss.msda.rewrite.formulas import Dims, Size, free, is_at_least, symbols_below
from ovavss.msda.rewrite.graph import Graph, attributes
from ovavss.msda.rewrite.value_rules import LONGEST, VALUE_RULES

_END = 2**31 - 1
# The second knows what the first found out about symbols.
_PASSES = 2

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
        # Formulas of symbols that were found to have some: names that exporters and onnx give to computed sizes.
        self.equal: dict[Size, Size] = {}
        self._inputs: set[Size] = set()
        self._declared = {
            value.name: value.type.tensor_type.shape
            for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
            if value.type.tensor_type.HasField("shape")
        }
        for _ in range(_PASSES):
            self._infer(inferred)

    def _infer(self, inferred: onnx.ModelProto) -> None:
        self.dims, self.values = {}, {}
        for value in inferred.graph.input:
            if value.name in self._declared:
                self.dims[value.name] = self._declared_dims(value.name)
        self._inputs = {symbol for dims in self.dims.values() for size in dims for symbol in size.free_symbols}
        for tensor in inferred.graph.initializer:
            self.dims[tensor.name] = tuple(map(sympy.Integer, tensor.dims))
        for node in self.graph.nodes:
            for name in node.input:
                self._take_constant(name)
            for name, dims in zip(node.output, self._dims_of(node)):
                declared = self._declared_dims(name) if name in self._declared else None
                if dims is None or declared is None or len(dims) != len(declared):
                    dims = declared if dims is None else dims
                else:
                    for own, other in zip(dims, declared):
                        if other.is_Symbol and other not in self._inputs | own.free_symbols and is_at_least(own, 1):
                            self.equal.setdefault(other, own)
                    dims = tuple(d if d.is_Integer else own for own, d in zip(dims, declared))
                if dims is not None:
                    self.dims[name] = tuple(map(self._resolved, dims))
            self._take_values(node)

    def is_explained(self, size: Size) -> bool:
        """Whether a size is a formula of the sizes of the model's inputs."""
        return symbols_below(size) <= self._inputs

    def _resolved(self, size: Size) -> Size:
        return sympy.expand(size.xreplace(self.equal)) if not self.equal.keys().isdisjoint(size.free_symbols) else size

    def _declared_dims(self, name: str) -> Dims:
        return tuple(
            sympy.Integer(d.dim_value)
            if d.HasField("dim_value")
            else self._resolved(free(d.dim_param or f"{name}:{axis}"))
            for axis, d in enumerate(self._declared[name].dim)
        )

    def _take_constant(self, name: str) -> None:
        if name in self.values or (constant := self.graph.constant(name)) is None:
            return
        self.dims.setdefault(name, tuple(map(sympy.Integer, constant.shape)))
        if constant.ndim > 1 or constant.size > LONGEST or constant.dtype.kind not in "iuf":
            return
        if np.all(constant == np.floor(constant)) and np.all(np.abs(constant.astype(float)) <= 2.0**63):
            self.values[name] = tuple(sympy.Integer(int(v)) for v in constant.reshape(-1))

    def _take_values(self, node: onnx.NodeProto) -> None:
        name = node.output[0] if node.output else ""
        if len(self.dims.get(name, (None, None))) > 1:  # a matrix, or of unknown rank
            return
        rule = VALUE_RULES.get(node.op_type)
        entries = rule(self, node) if rule is not None else None
        if entries is not None and len(entries) <= LONGEST:
            self.values[name] = tuple(map(self._resolved, entries))

    def _dims_of(self, node: onnx.NodeProto) -> Sequence[Dims | None]:
        nothing = [None] * len(node.output)
        try:
            if node.domain not in ("", "ai.onnx"):
                return nothing
            if node.op_type in _SAME:
                return [self.dims.get(node.input[0]), *nothing[1:]]
            if node.op_type in _BROADCAST:
                return [self.broadcast([self.dims[name] for name in node.input], node.output[0])]
            rule = DIM_RULES.get(node.op_type)
            return nothing if rule is None else rule(self, node)
        except (KeyError, IndexError, TypeError, ValueError):
            return nothing  # a rank or a value is not known, or the node is malformed

    def broadcast(self, shapes: list[Dims], name: str) -> Dims:
        """The shape of an elementwise result, with new symbols called by `name` where sizes are open."""
        result = []
        for axis in range(-max(map(len, shapes)), 0):
            sizes = list(dict.fromkeys(s for shape in shapes if -axis <= len(shape) and (s := shape[axis]) != 1))
            # Of sizes above 1, all are equal, or the model could not run.
            above_one = sorted((s for s in sizes if is_at_least(s, 2)), key=lambda s: not self.is_explained(s))
            known = [s for s in sizes if s.is_Integer] or above_one or sizes[:1]
            certain = len(sizes) < 2 or is_at_least(known[0], 2)
            result.append((known[0] if certain else free(f"{name}:{axis}")) if sizes else sympy.Integer(1))
        return tuple(result)

    def axes(self, node: onnx.NodeProto, index: int = 1, key: str = "axes") -> tuple[int, ...] | None:
        """Integers that are an input or, in older opsets, an attribute."""
        if len(node.input) > index and node.input[index]:
            return tuple(map(int, self.values[node.input[index]]))
        given = attributes(node).get(key)
        return None if given is None else tuple(given)

    def slices(self, node: onnx.NodeProto) -> list[tuple[int, Size, Size | None]]:
        """Axis, start and length of each sliced axis, None for a length that is not known.

        KeyError or ValueError where not even the axes and starts are known.
        """
        dims = self.dims[node.input[0]]
        starts = self.values[node.input[1]]
        ends: Sequence[Size | None] = self.values.get(node.input[2], (None,) * len(starts))
        axes = self.axes(node, 3) or tuple(range(len(starts)))
        steps = self.axes(node, 4) or (1,) * len(starts)
        result = []
        for axis, start, end, step in zip(axes, starts, ends, steps):
            size = dims[axis]
            length = None
            if step == 1 and end is not None and all(is_at_least(v, 0) or v.is_negative for v in (start, end)):
                start, end = (v + size if v.is_negative else v for v in (start, end))
                if end.is_Integer and (end >= _END or (size.is_Integer and end > size)):
                    end = size
                if end == size or is_at_least(sympy.expand(size - end), 0):
                    length = sympy.expand(end - start)
            result.append((axis % len(dims), start, length))
        return result

    def split(self, node: onnx.NodeProto) -> tuple[int, Dims]:
        """Axis and sizes of a Split."""
        dims, axis = self.dims[node.input[0]], attributes(node).get("axis", 0) % len(self.dims[node.input[0]])
        if len(node.input) > 1 and node.input[1]:
            parts = self.values[node.input[1]]
            if not all(is_at_least(part, 0) for part in parts):
                raise ValueError("parts of unknown size")
            return axis, parts
        if "split" in attributes(node):
            return axis, tuple(map(sympy.Integer, attributes(node)["split"]))
        if not sympy.Mod(dims[axis], len(node.output)) == 0:
            raise ValueError("parts of unequal size")
        return axis, (dims[axis] / len(node.output),) * len(node.output)
