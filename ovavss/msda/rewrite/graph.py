"""A model's main graph as makers, users and constants."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from ovavss.msda.rewrite import external_data

# Larger constants are weights: nothing that is looked for depends on what they hold.
_LARGEST_CONSTANT = 4096


class Graph:
    """Look-ups over a model's main graph; nodes are known by their outputs' names."""

    def __init__(self, model: onnx.ModelProto, folder: Path, types: dict[str, int]) -> None:
        """`folder` is where external data lies; `types` are the tensors' element types."""
        self.model, self.types = model, types
        self.nodes = model.graph.node
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.users[name].append(node)
        self.outputs = {value.name for value in model.graph.output}
        self.inner = {name for node in self.nodes for name in inner_names(node)}
        self._folder = folder
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs = {value.name for value in model.graph.input}
        self._constants: dict[str, np.ndarray | None] = {}

    def constant(self, name: str) -> np.ndarray | None:
        """A small constant's value; None where the tensor is computed, large, or can be given by the caller."""
        if name not in self._constants:
            self._constants[name] = self._read(name)
        return self._constants[name]

    def _read(self, name: str) -> np.ndarray | None:
        if name in self._initializers and name not in self._inputs:
            tensor = self._initializers[name]
        else:
            maker = self.makers.get(name)
            if maker is None or maker.op_type != "Constant":
                return None
            entry = maker.attribute[0]
            if entry.name != "value":
                return np.asarray(helper.get_attribute_value(entry)) if entry.name.startswith("value_") else None
            tensor = entry.t
        if np.prod(tensor.dims, dtype=float) > _LARGEST_CONSTANT:
            return None
        if uses_external_data(tensor):
            tensor = external_data.read(tensor, self._folder)
        return numpy_helper.to_array(tensor)

    def initializer_dims(self, name: str) -> list[int] | None:
        """Also of large ones."""
        return list(self._initializers[name].dims) if name in self._initializers else None

    def readers(self, name: str) -> list[onnx.NodeProto] | None:
        """The nodes that take the tensor's values, not just its shape; None where others than nodes take it."""
        if name in self.outputs or name in self.inner:
            return None
        return [node for node in self.users[name] if node.op_type != "Shape"]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def inner_names(node: onnx.NodeProto) -> set[str]:
    """What the bodies of an If, Loop or Scan mention."""
    names = set()
    for entry in node.attribute:
        for graph in [entry.g, *entry.graphs]:
            for inside in graph.node:
                names.update(inside.input)
                names.update(inner_names(inside))
            names.update(output.name for output in graph.output)
    return names


def standard_opset(model: onnx.ModelProto) -> int:
    """Of ONNX's own domain; 0 where the model imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Of the tensors whose type the model tells."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    return {name: kind for name, kind in types.items() if kind != TensorProto.UNDEFINED}
