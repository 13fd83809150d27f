"""Whole encoders: every layer's attention is found, whichever axes are dynamic."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from encoders import LAYERS, export_encoder
from onnx import numpy_helper
from running import ops, rewritten, run

from ovavss.msda.onnx_node import PLAIN, FallbackBody


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dynamic", "side", "shapes"),
    [
        ({}, 64, [(1, 3, 64, 64)]),
        ({}, 72, [(1, 3, 72, 72)]),  # windows are padded and cut back
        ({0: "batch"}, 64, [(1, 3, 64, 64), (3, 3, 64, 64)]),
        ({2: "height", 3: "width"}, 64, [(1, 3, 64, 64), (1, 3, 128, 72)]),
        ({0: "batch", 2: "height", 3: "width"}, 64, [(1, 3, 64, 64), (2, 3, 40, 96)]),
    ],
)
def test_every_layer_is_found(
    dynamic: dict[int, str], side: int, shapes: list[tuple[int, int, int, int]], tmp_path: Path
) -> None:
    encoder = export_encoder(tmp_path / "encoder.onnx", dynamic, side)
    before = onnx.load(tmp_path / "encoder.onnx")
    after, report = rewritten(before)
    assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, 2, 2)] * LAYERS, report.left
    assert not report.left
    assert ops(after).count(PLAIN) == LAYERS
    for shape in shapes:
        picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        if dynamic:
            expected = run(before, {"picture": picture.numpy()})
        else:  # the exporter's grids are in double here, which ONNX Runtime's GridSample does not take
            with torch.no_grad():
                expected = encoder(picture).numpy()
        np.testing.assert_allclose(run(after, {"picture": picture.numpy()}), expected, atol=1e-5)


# Sizes as PyTorch's second exporter computes them: from those of the picture, by integer division.
_ANY_SIZE = """
<ir_version: 8, opset_import: ["": 18]>
agraph (float[B, 3, H, W] picture, float[B, Q, 2, 2, 3, 2] locations, float[B, Q, 2, 2, 3] weights)
=> (float[B, Q, 16] out)
<int64[1] four = {4}, int64[1] one = {1},
 int64[1] two = {2}, int64[1] channels = {16}, int64[1] width = {8}, int64[1] last = {-1}, int64 first = {0},
 int64 second = {1}, float two_ = {2.0}, float one_ = {1.0}, int64[3] out_shape = {-1, 16, 0},
 int64[1] all_points = {6},
 int64[1] third = {3}>
{
    batch = Shape <start = 0, end = 1> (picture)
    height = Shape <start = 2, end = 3> (picture)
    width_ = Shape <start = 3, end = 4> (picture)
    near_h = Div (height, four)
    near_w = Div (width_, four)
    before_h = Sub (near_h, one)
    before_w = Sub (near_w, one)
    half_h = Div (before_h, two)
    half_w = Div (before_w, two)
    far_h = Add (half_h, one)
    far_w = Add (half_w, one)
    near_area = Mul (near_h, near_w)
    far_area = Mul (far_h, far_w)
    near = Conv <strides = [4, 4]> (picture, near_weight)
    far = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (near, far_weight)
    near_flat_shape = Concat <axis = 0> (batch, channels, near_area)
    far_flat_shape = Concat <axis = 0> (batch, channels, last)
    near_flat = Reshape (near, near_flat_shape)
    far_flat = Reshape (far, far_flat_shape)
    joined = Concat <axis = 2> (near_flat, far_flat)
    tokens = Transpose <perm = [0, 2, 1]> (joined)
    value_shape = Concat <axis = 0> (batch, last, two, width)
    value = Reshape (tokens, value_shape)
    parts = Concat <axis = 0> (near_area, far_area)
    value0, value1 = Split <axis = 1> (value, parts)
    flat0_shape = Concat <axis = 0> (batch, near_area, channels)
    flat1_shape = Concat <axis = 0> (batch, far_area, channels)
    flat0 = Reshape (value0, flat0_shape)
    flat1 = Reshape (value1, flat1_shape)
    turned0 = Transpose <perm = [0, 2, 1]> (flat0)
    turned1 = Transpose <perm = [0, 2, 1]> (flat1)
    rows = Mul (batch, two)
    map0_shape = Concat <axis = 0> (rows, width, near_h, near_w)
    map1_shape = Concat <axis = 0> (rows, width, far_h, far_w)
    map0 = Reshape (turned0, map0_shape)
    map1 = Reshape (turned1, map1_shape)
    doubled = Mul (locations, two_)
    grids = Sub (doubled, one_)
    place0 = Gather <axis = 3> (grids, first)
    place1 = Gather <axis = 3> (grids, second)
    by_head0 = Transpose <perm = [0, 2, 1, 3, 4]> (place0)
    by_head1 = Transpose <perm = [0, 2, 1, 3, 4]> (place1)
    end = Shape <start = 2> (by_head0)
    grid_shape = Concat <axis = 0> (rows, end)
    grid0 = Reshape (by_head0, grid_shape)
    grid1 = Reshape (by_head1, grid_shape)
    sample0 = GridSample (map0, grid0)
    sample1 = GridSample (map1, grid1)
    samples = Concat <axis = 3> (sample0, sample1)
    shares_by_head = Transpose <perm = [0, 2, 1, 3, 4]> (weights)
    queries = Shape <start = 2, end = 3> (shares_by_head)
    shares_shape = Concat <axis = 0> (rows, one, queries, all_points)
    shares = Reshape (shares_by_head, shares_shape)
    weighted = Mul (samples, shares)
    summed = ReduceSum <keepdims = 0> (weighted, last)
    wide = Reshape (summed, out_shape)
    out = Transpose <perm = [0, 2, 1]> (wide)
}
"""


def any_size(changes: dict[str, str] | None = None) -> onnx.ModelProto:
    text = _ANY_SIZE
    random = np.random.default_rng(0)
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    for name, shape in (("near_weight", (16, 3, 4, 4)), ("far_weight", (16, 16, 3, 3))):
        content = random.standard_normal(shape, np.float32) / 8
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


@pytest.mark.parametrize("side", [(16, 16), (18, 23), (37, 8), (64, 96)])
@pytest.mark.parametrize("body", FallbackBody)
def test_any_size(side: tuple[int, int], body: FallbackBody) -> None:
    before = any_size()
    after, report = rewritten(before, body)
    assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, 2, 3)], report.left
    random = np.random.default_rng(1)
    feeds = {
        "picture": random.random((2, 3, *side), np.float32),
        "locations": random.uniform(-0.2, 1.2, (2, 5, 2, 2, 3, 2)).astype(np.float32),
        "weights": random.random((2, 5, 2, 2, 3), np.float32),
    }
    np.testing.assert_allclose(run(after, feeds), run(before, feeds), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # Rounded up where the convolution rounds down: equal for some sizes only.
        (
            {"near_h = Div (height, four)": "more = Add (height, third)\n near_h = Div (more, four)"},
            "not shown to fill",
        ),
        # A stride that does not fit the computed size.
        (
            {"Conv <strides = [2, 2], pads = [1, 1, 1, 1]>": "Conv <strides = [2, 2], pads = [1, 1, 0, 0]>"},
            "sizes|reshape",
        ),
    ],
)
def test_sizes_that_are_not_shown(changes: dict[str, str], reason: str) -> None:
    before = any_size(changes)
    after, report = rewritten(before)
    assert after == before
    assert len(report.left) == 2
    assert all(re.search(reason, refused.reason) for refused in report.left), report.left
