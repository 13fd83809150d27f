"""Half precision: what is computed in half and what is not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from ovavss.errors import UserError
from ovavss.export.precision import to_half
from ovavss.runtime.engines import Precision

KEPT = ("Softmax", "LayerNormalization", "InstanceNormalization", "Resize", "Sigmoid", "Log", "ReduceSum")


@pytest.mark.parametrize("graph", ["audio_encoder", "usslm", "clip_image_encoder", "clip_text_encoder"])
def test_products_are_half_and_the_rest_is_not(tiny_engines: Path, graph: str) -> None:
    model = shape_inference.infer_shapes(onnx.load(tiny_engines / f"{graph}.fp16.onnx"), data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {w.name: w.data_type for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in KEPT and node.output[0] in types:
            assert types[node.output[0]] != TensorProto.FLOAT16, node.name
    halves = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm") and types.get(n.output[0]) == 10]
    assert len(halves) > 3
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type != TensorProto.FLOAT16


def test_frame_preparation_and_mel_spectra_stay_exact(tiny_engines: Path) -> None:
    half = onnx.load(tiny_engines / "usslm.fp16.onnx")
    whole = onnx.load(tiny_engines / "usslm.onnx")
    prepare = [[n for n in m.graph.node if n.name.startswith("prepare/")] for m in (half, whole)]
    assert prepare[0] == prepare[1] and len(prepare[0]) > 50


def small_model(weight: float) -> onnx.ModelProto:
    values = numpy_helper.from_array(np.full((4, 4), weight, np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Softmax", ["y"], ["s"], name="softmax"),
        helper.make_node("Add", ["s", "y"], ["z"], name="sum"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in ("x", "z")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [values])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model


def test_casts_stand_where_types_meet() -> None:
    for precision, kind in ((Precision.FP16, TensorProto.FLOAT16), (Precision.BF16, TensorProto.BFLOAT16)):
        model = to_half(small_model(1.0), precision)
        onnx.checker.check_model(model, full_check=True)
        casts = [(n.input[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"]
        assert casts == [("x", kind), ("y", TensorProto.FLOAT), ("s", kind), ("z/half", TensorProto.FLOAT)]
        assert [w.data_type for w in model.graph.initializer] == [kind]


def test_a_weight_beyond_half_is_refused() -> None:
    with pytest.raises(UserError, match=r"weight w holds 1e\+05, beyond fp16; use bf16"):
        to_half(small_model(1e5), Precision.FP16)
    weight = to_half(small_model(1e5), Precision.BF16).graph.initializer[0]
    assert np.frombuffer(weight.raw_data, np.uint16)[0] == 0x47C3  # 99 840, the nearest bfloat16
    with pytest.raises(UserError, match=r"weight w holds 3\.4e\+38, beyond bf16; use fp32"):
        to_half(small_model(3.4e38), Precision.BF16)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_weights_that_are_not_finite_stay_what_they_are(weight: float, precision: Precision) -> None:
    converted = numpy_helper.to_array(to_half(small_model(weight), precision).graph.initializer[0])
    np.testing.assert_array_equal(converted.astype(np.float32), np.float32(weight))


def test_rules_that_match_nothing_fail() -> None:
    with pytest.raises(UserError, match="keeps the products of Renamed in float32, but the graph 'g' has none"):
        to_half(small_model(1.0), Precision.FP16, ("Renamed",))
    model = small_model(1.0)
    model.graph.node[0].op_type = "Mod"
    with pytest.raises(UserError, match="the graph 'g' has no product that could be half"):
        to_half(model, Precision.BF16)
