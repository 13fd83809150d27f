"""Whole encoders: every layer's attention is found, whichever axes are dynamic."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from encoders import LAYERS, export_encoder
from running import ops, rewritten, run

from ovavss.msda.onnx_node import PLAIN


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dynamic", "side", "shapes"),
    [
        ({}, 64, [(1, 3, 64, 64)]),
        ({}, 72, [(1, 3, 72, 72)]),  # windows are padded and cut back
        ({0: "batch"}, 64, [(1, 3, 64, 64), (3, 3, 64, 64)]),
    ],
)
def test_every_layer_is_found(
    dynamic: dict[int, str], side: int, shapes: list[tuple[int, int, int, int]], tmp_path: Path
) -> None:
    encoder = export_encoder(tmp_path / "encoder.onnx", dynamic, side)
    after, report = rewritten(onnx.load(tmp_path / "encoder.onnx"))
    assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, 2, 2)] * LAYERS, report.left
    assert not report.left
    assert ops(after).count(PLAIN) == LAYERS
    for shape in shapes:
        # Not with ONNX Runtime: where sizes are fixed the grids are in double, which its GridSample does not take.
        picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = encoder(picture)
        np.testing.assert_allclose(run(after, {"picture": picture.numpy()}), expected.numpy(), atol=1e-5)
