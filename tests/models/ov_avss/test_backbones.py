"""Both backbones against the published model."""

import binascii

import golden_model
import golden_set
import pytest
import torch
from torch import nn

from ovavss.models.ov_avss.frame_preparation import FramePreparation
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.ov_avss.resnet import FrozenBatchNorm2d
from ovavss.models.ov_avss.swin import relative_position_index
from ovavss.models.ov_avss.usslm import USSLM


@pytest.mark.golden
@pytest.mark.parametrize("preset", ["r50", pytest.param("swin_b", marks=pytest.mark.slow)])
def test_features(preset: str) -> None:
    file = golden_set.load(f"02_backbone_{golden_model.BACKBONE[preset]}")
    height, _ = golden_set.SET["frames"]["image"]
    images, _, _ = FramePreparation(height, 1333)(golden_model.frames())
    for name, features in golden_model.usslm(preset).backbone(images[0]).items():
        assert golden_set.relative_error(file, name, features) < 2e-5, name


@pytest.mark.golden
def test_relative_position_index() -> None:
    index = relative_position_index(12).numpy().astype("<i8")
    checks = {e["crc32"] for n, e in golden_set.manifest("swinb").items() if n.endswith("relative_position_index")}
    assert checks == {f"{binascii.crc32(index.tobytes()):08x}"}


@pytest.mark.parametrize("preset", ["r50", "swin_b"])
def test_every_eps(preset: str) -> None:
    # Too small a difference for the golden tolerances, so it is asserted on the modules.
    with torch.device("meta"):
        model = USSLM(PRESETS[preset])
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | FrozenBatchNorm2d)]
    assert norms and {norm.eps for norm in norms} == {1e-5}
