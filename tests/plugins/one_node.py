"""Models of one attention node, and inputs that fit them."""

import numpy as np
import onnx
import torch
from cases import Case
from onnx import TensorProto, helper

NAMES = {"plain": "OvavssMSDeformAttn", "fused": "OvavssMSDeformAttnFused"}
INPUTS = {
    "plain": ["value", "level_shapes", "locations", "weights"],
    "fused": ["value", "level_shapes", "references", "offsets", "logits"],
}
DIMENSIONS = {
    "value": ["B", "S", "M", "D"],
    "level_shapes": ["L", 2],
    "locations": ["B", "Q", "M", "L", "P", 2],
    "weights": ["B", "Q", "M", "L", "P"],
    "references": ["R", "Q", "K", 2],
    "offsets": ["B", "Q", "M", "L", "P", 2],
    "logits": ["B", "Q", "M", "L", "P"],
}
ONNX = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
HALVES = ("value", "weights", "offsets", "logits")  # those that may be of a half type
TYPES = [("float16", "float32"), ("float16", "float16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]
# Input of a wrong size, and what is said of it.
ERRORS = [
    ("plain", "weights", (2, 7, 3, 3, 5), "locations do not fit weights"),
    ("plain", "weights", (2, 7, 4, 3, 4), "weights do not fit value and level_shapes"),
    ("plain", "value", (2, 40, 3, 12), "the channels of a head must be a multiple of 8"),
    ("plain", "value", (2, 39, 3, 32), "the level shapes do not add up to the number of tokens"),
    ("fused", "logits", (1, 7, 3, 3, 4), "logits do not fit value and level_shapes"),
    ("fused", "offsets", (2, 7, 3, 3, 5, 2), "offsets do not fit logits"),
    ("fused", "references", (2, 6, 1, 2), "references do not fit logits"),
    ("fused", "references", (2, 7, 2, 2), "reference_levels must be levels or 1"),
]


def model(form: str, value_type: str = "float32", weight_type: str = "float32", function: bool = False) -> bytes:
    """The node alone. float16 goes in and out as it is (between casts, ONNX Runtime would take the float32 kernel);
    bfloat16 is cast inside, for NumPy's sake. With `function`, a local function of the same name that gives 42."""
    nodes, names, outside = [], [], {}
    for name in INPUTS[form]:
        wanted = (
            value_type if name == "value" else weight_type if name in ("weights", "offsets", "logits") else "float32"
        )
        outside[name] = ONNX[wanted] if wanted == "float16" else TensorProto.FLOAT
        names.append(name)
        if wanted == "bfloat16":
            nodes.append(helper.make_node("Cast", [name], [f"{name}_typed"], to=ONNX[wanted]))
            names[-1] = f"{name}_typed"
    outside["level_shapes"] = TensorProto.INT64
    attributes = {"plugin_namespace": "ovavss", "plugin_version": "1"}
    result = "typed" if value_type == "bfloat16" else "output"
    nodes.append(helper.make_node(NAMES[form], names, [result], domain="ovavss", **attributes))
    if result == "typed":
        nodes.append(helper.make_node("Cast", ["typed"], ["output"], to=TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info(name, outside[name], DIMENSIONS[name]) for name in INPUTS[form]]
    output_type = ONNX[value_type] if value_type == "float16" else TensorProto.FLOAT
    output = helper.make_tensor_value_info("output", output_type, [None, None, None])
    graph = helper.make_graph(nodes, "op", inputs, [output])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ovavss", 1)]
    body = [
        helper.make_node("Constant", [], ["shape"], value_ints=[0, 0, -1]),
        helper.make_node("Constant", [], ["number"], value_float=42.0),
        helper.make_node("Reshape", ["value", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "number"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "scaled"], ["zero"]),
        helper.make_node("Add", ["zero", "number"], ["output"]),
    ]
    functions = [
        helper.make_function(
            "ovavss", NAMES[form], INPUTS[form], ["output"], body, opsets[:1], attributes=list(attributes)
        )
    ]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions if function else [])
    onnx.checker.check_model(made)
    return made.SerializeToString()


def feeds(form: str, case: Case, value_type: str = "float32", weight_type: str = "float32") -> dict[str, np.ndarray]:
    given = dict(zip(INPUTS[form], case.inputs(form)))
    for name in given:
        wanted = value_type if name == "value" else weight_type if name in ("weights", "offsets", "logits") else ""
        if wanted == "float16":
            given[name] = given[name].astype(np.float16)
    return given


def in_type(given: dict[str, np.ndarray], value_type: str, weight_type: str) -> dict[str, np.ndarray]:
    """Inputs rounded to the types that they have inside."""
    return {
        name: array
        if name not in HALVES
        else torch.from_numpy(array).to(getattr(torch, value_type if name == "value" else weight_type)).double().numpy()
        for name, array in given.items()
    }
