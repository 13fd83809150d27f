"""Attention whose sampling is in another float type than the rest, between Casts."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from running import ops, rewritten, run, text_feeds
from spellings import text_model

from ovavss.msda.onnx_node import PLAIN, FallbackBody

HALF, WIDE = TensorProto.FLOAT16, TensorProto.FLOAT
SAMPLERS = [f"sample{level} = GridSample <align_corners = 0> (map{level}, grid{level})" for level in (0, 1)]
INPUTS = ("float[B, 40, 2, 8] value", "float[B, Q, 2, 2, 3, 2] locations", "float[B, Q, 2, 2, 3] weights")
OUTPUT = "float[B, Q, 16] out"


def typed(kind: str, one: int) -> dict[str, str]:
    """The whole model in another type, in which 1 has the bits `one` (2 has the same in both)."""
    changes = {text: text.replace("float", kind, 1) for text in (*INPUTS, OUTPUT)}
    return changes | {
        "float two = {2.0}": f"{kind} two = {{{0x4000}}}",
        "float one = {1.0}": f"{kind} one = {{{one}}}",
    }


def sampling_in(kind: int, back: int) -> dict[str, str]:
    """GridSample alone in `kind`; its samples are brought `back`."""
    return {
        sampler: f"""wide_map{level} = Cast <to = {kind}> (map{level})
            wide_grid{level} = Cast <to = {kind}> (grid{level})
            wide{level} = GridSample <align_corners = 0> (wide_map{level}, wide_grid{level})
            sample{level} = Cast <to = {back}> (wide{level})"""
        for level, sampler in enumerate(SAMPLERS)
    }


def grids_through(kind: int) -> dict[str, str]:
    """The grids alone go through another type."""
    return {
        sampler: f"""narrow_grid{level} = Cast <to = {kind}> (grid{level})
            back_grid{level} = Cast <to = 1> (narrow_grid{level})
            sample{level} = GridSample <align_corners = 0> (map{level}, back_grid{level})"""
        for level, sampler in enumerate(SAMPLERS)
    }


CASES = {
    "half model, sampling in float": (typed("float16", 0x3C00) | sampling_in(WIDE, HALF), HALF),
    "float model, sampling in half": (sampling_in(HALF, WIDE), WIDE),
    "float model, sampling in double": (sampling_in(TensorProto.DOUBLE, WIDE), WIDE),
    "grids through double": (grids_through(TensorProto.DOUBLE), WIDE),
    "float maps, half weights": (
        {INPUTS[2]: INPUTS[2].replace("float", "float16", 1),
         "shares = Reshape (shares_by_head, shares_shape)":
             "narrow = Reshape (shares_by_head, shares_shape)\nshares = Cast <to = 1> (narrow)"}, WIDE,
    ),
    "samples stay in float behind half maps": (
        {INPUTS[0]: INPUTS[0].replace("float", "float16", 1)}
        | {s: f"wide_map{i} = Cast <to = 1> (map{i})\n" + s.replace(f"(map{i}", f"(wide_map{i}")
           for i, s in enumerate(SAMPLERS)}, WIDE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", FallbackBody)
@pytest.mark.parametrize("case", CASES)
def test_sampling_between_casts(case: str, body: FallbackBody) -> None:
    changes, output_type = CASES[case]
    # ONNX Runtime's GridSample knows double from opset 20 on.
    before = text_model(20 if "in double" in case else 17, "align_corners = 0", changes)
    after, report = rewritten(before, body)
    assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, 2, 3)]
    assert not report.left
    assert ops(after).count(PLAIN) == 1
    assert "GridSample" not in ops(after)
    assert after.graph.output[0].type.tensor_type.elem_type == output_type
    types = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
    feeds = text_feeds()
    for value in before.graph.input:
        feeds[value.name] = feeds[value.name].astype(types[value.type.tensor_type.elem_type])
    expected, found = run(before, feeds), run(after, feeds)
    assert found.dtype == expected.dtype
    exact = case in ("float model, sampling in double", "grids through double")
    np.testing.assert_allclose(found, expected, atol=1e-5 if exact else 0.02, rtol=0 if exact else 4e-3)


def test_bfloat16_with_sampling_in_float() -> None:
    """ONNX Runtime's CPU kernels know no bfloat16, so the model is only checked."""
    before = text_model(
        attributes="align_corners = 0", changes=typed("bfloat16", 0x3F80) | sampling_in(WIDE, TensorProto.BFLOAT16)
    )
    after, report = rewritten(before)
    assert len(report.replaced) == 1
    inferred = onnx.shape_inference.infer_shapes(after, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == TensorProto.BFLOAT16


def test_a_cast_to_integers_is_no_movement() -> None:
    changes = {
        sampler: f"""whole{level} = Cast <to = 7> (map{level})
            rounded{level} = Cast <to = 1> (whole{level})
            sample{level} = GridSample <align_corners = 0> (rounded{level}, grid{level})"""
        for level, sampler in enumerate(SAMPLERS)
    }
    before = text_model(attributes="align_corners = 0", changes=changes)
    after, report = rewritten(before)
    assert not report.replaced
    assert len(report.left) == 2
    assert after == before
