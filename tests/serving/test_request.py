"""Parameters, names, sound and masks of a request, without a server."""

import json

import numpy as np
import pytest

from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import Crop, Proposals
from ovavss.pipeline.steps import Options
from ovavss.serving.masks import pack, unpack
from ovavss.serving.request import (
    MaskFormat,
    clip_waveform,
    names_from_bytes,
    names_to_bytes,
    read_parameters,
    write_parameters,
)


def test_parameters_there_and_back() -> None:
    options = Options(Proposals.SOUNDING, 0.25, 0.75, 3, Crop.NONE, "center", frames_per_query=2, merge_iou=0.9)
    assert read_parameters(json.dumps(write_parameters(options, MaskFormat.RLE))) == (options, MaskFormat.RLE)
    assert write_parameters(Options(), MaskFormat.BITS) == {} and read_parameters("") == (Options(), MaskFormat.BITS)
    with pytest.raises(UserError, match="the server has no option 'sound_map'"):
        write_parameters(Options(sound_map=True), MaskFormat.BITS)


def test_sound_of_other_rates() -> None:
    time = np.arange(44_100, dtype=np.float32) / 44_100
    samples = clip_waveform(np.sin(2 * np.pi * 440 * time), 44_100, 5)
    assert samples.shape == (80_000,) and samples.dtype == np.float32
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(samples[500:15_500] - expected[500:15_500]).max() < 1e-3 and not samples[16_000:].any()
    own = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    assert (clip_waveform(own, 16_000, 5) == own).all()


@pytest.mark.parametrize("form", list(MaskFormat))
@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_there_and_back(form: MaskFormat, count: int) -> None:
    masks = np.random.default_rng(1).random((count, 5, 13, 17)) > 0.7
    packed = pack(masks, form)
    assert packed.dtype == np.uint8 and packed.shape[:2] == (count, 5)
    assert (unpack(packed, form, (13, 17)) == masks).all()


def test_names_there_and_back() -> None:
    names = ["man", "Flügel", "犬"]
    assert names_from_bytes(names_to_bytes(names)) == names
    assert names_to_bytes([]).shape == (0,) and names_from_bytes(names_to_bytes([])) == []
    with pytest.raises(UserError, match="holds a line break; remove it"):
        names_to_bytes(["dog\ncat"])
