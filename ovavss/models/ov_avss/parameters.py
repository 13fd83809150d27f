"""Parameter counts, without allocating the parameters."""

from dataclasses import dataclass

import torch
from torch import nn

from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.clip import build_clip
from ovavss.models.ov_avss.graphs import Models, graph_modules
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.ov_avss.usslm import USSLM


@dataclass(frozen=True)
class ParameterCounts:
    """`graphs`: by graph; `localization`: USSLM alone; `total`: with VGGish and all of CLIP. No buffers."""

    graphs: dict[str, int]
    localization: int
    total: int


def count_parameters(preset: Preset) -> ParameterCounts:
    """Counts for one preset."""
    with torch.device("meta"):
        models = Models(preset, AudioEncoder(preset.audio, preset.snippets), USSLM(preset), build_clip(preset.clip))
        graphs = {name: _count(module) for name, module in graph_modules(models).items()}
    return ParameterCounts(graphs, _count(models.usslm), sum(_count(module) for module in models.modules().values()))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
