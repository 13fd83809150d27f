"""Two spellings of torch's exporter that TensorRT-RTX's compiler cannot digest, said shorter.

Both hold for this model's graphs and not for any graph.
"""

import onnx

_Makers = dict[str, onnx.NodeProto]


def simplify(model: onnx.ModelProto) -> None:
    """In place.

    - Integer floor division loses its correction for negative numbers: all that we divide are pixel counts. (The
      compiler cannot compare two booleans.)
    - A softmax guarded against rows where all is blocked loses its guard: the mask decoder opens such rows beforehand.
      (The compiler expects the product with the values right behind a softmax.)
    """
    makers: _Makers = {name: node for node in model.graph.node for name in node.output}
    replaced: dict[str, str] = {}
    for node in model.graph.node:
        if _is_floor_division(node, makers):
            replaced[node.output[0]] = node.input[0]
        elif _guards_softmax(node, makers):
            replaced[node.output[0]] = node.input[2]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
    _drop_unused(model)


def _is_floor_division(node: onnx.NodeProto, makers: _Makers) -> bool:
    """Sub(Div(a, b), Cast(And(.., Cast(Mod(a, b)))))."""
    if node.op_type != "Sub":
        return False
    quotient, cast = (makers.get(name) for name in node.input)
    if quotient is None or cast is None or quotient.op_type != "Div" or cast.op_type != "Cast":
        return False
    both = makers.get(cast.input[0])
    if both is None or both.op_type != "And":
        return False
    remainder = makers.get(makers[both.input[1]].input[0]) if both.input[1] in makers else None
    return remainder is not None and remainder.op_type == "Mod" and remainder.input[:2] == quotient.input[:2]


def _guards_softmax(node: onnx.NodeProto, makers: _Makers) -> bool:
    """Where(IsNaN(softmax), 0, softmax)."""
    if node.op_type != "Where":
        return False
    condition, source = makers.get(node.input[0]), makers.get(node.input[2])
    if condition is None or source is None:
        return False
    return condition.op_type == "IsNaN" and source.op_type == "Softmax" and condition.input[0] == node.input[2]


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if any(name in used for name in node.output):
            kept.append(node)
            used.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
