"""Multi-scale deformable attention against the published model and against its definition, point by point."""

import itertools
import math

import golden_model
import golden_set
import numpy as np
import pytest
import torch

from ovavss.msda.ms_deform_attn import grid_reference_points, ms_deform_attn


@pytest.mark.golden
def test_attention_and_encoder_layer() -> None:
    file = golden_set.load("03b_msdeform")
    shapes = [tuple(shape) for shape in file["spatial_shapes"].tolist()]
    assert [list(shape) for shape in shapes] == golden_set.SET["msdeform"]["level_shapes"]
    tokens = file["attn_out"].shape
    query, src = golden_set.normal("input:msda:query", tokens), golden_set.normal("input:msda:src", tokens)
    layer = golden_model.usslm("r50").pixel_decoder.layers[0]
    out = layer.attention(query, torch.from_numpy(file["reference_points"]), src, shapes)
    assert golden_set.relative_error(file, "attn_out", out) < 2e-5
    reference = grid_reference_points(shapes, src)
    expected = torch.from_numpy(file["grid_reference_points"])
    torch.testing.assert_close(reference.expand_as(expected), expected)
    assert golden_set.relative_error(file, "layer_out", layer(src, query, reference, shapes)) < 2e-5


def by_definition(
    value: np.ndarray, shapes: list[tuple[int, int]], locations: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Equation 3 in float64, one point at a time."""
    n, _, heads, dim = value.shape
    out = np.zeros((n, locations.shape[1], heads, dim))
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    for b, q, m, level, p in itertools.product(*(range(size) for size in weights.shape)):
        height, width = shapes[level]
        x, y = locations[b, q, m, level, p] * (width, height) - 0.5
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, m, level, p]
                out[b, q, m] += share * value[b, starts[level] + row * width + column, m]
    return out.reshape(n, -1, heads * dim)


def test_definition() -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (3, 5), (6, 4)]
    value = rng.standard_normal((2, 40, 3, 8))
    locations = rng.uniform(-0.3, 1.3, (2, 7, 3, 3, 2, 2))
    locations[0, 0] = 0.5  # pixel centers and borders
    locations[0, 1], locations[0, 2] = 0.0, 1.0
    weights = rng.uniform(0, 1, (2, 7, 3, 3, 2))
    actual = ms_deform_attn(*(torch.from_numpy(value), shapes, torch.from_numpy(locations), torch.from_numpy(weights)))
    np.testing.assert_allclose(actual.numpy(), by_definition(value, shapes, locations, weights), atol=1e-12)
