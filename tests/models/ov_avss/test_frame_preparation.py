"""The test-time resize equals PIL's byte for byte; padding is zero after normalization."""

import golden_set
import numpy as np
import pytest
import torch
from PIL import Image

from ovavss.models.ov_avss.frame_preparation import (
    PIXEL_MEAN,
    PIXEL_STD,
    FramePreparation,
    padded_size,
    resize_and_pad,
    resized_size,
)


@pytest.mark.golden
def test_resize_table() -> None:
    table = golden_set.load("00b_preprocess")["resize_table_h_w_newh_neww_padh_padw"].tolist()
    for height, width, *expected in table:
        size = resized_size(height, width, 360, 1333)
        assert [*size, *padded_size(*size)] == expected


@pytest.mark.golden
def test_resized_bytes() -> None:
    file = golden_set.load("00b_preprocess")
    names = [key.split("_")[1] for key in file if key.endswith("_sample")]
    assert names
    for name in names:
        height, width = map(int, name.split("x"))
        frame = golden_set.seeds.frames_u8(f"input:pre:{name}", 1, height, width, golden_set.SALT)[0]
        prepare = FramePreparation(360, 1333)
        _, resized, size = prepare(torch.from_numpy(frame).permute(1, 2, 0)[None, None])
        assert [*size.tolist(), 3] == file[f"resized_{name}_shape"].tolist()
        resized = resized[0, 0, : size[0], : size[1]]
        np.testing.assert_array_equal(resized[::3, ::3].numpy(), file[f"resized_{name}_sample"])


@pytest.mark.golden
def test_normalized_and_padded() -> None:
    frames = torch.from_numpy(golden_set.load("00_inputs")["frames_u8"]).permute(0, 2, 3, 1)[None]
    height, _ = golden_set.SET["frames"]["image"]
    images, _, _ = FramePreparation(height, 1333)(frames)
    assert golden_set.relative_error(golden_set.load("02_backbone_r50"), "input", images[0]) < 1e-6


@pytest.mark.parametrize(
    ("source", "target"), [((33, 57), (20, 35)), ((33, 57), (66, 114)), ((64, 48), (64, 48)), ((7, 300), (3, 129))]
)
def test_equals_pil(source: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR))
    actual = resize_and_pad(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), target, (80, 140))
    np.testing.assert_array_equal(actual[0, :, : target[0], : target[1]].permute(1, 2, 0).numpy(), expected)
    assert (actual[..., target[0] :, :] == 0).all() and (actual[..., target[1] :] == 0).all()


def test_fixed_size_keeps_the_aspect() -> None:
    assert resized_size(720, 1280, 360, 1333, (384, 640)) == (360, 640)
    assert resized_size(1280, 720, 360, 1333, (384, 640)) == (384, 216)
    assert resized_size(480, 640, 360, 1333, (192, 192)) == (144, 192)
    images, resized, size = FramePreparation(360, 1333, size=(96, 128))(torch.full((1, 5, 50, 60, 3), 255).byte())
    assert images.shape == (1, 5, 3, 96, 128) and resized.shape == (1, 5, 96, 128, 3) and size.tolist() == [96, 115]
    assert (images[..., 115:] == 0).all()
    white = (255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(images[0, 0, :, 0, 0], white)
