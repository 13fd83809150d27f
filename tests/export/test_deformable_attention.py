"""The op in ONNX: both bodies of both forms equal PyTorch; attention in the exported graph is one node a layer."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ovavss.models.ov_avss.presets import PRESETS
from ovavss.msda.ms_deform_attn import ms_deform_attn, ms_deform_attn_fused
from ovavss.msda.onnx_node import DOMAIN, FUSED, PLAIN, FallbackBody, add_bodies

SHAPES = ((7, 5), (4, 3), (1, 1))
TYPES = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("float16"): TensorProto.FLOAT16}


def one_node(name: str, body: FallbackBody, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The output of a model that is the op alone."""
    attributes = {"plugin_namespace": "ovavss", "plugin_version": "1"}
    node = helper.make_node(name, list(inputs), ["output"], domain=DOMAIN, **attributes)
    values = [
        helper.make_tensor_value_info(
            k, TensorProto.INT64 if k == "shapes" else TYPES[x.dtype], x.shape if k == "shapes" else [None] * x.ndim
        )
        for k, x in inputs.items()
    ]
    output = helper.make_tensor_value_info("output", TYPES[inputs["value"].dtype], [None] * 3)
    model = helper.make_model(
        helper.make_graph([node], "op", values, [output]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    add_bodies(model, len(SHAPES), body)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def drawn(batch: int, queries: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens, heads, channels, points = sum(h * w for h, w in SHAPES), 4, 8, 3
    places = (batch, queries, heads, len(SHAPES), points)
    return {
        "value": rng.standard_normal((batch, tokens, heads, channels), np.float32),
        "shapes": np.array(SHAPES),
        "references": rng.random((1, queries, 1, 2), np.float32),
        "offsets": 4 * rng.standard_normal((*places, 2), np.float32),
        "logits": rng.standard_normal(places, np.float32),
        "locations": 1.4 * rng.random((*places, 2), np.float32) - 0.2,
        "weights": rng.random(places, np.float32),
    }


@pytest.mark.parametrize("body", list(FallbackBody))
@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (3, 11)])
def test_bodies_equal_pytorch(body: FallbackBody, batch: int, queries: int) -> None:
    arrays = drawn(batch, queries)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    fused = {name: arrays[name] for name in ("value", "shapes", "references", "offsets", "logits")}
    expected = ms_deform_attn_fused(
        tensors["value"], SHAPES, tensors["references"], tensors["offsets"], tensors["logits"]
    )
    np.testing.assert_allclose(one_node(FUSED, body, fused), expected.numpy(), atol=2e-6)
    plain = {name: arrays[name] for name in ("value", "shapes", "locations", "weights")}
    expected = ms_deform_attn(tensors["value"], SHAPES, tensors["locations"], tensors["weights"])
    np.testing.assert_allclose(one_node(PLAIN, body, plain), expected.numpy(), atol=5e-6)


@pytest.mark.parametrize("body", list(FallbackBody))
def test_half_values_with_float_places(body: FallbackBody) -> None:
    arrays = drawn(2, 5)
    fused = {name: arrays[name] for name in ("value", "shapes", "references", "offsets", "logits")}
    expected = one_node(FUSED, body, fused)
    half = one_node(FUSED, body, fused | {"value": arrays["value"].astype(np.float16)})
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected, atol=2e-3)


def test_exported_graph_has_one_node_a_layer(tiny_engines: Path) -> None:
    for name in ("usslm.onnx", "usslm.fp16.onnx"):
        model = onnx.load(tiny_engines / name)
        nodes = [node for node in model.graph.node if node.domain == DOMAIN]
        assert len(nodes) == PRESETS["tiny"].pixel_decoder.num_layers
        assert {node.op_type for node in nodes} == {FUSED} == {function.name for function in model.functions}
        for node in nodes:
            attributes = {a.name: a.s.decode() for a in node.attribute}
            assert attributes == {"plugin_namespace": "ovavss", "plugin_version": "1"}
        assert not any(node.op_type == "GridSample" for node in model.graph.node)
