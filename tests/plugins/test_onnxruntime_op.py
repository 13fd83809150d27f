"""The ONNX Runtime operator: found, preferred to the local function, right in every type, and clear about errors."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import torch
from cases import SMALL, adversarial_cases, random_case
from one_node import ERRORS, INPUTS, TOLERANCE, TYPES, feeds, in_type, model
from onnx import helper

from ovavss.msda import libraries as custom_op

ADVERSARIAL = adversarial_cases()


def session(model: bytes, library: Path | None, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_half_types(onnxruntime_library: Path, form: str, types: tuple[str, str]) -> None:
    case = random_case([(12, 20), (6, 10)], queries=300, heads=4)
    (output,) = session(model(form, *types), onnxruntime_library, 2).run(None, feeds(form, case, *types))
    wanted = getattr(reference, form)(*in_type(feeds(form, case), *types).values())
    np.testing.assert_allclose(output, wanted, rtol=TOLERANCE[types[0]] / 4, atol=TOLERANCE[types[0]] / 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_number(onnxruntime_library: Path, dtype: str) -> None:
    """All 65536 of them, through the op at pixel centers and back: the conversions are our own."""
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(getattr(torch, dtype)).float().numpy()
    numbers = np.where(np.isfinite(numbers), numbers, 0)
    shapes, center = np.array([[1, 1]]), np.full((8192, 1, 1, 1, 1, 2), 0.5, np.float32)
    typed = numbers.astype(np.float16) if dtype == "float16" else numbers
    inputs = [typed.reshape(8192, 1, 1, 8), shapes, center, np.ones((8192, 1, 1, 1, 1), np.float32)]
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


@pytest.mark.parametrize(("form", "name", "shape", "sentence"), ERRORS)
def test_errors(onnxruntime_library: Path, form: str, name: str, shape: tuple[int, ...], sentence: str) -> None:
    inputs = feeds(form, random_case(SMALL)) | {name: np.zeros(shape, np.float32)}
    free = onnx.load_from_string(model(form))
    for value in free.graph.input:
        for index, dimension in enumerate(value.type.tensor_type.shape.dim):
            dimension.dim_param = f"{value.name}_{index}"  # else ONNX Runtime finds the mismatch itself
    with pytest.raises(Exception, match=sentence):
        session(free.SerializeToString(), onnxruntime_library).run(None, inputs)
