"""The whole localizer against the published model, its size, and batches of clips."""

from dataclasses import replace

import golden_model
import golden_set
import head_checks
import numpy as np
import pytest
import torch

from ovavss.models.ov_avss import mask_decoder
from ovavss.models.ov_avss.frame_preparation import FramePreparation
from ovavss.models.ov_avss.mask_decoder import Prediction
from ovavss.models.ov_avss.presets import PRESETS, Fusion
from ovavss.models.ov_avss.usslm import USSLM

PRESET_NAMES = ["r50", pytest.param("swin_b", marks=pytest.mark.slow)]


def images() -> torch.Tensor:
    height, _ = golden_set.SET["frames"]["image"]
    return FramePreparation(height, 1333)(golden_model.frames())[0]


def audio_in(file: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(file["audio_in"])[None]


def check_statistically(file: dict[str, np.ndarray], predictions: list[Prediction]) -> None:
    """The bounds of the set's README: one flipped attention bit makes a plain maximum meaningless."""
    errors = golden_set.errors(file, "pred_masks", predictions[-1].mask_logits)
    assert errors.mean() <= 3e-3
    assert np.quantile(errors, 0.99) <= 2e-2
    sound = torch.cat([p.sound_logits for p in predictions]).numpy()
    assert np.abs(sound - file["head_pred_logits"]).max() <= 1e-2
    assert head_checks.sign_disagreements(file, predictions[-1].mask_logits) <= 2e-4
    first = head_checks.head_sample(predictions)[0].numpy()
    assert np.abs(first - file["head_pred_masks_sample"][0]).max() / np.abs(first).max() < 5e-5


@pytest.mark.golden
@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_whole(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = golden_set.load(f"05_usslm_{golden_model.BACKBONE[preset]}")
    model = golden_model.usslm(preset)
    decoded = {}
    handle = model.pixel_decoder.register_forward_hook(lambda module, inputs, output: decoded.update(out=output))
    predictions = model(images(), audio_in(file))
    handle.remove()
    check_statistically(file, predictions)
    # With the product at the size of each attention, the bounds hold too.
    last = model(images(), audio_in(file), last_only=True)
    assert len(last) == 1
    check_statistically(file, [*predictions[:-1], *last])
    out = decoded["out"]
    pixel = {"pd_audio_out": out.audio, "pd_mask_features": out.mask_features}
    pixel |= {f"pd_multi_scale_{level}": x for level, x in enumerate(out.multi_scale)}
    for key, tensor in pixel.items():
        assert golden_set.relative_error(file, key, tensor) < 3e-5, key

    # With the stored attention decisions injected nothing is left to chance: a tight check of everything else.
    stored = iter([golden_set.bits(file, f"attn_closed_{i}") for i in range(len(predictions) - 1)])
    monkeypatch.setattr(mask_decoder, "closed_positions", lambda logits, size: torch.from_numpy(next(stored))[None])
    audio = model.audio_proj(out.audio[None])
    injected = model.mask_decoder(out.multi_scale, out.mask_features, audio)
    assert golden_set.relative_error(file, "pred_masks", injected[-1].mask_logits) < 3e-5
    assert golden_set.relative_error(file, "pred_logits", injected[-1].sound_logits) < 3e-5


@pytest.mark.parametrize(("preset", "parameters"), [("r50", 48_135_810), ("swin_b", 111_069_754)])
def test_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in USSLM(PRESETS[preset]).parameters()) == parameters


@pytest.mark.parametrize("kind", list(Fusion))
@pytest.mark.parametrize("paper", [False, True])
def test_every_fusion_in_the_whole(kind: Fusion, paper: bool) -> None:
    torch.manual_seed(0)
    fusion = replace(PRESETS["tiny"].fusion, kind=kind)
    if paper:
        fusion = replace(fusion, residual="plain", projected_audio=True)
    model = USSLM(replace(PRESETS["tiny"], fusion=fusion)).eval().requires_grad_(False)
    clip, audio = torch.randn(1, 5, 3, 64, 96), torch.rand(1, 5, PRESETS["tiny"].audio_dim)
    one, other = (model(clip, a)[-1] for a in (audio, audio.flip(1)))
    assert one.mask_logits.shape == (1, PRESETS["tiny"].mask_decoder.num_queries, 5, 16, 24)
    assert not torch.allclose(one.mask_logits, other.mask_logits), "sound does not matter"


@pytest.mark.parametrize("layers", [1, 4])
def test_the_last_alone_is_the_last(layers: int) -> None:
    torch.manual_seed(0)
    preset = PRESETS["tiny"]
    model = USSLM(replace(preset, mask_decoder=replace(preset.mask_decoder, num_layers=layers))).eval()
    clip, audio = torch.randn(2, 5, 3, 64, 96), torch.rand(2, 5, preset.audio_dim)
    with torch.no_grad():
        every, (last,) = model(clip, audio), model(clip, audio, last_only=True)
    assert len(every) == layers + 1
    torch.testing.assert_close(last.sound_logits, every[-1].sound_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last.mask_logits, every[-1].mask_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_two_clips_are_two_runs_of_one(preset: str) -> None:
    model = golden_model.usslm(preset)
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(2, 5, 3, 64, 96, generator=generator)
    audio = torch.rand(2, 5, 128, generator=generator)
    both = model(clips, audio)[-1]
    for index in range(2):
        one = model(clips[index : index + 1], audio[index : index + 1])[-1]
        torch.testing.assert_close(both.sound_logits[index], one.sound_logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both.mask_logits[index], one.mask_logits[0], atol=1e-3, rtol=1e-3)
