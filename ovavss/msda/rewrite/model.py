"""A whole model: what is replaced, what is left and why."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from ovavss.errors import UserError
from ovavss.msda.onnx_node import DOMAIN, LOWEST_OPSET, PLAIN, FallbackBody
from ovavss.msda.rewrite.find import Occurrence, Refused, find
from ovavss.msda.rewrite.graph import Graph, element_types, inner_names, standard_opset
from ovavss.msda.rewrite.replace import replace
from ovavss.msda.rewrite.sizes import Sizes


@dataclass(frozen=True)
class Report:
    """What `rewrite` did."""

    replaced: list[Occurrence]
    left: list[Refused]


def rewrite(model: onnx.ModelProto, folder: Path, body: FallbackBody) -> Report:
    """Replace in place. `folder` is where the model's external data lies; the model may lack it."""
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
        left += [Refused(o.output, reason) for o in found if o.levels != levels]
        found = [occurrence for occurrence in found if occurrence.levels == levels]
    if found:
        if any(function.name == PLAIN and function.domain == DOMAIN for function in model.functions):
            raise UserError(f"the model holds {PLAIN} already; give the model that it was made from")
        replace(graph, sizes, found, body)
    return Report(found, left)


def _out_of_reach(model: onnx.ModelProto) -> list[Refused]:
    """GridSamples inside functions, and graphs inside nodes that may hold some."""
    refused = []
    for function in model.functions:
        if function.domain != DOMAIN and any(node.op_type == "GridSample" for node in function.node):
            refused.append(Refused(function.name, "it is a local function; inline the model's functions first"))
    for node in model.graph.node:
        if inner_names(node) and _samples_inside(node):
            refused.append(Refused(node.name or node.output[0], f"its GridSample is inside the {node.op_type}'s body"))
    return refused


def _samples_inside(node: onnx.NodeProto) -> bool:
    return any(
        inside.op_type == "GridSample" or _samples_inside(inside)
        for entry in node.attribute
        for graph in [entry.g, *entry.graphs]
        for inside in graph.node
    )
