"""The fusion block against the published model, and the strategies of the paper's Table 3."""

from dataclasses import replace

import golden_model
import golden_set
import pytest
import torch

from ovavss.models.ov_avss.early_fusion import EarlyFusion
from ovavss.models.ov_avss.presets import Fusion, FusionConfig


@pytest.mark.golden
@pytest.mark.parametrize(("tokens", "tag"), [(1, "one"), (3, "three")])
def test_fusion_block(tokens: int, tag: str) -> None:
    file = golden_set.load("03a_vlfuse")
    visual = golden_set.normal("input:vlfuse:v", file["v_in"].shape)
    audio = golden_set.normal(f"input:vlfuse:l{tokens}", file[f"l_in_{tag}"].shape)
    torch.testing.assert_close(visual, torch.from_numpy(file["v_in"]))
    block = golden_model.usslm("r50").pixel_decoder.early_fusion.block
    for key, actual in zip((f"v_out_{tag}", f"l_out_{tag}"), block(visual, audio)):
        assert golden_set.relative_error(file, key, actual) < 2e-5, key


def test_one_audio_token_takes_the_short_way_to_the_same_result() -> None:
    fusion = EarlyFusion(16, 8, FusionConfig(embed_dim=32, num_heads=2, dropout=1e-9)).requires_grad_(False)
    visual, audio = torch.randn(2, 6, 16), torch.randn(2, 8)
    short, long = fusion.eval()(visual, audio, 2), fusion.train()(visual, audio, 2)
    for a, b in zip(short, long):
        torch.testing.assert_close(a, b)


def test_strategies() -> None:
    visual, audio = torch.randn(2, 6, 16), torch.randn(2, 8)
    config = FusionConfig(embed_dim=32, num_heads=2)
    fused = {
        kind: EarlyFusion(16, 8, replace(config, kind=kind)).eval().requires_grad_(False)(visual, audio, 2)
        for kind in Fusion
    }
    assert torch.equal(fused[Fusion.NONE][0], visual) and torch.equal(fused[Fusion.NONE][1], audio)
    moved = fused[Fusion.ADD][0] - visual
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
    assert torch.equal(fused[Fusion.SINGLE_LEVEL][0][:, 2:], visual[:, 2:])
    assert not torch.isclose(fused[Fusion.SINGLE_LEVEL][0][:, :2], visual[:, :2]).all()
    assert not torch.isclose(fused[Fusion.MULTI_LEVEL][0][:, 2:], visual[:, 2:]).all()


def test_plain_residual_keeps_the_input() -> None:
    fusion = EarlyFusion(16, 8, FusionConfig(embed_dim=32, num_heads=2, residual="plain")).eval().requires_grad_(False)
    fusion.block.visual_gamma.zero_()
    visual, audio = 3 + torch.randn(2, 6, 16), torch.randn(2, 8)
    assert torch.equal(fusion(visual, audio, 2)[0], visual)
