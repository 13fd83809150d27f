"""Parameter counts of both systems, without allocating the parameters."""

from dataclasses import dataclass

import torch
from torch import nn

from ovavss.models.open_avs.graphs import build_open_avs
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.clip import build_clip
from ovavss.models.ov_avss.graphs import Models
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.models.systems import AnyPreset, graph_modules


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a preset has; buffers are not counted.

    Attributes:
        graphs: By graph.
        localization: USSLM alone; None for OpenAVS, which has none.
        total: All networks, for OV-AVSS with VGGish and all of CLIP.
    """

    graphs: dict[str, int]
    localization: int | None
    total: int


def count_parameters(preset: AnyPreset) -> ParameterCounts:
    """Counts the parameters of one preset."""
    with torch.device("meta"):
        if not isinstance(preset, Preset):
            graphs = {name: _count(module) for name, module in graph_modules(build_open_avs(preset)).items()}
            return ParameterCounts(graphs, None, sum(graphs.values()))
        models = Models(preset, AudioEncoder(preset.audio, preset.snippets), USSLM(preset), build_clip(preset.clip))
        graphs = {name: _count(module) for name, module in graph_modules(models).items()}
    return ParameterCounts(graphs, _count(models.usslm), sum(_count(module) for module in models.modules().values()))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
