"""Half precision carried by the graph itself, as strongly typed engines want it.

Float16 or bfloat16 between explicit Casts.

Products (convolutions, matrix products, the attention's value) are computed in half, and what only moves or adds their
results follows. Everything else stays float32: softmax, normalizations, reductions, signal processing, frame
preparation, sampling offsets, the mask product whose sign is the mask, and all inputs and outputs of the graph. What a
quantizer made INT8 or FP8 is dequantized to half, so its products are half too.
"""

import ast
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from ovavss.errors import UserError
from ovavss.msda.onnx_node import DOMAIN, FUSED, PLAIN
from ovavss.runtime.engines import Precision

_TYPES = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
_PRODUCTS = {"Conv", "MatMul", "Gemm", "DequantizeLinear"}
# Each is done in half if one of its inputs is half already.
_FOLLOWERS = {
    "Add", "Concat", "Expand", "Flatten", "Gelu", "Identity", "MaxPool", "Mul", "Relu", "Reshape", "Slice", "Split",
    "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
_ANY_TYPE_INPUTS = {"Cast", "Shape", "Size"}
_BF16_OPSET = 22  # the first in which Conv and MaxPool take bfloat16


def to_half(model: onnx.ModelProto, precision: Precision, float32_modules: Sequence[str] = ()) -> onnx.ModelProto:
    """A copy of a float32 model in half precision; inputs and outputs keep their types.

    Args:
        model: The model, with the exporter's notes on each node (which module it is of) if `float32_modules` are given.
        precision: FP16 or BF16.
        float32_modules: Classes or attribute names of modules whose own products stay float32.

    Raises:
        UserError: One of `float32_modules` matches no product, no product is left to convert, or a weight does not fit
            into the type.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    del half.graph.value_info[:]
    typed = shape_inference.infer_shapes(half, data_prop=True).graph
    floats = {v.name for v in (*typed.value_info, *typed.input, *typed.output) if _is_float(v)}
    floats |= {w.name for w in half.graph.initializer if w.data_type == TensorProto.FLOAT}
    _Pass(half, floats, _TYPES[precision], float32_modules).run()
    if precision is Precision.BF16:
        next(entry for entry in half.opset_import if entry.domain == "").version = _BF16_OPSET
    onnx.checker.check_model(half)
    return half


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT


def module_notes(node: onnx.NodeProto) -> tuple[list[str], list[str]]:
    """Classes and names of the modules that a node is in, outermost first."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    classes, names = (notes.get(f"pkg.torch.onnx.{key}", "[]") for key in ("class_hierarchy", "name_scopes"))
    return [c.rpartition(".")[2] for c in ast.literal_eval(classes)[:-1]], ast.literal_eval(names)[:-1]


class _Pass:
    """One walk over the nodes in order; `half` holds the names of the tensors that have become half."""

    def __init__(self, model: onnx.ModelProto, floats: set[str], to: int, float32_modules: Sequence[str]) -> None:
        self.graph, self.floats, self.to = model.graph, floats, to
        self.unmatched = dict.fromkeys(float32_modules)
        self.float32_modules = frozenset(float32_modules)
        self.half: set[str] = set()
        self.weights = {w.name: w for w in model.graph.initializer}
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise UserError(f"node {node.name} ({node.op_type}) holds a graph; half precision needs a flat model")
            low = self._is_low(node)
            for index in self._float_inputs(node, low):
                node.input[index] = self._as(node.input[index], self.to if low else TensorProto.FLOAT)
            self.nodes.append(node)
            if low:
                self.half.update(name for name in node.output if name in self.floats)
        if self.unmatched:
            raise UserError(
                f"half precision keeps the products of {', '.join(self.unmatched)} in float32, but the graph "
                f"'{self.graph.name}' has none: adapt `float32_modules` of its specification to the module's new name"
            )
        if not self.half:
            raise UserError(f"the graph '{self.graph.name}' has no product that could be half; leave it in fp32")
        outputs = {output.name for output in self.graph.output} & self.half
        for name in outputs:
            self._keep_output(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [w for w in self.weights.values() if w.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _is_low(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":  # of the type of what it quantizes; its output is no float
            return node.input[0] in self.half
        if self._stays_float32(node) or not any(name in self.floats for name in node.output):
            return False
        if node.op_type in _PRODUCTS or (node.domain == DOMAIN and node.op_type in (PLAIN, FUSED)):
            return True
        return node.op_type in _FOLLOWERS and any(name in self.half for name in node.input)

    def _stays_float32(self, node: onnx.NodeProto) -> bool:
        if not self.float32_modules:
            return False
        classes, names = module_notes(node)
        own = {name.rpartition(".")[2] for name in (*classes[-1:], *names[-1:])} & self.float32_modules
        if node.op_type in (*_PRODUCTS, "Einsum"):
            for name in own:
                self.unmatched.pop(name, None)
        return bool(own)

    def _float_inputs(self, node: onnx.NodeProto, low: bool) -> Iterator[int]:
        """Inputs that must have the node's type; of the attention, only the value is half."""
        if node.op_type in _ANY_TYPE_INPUTS:
            return
        ours = node.domain == DOMAIN
        for index, name in enumerate(node.input):
            if name in self.floats and not (low and ours and index > 0):
                yield index
            elif ours and name in self.half:
                node.input[index] = self._as(name, TensorProto.FLOAT)

    def _as(self, name: str, to: int) -> str:
        """The tensor in a type: itself, a converted weight, or the output of a Cast."""
        if (to == self.to) == (name in self.half):
            return name
        if (name, to) not in self.casts:
            self.casts[name, to] = f"{name}/{TensorProto.DataType.Name(to).lower()}"
            if name in self.weights:
                self._convert(self.weights[name], self.casts[name, to])
            else:
                made = self.casts[name, to]
                self.nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}/cast", to=to))
        return self.casts[name, to]

    def _convert(self, weight: onnx.TensorProto, name: str) -> None:
        values = numpy_helper.to_array(weight)
        fp16 = self.to == TensorProto.FLOAT16
        with np.errstate(over="ignore"):
            converted = values.astype(np.float16 if fp16 else ml_dtypes.bfloat16)
        lost = values[np.isfinite(values) & ~np.isfinite(converted)]
        if len(lost):
            beyond = "fp16; use bf16" if fp16 else "bf16; use fp32"
            raise UserError(f"weight {weight.name} holds {np.abs(lost).max():.3g}, beyond {beyond}")
        self.weights[name] = numpy_helper.from_array(converted, name)

    def _keep_output(self, name: str) -> None:
        """A graph output stays float32 under its own name."""
        inner = f"{name}/half"
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, used in enumerate(names):
                    if used == name:
                        names[index] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}/cast", to=TensorProto.FLOAT))
