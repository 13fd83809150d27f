"""The ONNX Runtime operator: found, preferred to the local function, right in every type, and clear about errors."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import torch
from cases import SMALL, Case, adversarial_cases, random_case
from onnx import TensorProto, helper

from ovavss.runtime import custom_op

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
ADVERSARIAL = adversarial_cases()


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


def session(model: bytes, library: Path | None, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(form: str, case: Case, value_type: str = "float32", weight_type: str = "float32") -> dict[str, np.ndarray]:
    given = dict(zip(INPUTS[form], case.inputs(form)))
    for name in given:
        wanted = value_type if name == "value" else weight_type if name in ("weights", "offsets", "logits") else ""
        if wanted == "float16":
            given[name] = given[name].astype(np.float16)
    return given


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_the_operator_goes_before_the_local_function(onnxruntime_library: Path, form: str) -> None:
    """One file for both: with the library the kernel runs, without it the function."""
    both, case = model(form, function=True), random_case(SMALL, queries=40)
    (with_library,) = session(both, onnxruntime_library).run(None, feeds(form, case))
    np.testing.assert_allclose(with_library, getattr(reference, form)(*case.inputs(form)), atol=1e-5)
    (without,) = session(both, None).run(None, feeds(form, case))
    assert (without == 42).all()


def test_runtime_helper(onnxruntime_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVAVSS_PLUGIN_DIR", str(onnxruntime_library.parent))
    assert custom_op.custom_op_library() == onnxruntime_library
    assert not custom_op.has_cuda(onnxruntime_library)
    options = custom_op.session_options(["CPUExecutionProvider"])
    case = random_case(SMALL)
    ran = onnxruntime.InferenceSession(model("fused", function=True), options, providers=["CPUExecutionProvider"])
    (output,) = ran.run(None, feeds("fused", case))
    np.testing.assert_allclose(output, reference.fused(*case.fused()), atol=1e-5)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_adversarial(onnxruntime_library: Path, form: str, name: str) -> None:
    case = ADVERSARIAL[name]
    (output,) = session(model(form), onnxruntime_library).run(None, feeds(form, case))
    np.testing.assert_allclose(output, getattr(reference, form)(*case.inputs(form)), atol=1e-5)


TYPES = [("float16", "float32"), ("float16", "float16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_half_types(onnxruntime_library: Path, form: str, types: tuple[str, str]) -> None:
    case = random_case([(12, 20), (6, 10)], queries=300, heads=4)
    (output,) = session(model(form, *types), onnxruntime_library, 2).run(None, feeds(form, case, *types))
    half = {
        name: array
        if name not in ("value", "weights", "offsets", "logits")
        else torch.from_numpy(array).to(getattr(torch, types[name != "value"])).double().numpy()
        for name, array in feeds(form, case).items()
    }
    wanted = getattr(reference, form)(*half.values())
    np.testing.assert_allclose(output, wanted, rtol=TOLERANCE[types[0]] / 4, atol=TOLERANCE[types[0]] / 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_number(onnxruntime_library: Path, dtype: str) -> None:
    """All 65536 of them, through the op at pixel centres and back: the conversions are our own."""
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(getattr(torch, dtype)).float().numpy()
    numbers = np.where(np.isfinite(numbers), numbers, 0)
    shapes, centre = np.array([[1, 1]]), np.full((8192, 1, 1, 1, 1, 2), 0.5, np.float32)
    typed = numbers.astype(np.float16) if dtype == "float16" else numbers
    inputs = [typed.reshape(8192, 1, 1, 8), shapes, centre, np.ones((8192, 1, 1, 1, 1), np.float32)]
    op = session(model("plain", dtype), onnxruntime_library)
    (output,) = op.run(None, dict(zip(INPUTS["plain"], inputs)))
    assert np.array_equal(output.ravel(), numbers)
    # Rounding, ties to even: a factor of 1.5 makes every other number a tie, random ones the rest.
    for factors in (np.full_like(inputs[3], 1.5), np.random.default_rng(0).uniform(0.5, 2, inputs[3].shape)):
        inputs[3] = factors.astype(np.float32)
        (output,) = op.run(None, dict(zip(INPUTS["plain"], inputs)))
        exact = torch.from_numpy(numbers.reshape(8192, 8)) * torch.from_numpy(inputs[3].reshape(8192, 1))
        assert np.array_equal(output.ravel(), exact.to(getattr(torch, dtype)).float().numpy().ravel())


def test_threads_change_nothing(onnxruntime_library: Path) -> None:
    case = random_case([(48, 80), (24, 40), (12, 20)], batch=2, queries=500, heads=8)
    outputs = [session(model("fused"), onnxruntime_library, n).run(None, feeds("fused", case))[0] for n in (1, 2, 3)]
    assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0], outputs[2])


def test_inferred_shape(onnxruntime_library: Path) -> None:
    """Names of dimensions pass through the operator."""
    shaped = onnx.load_from_string(model("fused"))
    for value in shaped.graph.input:
        if value.name == "value":
            value.type.tensor_type.shape.dim[2].dim_value, value.type.tensor_type.shape.dim[3].dim_value = 8, 32
    (output,) = session(shaped.SerializeToString(), onnxruntime_library).get_outputs()
    assert output.shape == ["B", "Q", 256]


def test_unknown_dimensions_stay_open(onnxruntime_library: Path) -> None:
    """A projection after the operator loads and runs where the operator's inputs have unnamed dimensions."""
    case = random_case(SMALL)
    open_ended = onnx.load_from_string(model("fused"))
    for value in open_ended.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()
    channels = case.value.shape[2] * case.value.shape[3]
    projection = np.random.default_rng(0).standard_normal((channels, 5)).astype(np.float32)
    open_ended.graph.initializer.append(onnx.numpy_helper.from_array(projection, "projection"))
    open_ended.graph.node.append(helper.make_node("MatMul", ["output", "projection"], ["projected"]))
    open_ended.graph.output[0].name = "projected"
    (projected,) = session(open_ended.SerializeToString(), onnxruntime_library).run(None, feeds("fused", case))
    np.testing.assert_allclose(projected, reference.fused(*case.inputs("fused")) @ projection, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "name", "shape", "sentence"),
    [
        ("plain", "weights", (2, 7, 3, 3, 5), "locations do not fit weights"),
        ("plain", "weights", (2, 7, 4, 3, 4), "weights do not fit value and level_shapes"),
        ("plain", "value", (2, 40, 3, 12), "the channels of a head must be a multiple of 8"),
        ("plain", "value", (2, 39, 3, 32), "the level shapes do not add up to the number of tokens"),
        ("fused", "logits", (1, 7, 3, 3, 4), "logits do not fit value and level_shapes"),
        ("fused", "offsets", (2, 7, 3, 3, 5, 2), "offsets do not fit logits"),
        ("fused", "references", (2, 6, 1, 2), "references do not fit logits"),
        ("fused", "references", (2, 7, 2, 2), "reference_levels must be levels or 1"),
    ],
)
def test_errors(onnxruntime_library: Path, form: str, name: str, shape: tuple[int, ...], sentence: str) -> None:
    inputs = feeds(form, random_case(SMALL)) | {name: np.zeros(shape, np.float32)}
    free = onnx.load_from_string(model(form))
    for value in free.graph.input:
        for index, dimension in enumerate(value.type.tensor_type.shape.dim):
            dimension.dim_param = f"{value.name}_{index}"  # else ONNX Runtime finds the mismatch itself
    with pytest.raises(Exception, match=sentence):
        session(free.SerializeToString(), onnxruntime_library).run(None, inputs)
