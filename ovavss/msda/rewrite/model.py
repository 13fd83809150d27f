"""A whole model: what is replaced, what is left and why."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from ovavss.errors import UserError
from ovavss.msda.onnx_node import DOMAIN, LOWEST_OPSET, PLAIN, FallbackBody
from ovavss.msda.rewrite.find import find
from ovavss.msda.rewrite.graph import Graph, element_types, standard_opset
from ovavss.msda.rewrite.occurrence import Occurrence, Refused
from ovavss.msda.rewrite.replace import replace
from ovavss.msda.rewrite.sizes import Sizes


@dataclass(frozen=True)
class Report:
    """What `rewrite` did: the attentions that it replaced, and the GridSample nodes that it left."""

    replaced: list[Occurrence]
    left: list[Refused]


def rewrite(model: onnx.ModelProto, folder: Path, body: FallbackBody) -> Report:
    """Replaces deformable attention spelled with GridSample by the operator's node, in place.

    Args:
        model: Any ONNX model of opset 16 or newer; the values of its external data need not be loaded.
        folder: The folder of its external data.
        body: How the node's local function samples, for runtimes without the operator.

    Returns:
        What was replaced, and each GridSample that was left with the reason.

    Raises:
        UserError: The model's opset is older, or it holds the operator already.
    """
    left = _out_of_reach(model)
    if not any(node.op_type == "GridSample" for node in model.graph.node):
        return Report([], left)
    if standard_opset(model) < LOWEST_OPSET:
        raise UserError(
            f"the model is of opset {standard_opset(model)}; GridSample is ONNX's own from opset {LOWEST_OPSET} on: "
            "export it again with a newer one"
        )
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a model that breaks a rule elsewhere; its own notes on shapes remain
        inferred = model
    graph = Graph(model, folder, element_types(inferred))
    sizes = Sizes(graph, inferred)
    found, refused = find(graph, sizes)
    left += refused
    if body is FallbackBody.GRID_SAMPLE and found:
        levels = Counter(occurrence.levels for occurrence in found).most_common(1)[0][0]
        reason = f"its number of levels is not the others' {levels}; --attention-body gather takes any"
        left += [Refused(node, reason) for o in found if o.levels != levels for node in o.samplers]
        found = [occurrence for occurrence in found if occurrence.levels == levels]
    if found:
        if any(function.name == PLAIN and function.domain == DOMAIN for function in model.functions):
            raise UserError(f"the model holds {PLAIN} already; give the model that it was made from")
        replace(graph, sizes, found, body)
    return Report(found, left)


def _out_of_reach(model: onnx.ModelProto) -> list[Refused]:
    """The GridSample nodes inside functions and inside the bodies of other nodes."""
    refused = []
    for function in model.functions:
        if function.domain != DOMAIN:
            reason = f"it is in the local function {function.name}; inline the model's functions first"
            refused += [Refused(node, reason) for node in _samplers(function.node)]
    for node in model.graph.node:
        for entry in node.attribute:
            for graph in [entry.g, *entry.graphs]:
                name = node.name or node.output[0]
                reason = f"it is in the body of the {node.op_type} {name}, where nothing is replaced"
                refused += [Refused(inside, reason) for inside in _samplers(graph.node)]
    return refused


def _samplers(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """The GridSample nodes among these and in their bodies."""
    for node in nodes:
        if node.op_type == "GridSample":
            yield node.name or node.output[0]
        for entry in node.attribute:
            for graph in [entry.g, *entry.graphs]:
                yield from _samplers(graph.node)
