"""Both systems by the name of a preset: what export, runners and commands ask of either."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from ovavss.models.open_avs import presets as open_avs_presets
from ovavss.models.open_avs.presets import OpenAvsPreset
from ovavss.models.ov_avss.presets import GRAPHS, PRESETS, Preset, PresetName

if TYPE_CHECKING:
    from torch import nn

    from ovavss.models.graphs import GraphSpec
    from ovavss.models.open_avs.graphs import OpenAvsModels
    from ovavss.models.ov_avss.graphs import Models

    AnyModels = Models | OpenAvsModels

AnyPreset = Preset | OpenAvsPreset
OPEN_AVS = open_avs_presets.OPEN_AVS.name
ALL_PRESETS = (OPEN_AVS, *PRESETS)
AnyPresetName = Literal["open_avs", PresetName]
"""The names in `ALL_PRESETS`, as commands take them."""


def find_preset(name: str) -> AnyPreset:
    """The preset of either system."""
    return open_avs_presets.OPEN_AVS if name == OPEN_AVS else PRESETS[name]


def graph_names(name: str) -> tuple[str, ...]:
    """The graphs of a preset, in the order of computation."""
    return open_avs_presets.GRAPHS if name == OPEN_AVS else GRAPHS


def graph_specs(preset: AnyPreset, size: tuple[int, int] | None = None) -> "dict[str, GraphSpec]":
    """The graphs of a preset by name; `size` fixes the network size of OV-AVSS' localizer."""
    from ovavss.models.open_avs import graphs as open_avs
    from ovavss.models.ov_avss import graphs as ov_avss

    if isinstance(preset, Preset):
        return ov_avss.graph_specs(preset, size)
    return open_avs.graph_specs(preset)


def graph_modules(models: "AnyModels", size: tuple[int, int] | None = None) -> "Mapping[str, nn.Module]":
    """The module of each graph, in evaluation mode."""
    from ovavss.models.open_avs import graphs as open_avs
    from ovavss.models.ov_avss import graphs as ov_avss

    if isinstance(models, ov_avss.Models):
        return ov_avss.graph_modules(models, size)
    return open_avs.graph_modules(models)
