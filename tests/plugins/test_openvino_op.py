"""The OpenVINO operation: right in every type, on several threads, and clear about errors."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import reference
from cases import SMALL, adversarial_cases, random_case
from one_node import ERRORS, HALVES, TOLERANCE, TYPES, feeds, in_type, model

openvino = pytest.importorskip("openvino", reason="pip install openvino")

ADVERSARIAL = adversarial_cases()


def compiled(given: bytes, library: Path, threads: int = 1) -> Any:
    core = openvino.Core()
    core.add_extension(str(library))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(core.read_model(given), "CPU", settings)


def run(given: bytes, library: Path, inputs: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    return compiled(given, library, threads)(inputs)[0]


@pytest.mark.parametrize("function", [False, True], ids=["", "with_function"])
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_the_kernel_runs(openvino_library: Path, form: str, function: bool) -> None:
    """Also where the file has a local function of that name, which gives 42."""
    case = random_case(SMALL, queries=40)
    output = run(model(form, function=function), openvino_library, feeds(form, case))
    np.testing.assert_allclose(output, getattr(reference, form)(*case.inputs(form)), atol=1e-5)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_adversarial(openvino_library: Path, form: str, name: str) -> None:
    case = ADVERSARIAL[name]
    output = run(model(form), openvino_library, feeds(form, case))
    np.testing.assert_allclose(output, getattr(reference, form)(*case.inputs(form)), atol=1e-5)


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_half_types(openvino_library: Path, form: str, types: tuple[str, str]) -> None:
    case = random_case([(12, 20), (6, 10)], queries=300, heads=4)
    exact = in_type(feeds(form, case), *types)  # OpenVINO's casts to bfloat16 do not all round to the nearest
    given = {
        name: array.astype(np.float16 if name in HALVES and types[name != "value"] == "float16" else np.float32)
        for name, array in exact.items() if name != "level_shapes"
    } | {"level_shapes": case.shapes}  # fmt: skip
    output = run(model(form, *types), openvino_library, given, 2)
    wanted = getattr(reference, form)(*exact.values())
    np.testing.assert_allclose(output, wanted, rtol=TOLERANCE[types[0]] / 4, atol=TOLERANCE[types[0]] / 4)


def test_threads_change_nothing(openvino_library: Path) -> None:
    case = random_case([(48, 80), (24, 40), (12, 20)], batch=2, queries=500, heads=8)
    one, two = (run(model("fused"), openvino_library, feeds("fused", case), threads) for threads in (1, 2))
    assert np.array_equal(one, two)


def test_inferred_shape(openvino_library: Path) -> None:
    shaped = onnx.load_from_string(model("fused"))
    for value in shaped.graph.input:
        if value.name == "value":
            value.type.tensor_type.shape.dim[2].dim_value, value.type.tensor_type.shape.dim[3].dim_value = 8, 32
    (output,) = compiled(shaped.SerializeToString(), openvino_library).outputs
    assert str(output.partial_shape) == "[?,?,256]"


@pytest.mark.parametrize(("form", "name", "shape", "sentence"), ERRORS)
def test_errors(openvino_library: Path, form: str, name: str, shape: tuple[int, ...], sentence: str) -> None:
    inputs = feeds(form, random_case(SMALL)) | {name: np.zeros(shape, np.float32)}
    op = compiled(model(form), openvino_library, threads=2)  # on one thread OpenVINO hides errors
    with pytest.raises(RuntimeError, match=sentence):
        op(inputs)


def test_a_wrong_rank_is_refused_when_read(openvino_library: Path) -> None:
    flat = onnx.load_from_string(model("fused"))
    del flat.graph.input[0].type.tensor_type.shape.dim[3:]
    with pytest.raises(RuntimeError, match="input 0 must have 4 dimensions"):
        compiled(flat.SerializeToString(), openvino_library)
