"""Modules with the golden set's seeded weights, built once for all tests."""

import functools

import torch
from golden_set import SET, load, manifest, seeded_weights

from ovavss.checkpoints.key_map import to_ours
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.ov_avss.usslm import USSLM

BACKBONE = {"r50": "r50", "swin_b": "swinb"}
T: int = SET["frames"]["T"]


def _load(module: torch.nn.Module, prefix: str, backbone: str) -> None:
    def wanted(name: str) -> bool:
        ours = to_ours(name)
        return ours is not None and ours.startswith(prefix)

    state = {str(to_ours(name))[len(prefix) :]: tensor for name, tensor in seeded_weights(backbone, wanted).items()}
    assert state and manifest(backbone)
    module.load_state_dict(state, strict=True)
    module.eval().requires_grad_(False)


@functools.cache
def usslm(preset: str) -> USSLM:
    model = USSLM(PRESETS[preset])
    _load(model, "usslm.", BACKBONE[preset])
    return model


@functools.cache
def audio_encoder(patches: int) -> AudioEncoder:
    encoder = AudioEncoder(PRESETS["r50"].audio, patches)
    _load(encoder, "audio_encoder.", "r50")
    return encoder


def frames() -> torch.Tensor:
    """The clip of the set, uint8 [1, T, H, W, 3]."""
    return torch.from_numpy(load("00_inputs")["frames_u8"]).permute(0, 2, 3, 1)[None]
