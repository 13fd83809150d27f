"""The pixel decoder and its position encodings against the published model."""

import golden_model
import golden_set
import pytest
import torch

from ovavss.models.ov_avss.position_encoding import sine_2d, sine_3d

pytestmark = pytest.mark.golden


def test_pixel_decoder() -> None:
    file = golden_set.load("03c_pixel_decoder")
    height, width = golden_set.SET["pixel_decoder"]["image"]
    sizes = {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}
    features = {
        name: golden_set.smooth(f"input:pd:{name}", (golden_model.T, channels, height // s, width // s), 3)
        for name, (channels, s) in sizes.items()
    }
    audio = golden_set.normal("input:pd:audio", (golden_model.T, 128))
    out = golden_model.usslm("r50").pixel_decoder(features, audio)
    actual = {"audio_out": out.audio, "mask_features": out.mask_features}
    actual |= {f"multi_scale_{level}": x for level, x in enumerate(out.multi_scale)}
    for key, tensor in actual.items():
        assert golden_set.relative_error(file, key, tensor) < 3e-5, key


def test_position_encodings() -> None:
    file = golden_set.load("03c_pixel_decoder")
    cpu = torch.device("cpu")
    for key in ("pos2d_res5", "pos2d_res4"):
        dim, height, width = file[key].shape
        assert golden_set.relative_error(file, key, sine_2d(height, width, dim, cpu)) < 1e-6
    frames, dim, height, width = file["pos3d_res5"].shape
    assert golden_set.relative_error(file, "pos3d_res5", sine_3d(frames, height, width, dim, cpu)) < 1e-6
