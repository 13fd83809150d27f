"""Small models with random tensors, and the files that the tests make of them."""

import pickle
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.presets import (
    PRESETS,
    AudioEncoderConfig,
    FusionConfig,
    MaskDecoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
)
from ovavss.models.ov_avss.usslm import USSLM

SMALL = replace(
    PRESETS["r50"],
    backbone=ResNetConfig((1, 1, 1, 1), 8, 8, 16),
    audio=AudioEncoderConfig((4, "M"), (8,)),
    fusion=FusionConfig(embed_dim=16),
    pixel_decoder=PixelDecoderConfig(num_layers=1, ffn_dim=8),
    mask_decoder=MaskDecoderConfig(num_queries=4, num_layers=1, ffn_dim=8),
    hidden_dim=32,
)
SMALL_SWIN = replace(SMALL, backbone=SwinConfig(128, (1, 1, 1, 1), (4, 4, 4, 4), 2, 1.0))

Modules = dict[str, nn.Module]


def modules(seed: int, *, clip: bool = False) -> Modules:
    """A small model whose every tensor is random, buffers too."""
    torch.manual_seed(seed)
    parts: Modules = {"usslm": USSLM(SMALL), "audio_encoder": AudioEncoder(SMALL.audio, 5)}
    if clip:
        parts["clip"] = nn.ModuleDict({"visual": nn.Linear(3, 2), "transformer": nn.Linear(2, 2)})
    for tensor in our_state(parts).values():
        tensor.normal_()
    return parts


def our_state(parts: Modules) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for prefix, module in parts.items() for name, t in module.state_dict().items()}


def copied(parts: Modules) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in our_state(parts).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(path: Path, contents: object) -> Path:
    torch.save(contents, path)
    return path


def pickled(path: Path, contents: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    return path
