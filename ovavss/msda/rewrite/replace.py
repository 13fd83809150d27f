"""Replaces what `find` found with the op's node, and gives the model the op's body."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
import sympy
from onnx import TensorProto, helper, numpy_helper

from ovavss.msda.onnx_node import ATTRIBUTES, DOMAIN, PLAIN, FallbackBody, add_bodies
from ovavss.msda.rewrite.graph import Graph, inner_names, standard_opset
from ovavss.msda.rewrite.occurrence import Occurrence, Operand
from ovavss.msda.rewrite.rearrange import InputSize, Reshape, Step
from ovavss.msda.rewrite.sizes import Sizes

_FUNCTIONS_SINCE_IR = 8


def replace(graph: Graph, sizes: Sizes, occurrences: Sequence[Occurrence], body: FallbackBody) -> None:
    """In place; all occurrences must have the same number of levels unless the body is the gather arithmetic."""
    model = graph.model
    taken = {name for node in model.graph.node for name in (*node.input, *node.output, node.name)}
    taken.update(tensor.name for tensor in model.graph.initializer)
    free = (prefix for prefix in map("ovavss_msda_{}/".format, count()) if not any(prefix in name for name in taken))
    made = {}
    for occurrence in occurrences:
        writer = _Writer(graph, sizes, next(free))
        writer.write(occurrence)
        made[occurrence.output] = writer.nodes
    nodes = []
    for node in model.graph.node:
        # All inputs of the op are made before the tensor that its output replaces.
        nodes += made.get(node.output[0], [node]) if node.output else [node]
    _keep_used(model, nodes)
    add_bodies(model, occurrences[0].levels, body, standard_opset(model))
    model.ir_version = max(model.ir_version, _FUNCTIONS_SINCE_IR)


class _Writer:
    """Makes the nodes of one occurrence; its constants go straight into the model."""

    def __init__(self, graph: Graph, sizes: Sizes, prefix: str) -> None:
        self.graph, self.sizes = graph, sizes
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self._numbers = count()

    def write(self, occurrence: Occurrence) -> None:
        types = self.graph.types
        value_type, weights_type = types[occurrence.value.name], types[occurrence.weights.name]
        if weights_type != value_type:
            weights_type = TensorProto.FLOAT
        value = self._operand(occurrence.value, value_type)
        shapes = self._level_shapes(occurrence)
        # Our kernels take coordinates in float32 alone, and weights in float32 or the value's type.
        locations = self._operand(occurrence.locations, TensorProto.FLOAT)
        weights = self._operand(occurrence.weights, weights_type)
        output_type = types.get(occurrence.output, value_type)
        moved = occurrence.steps or output_type != value_type
        output = f"{self.prefix}output" if moved else occurrence.output
        inputs = [value, shapes, locations, weights]
        self._declare_sizes(occurrence, (value, value_type), (weights, weights_type), (output, value_type))
        self.nodes.append(
            helper.make_node(PLAIN, inputs, [output], name=f"{self.prefix}{PLAIN}", domain=DOMAIN, **ATTRIBUTES)
        )
        if output_type != value_type:
            output = self._node("Cast", [output], None if occurrence.steps else occurrence.output, to=output_type)
        if occurrence.steps:
            self._steps(output, occurrence.steps, occurrence.output)

    def _declare_sizes(self, occurrence: Occurrence, *tensors: tuple[str, int]) -> None:
        """ONNX Runtime may not see through the shapes that exporters compute, and its custom ops need named sizes."""
        o, graph = occurrence, self.graph.model.graph
        tokens = sympy.Add(*(h * w for h, w in o.level_sizes))
        shapes = (
            (o.batch, tokens, o.heads, o.channels),
            (o.batch, o.queries, o.heads, o.levels, o.points),
            (o.batch, o.queries, o.heads * o.channels),
        )
        ends = {entry.name for entry in (*graph.input, *graph.output)}
        for (name, kind), dims in zip(tensors, shapes):
            if name not in ends:
                for index in reversed([i for i, entry in enumerate(graph.value_info) if entry.name == name]):
                    del graph.value_info[index]
                sizes = [int(size) if sympy.sympify(size).is_Integer else str(size) for size in dims]
                graph.value_info.append(helper.make_tensor_value_info(name, kind, sizes))

    def _node(self, op_type: str, inputs: Sequence[str], output: str | None = None, **given: Any) -> str:
        name = f"{self.prefix}{op_type}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output or name], name=name, **given))
        return output or name

    def _constant(self, array: np.ndarray) -> str:
        name = f"{self.prefix}constant_{next(self._numbers)}"
        self.graph.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _integers(self, entries: Sequence[int]) -> str:
        return self._constant(np.asarray(entries, np.int64))

    def _operand(self, operand: Operand, kind: int) -> str:
        """The operand in the op's axes and in an element type."""
        name = operand.name
        if self.graph.types[name] != kind:
            name = self._node("Cast", [name], to=kind)
        for op_type, number, neutral in (("Mul", operand.scale, 1.0), ("Add", operand.offset, 0.0)):
            if number != neutral:
                constant = np.asarray(number).astype(helper.tensor_dtype_to_np_dtype(kind))
                name = self._node(op_type, [name, self._constant(constant)])
        return self._steps(name, operand.steps)

    def _steps(self, name: str, steps: Sequence[Step], output: str | None = None) -> str:
        for index, step in enumerate(steps):
            last = output if index == len(steps) - 1 else None
            if isinstance(step, Reshape):
                name = self._node("Reshape", [name, self._entries(name, step.entries)], last)
            else:
                name = self._node("Transpose", [name], last, perm=step.perm)
        return name

    def _entries(self, name: str, entries: Sequence[int | InputSize]) -> str:
        if not any(isinstance(entry, InputSize) for entry in entries):
            return self._integers([int(entry) for entry in entries])  # type: ignore[arg-type]
        parts = [
            self._node("Shape", [name], start=entry.axis, end=entry.axis + 1)
            if isinstance(entry, InputSize)
            else self._integers([entry])
            for entry in entries
        ]
        return self._node("Concat", parts, axis=0)

    def _level_shapes(self, occurrence: Occurrence) -> str:
        if all(size.is_Integer for level in occurrence.level_sizes for size in level):
            sizes = [[int(size) for size in level] for level in occurrence.level_sizes]
            return self._constant(np.asarray(sizes, np.int64))
        rows = [self._level_shape(name) for name in occurrence.maps]
        joined = self._node("Concat", rows, axis=0)
        return self._node("Reshape", [joined, self._integers([occurrence.levels, 2])])

    def _level_shape(self, name: str) -> str:
        """From the shape that the map was given, if possible, so that the map itself is not needed any more."""
        maker = self.graph.makers.get(name)
        while maker is not None and maker.op_type == "Identity":
            name = maker.input[0]
            maker = self.graph.makers.get(name)
        if maker is not None and maker.op_type == "Reshape":
            entries = self.sizes.values.get(maker.input[1], ())
            if len(entries) == 4 and all(entry.is_positive for entry in entries[2:]):
                return self._node("Gather", [maker.input[1], self._integers([2, 3])], axis=0)
        return self._node("Shape", [name], start=2, end=4)


def _keep_used(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Of these nodes, what the outputs need."""
    used = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if any(name in used for name in node.output):
            kept.append(node)
            used.update(node.input)
            used.update(inner_names(node))
    kept_nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del model.graph.node[:]
    model.graph.node.extend(kept_nodes)
    made = {name for node in kept_nodes for name in node.output}
    for field, names in ((model.graph.initializer, used), (model.graph.value_info, made)):
        for index in reversed([i for i, entry in enumerate(field) if entry.name not in names]):
            del field[index]
