"""The operator in models of `transformers`, in the place of their own deformable attention."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.errors import UserError
from ovavss.msda.ms_deform_attn import LevelShapes
from ovavss.msda.operators import level_shapes_tensor, plain

FAMILIES = (
    "Deformable DETR, RT-DETR, RT-DETR v2, RF-DETR, LW-DETR, D-FINE, DEIMv2, Grounding DINO, MM Grounding DINO, "
    "OmDet-Turbo, PP-DocLayout, Mask2Former and OneFormer"
)
# Where a family's attention is a function of its module, which all its layers call.
_FUNCTIONS = ("multi_scale_deformable_attention", "multi_scale_deformable_attention_v2")
_LAYER_FUNCTION = "ms_deformable_attn_core"


class DeformableAttention(nn.Module):
    """The operator with the call of `transformers`' `MultiScaleDeformableAttention`, which has no weights."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: LevelShapes,
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        return attention(value, value_spatial_shapes_list, sampling_locations, attention_weights)


def attention(value: Tensor, spatial_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Computes what `multi_scale_deformable_attention` of Mask2Former and OneFormer does."""
    output: Tensor = plain(value, level_shapes_tensor(spatial_shapes), locations, weights)
    return output


def attention_of_levels(
    value: Tensor,
    spatial_shapes: LevelShapes,
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
    method: str = "default",
) -> Tensor:
    """Computes what `multi_scale_deformable_attention_v2` of RT-DETR v2, D-FINE and DEIMv2 does.

    Args:
        value: [N, S, M, D].
        spatial_shapes: (height, width) of each level.
        locations: [N, Q, M, sum of num_points, 2], as (x, y) in [0, 1].
        weights: [N, Q, M, sum of num_points].
        num_points: Of each level. Levels of fewer points are filled up with points of no weight.
        method: "default"; with "discrete" these models take the nearest pixel, which the operator does not.

    Raises:
        UserError: The method is not "default".
    """
    if method != "default":
        raise UserError(f"the operator samples bilinearly, and this model's method is '{method}'; leave it as it is")
    most = max(num_points)
    split_locations, split_weights = locations.split(list(num_points), -2), weights.split(list(num_points), -1)
    padded = [F.pad(part, (0, 0, 0, most - count)) for part, count in zip(split_locations, num_points)]
    shares = [F.pad(part, (0, most - count)) for part, count in zip(split_weights, num_points)]
    return attention(value, spatial_shapes, torch.stack(padded, 3), torch.stack(shares, 3))


def use_in(model: nn.Module) -> int:
    """Swaps the deformable attention of a model of `transformers` for the operator; see `ovavss.msda.use_in`."""
    changed = 0
    replacements: dict[str, Any] = {_FUNCTIONS[0]: attention, _FUNCTIONS[1]: attention_of_levels}
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if type(child).__name__ == "MultiScaleDeformableAttention":
                setattr(layer, name, DeformableAttention())
                changed += 1
        if hasattr(layer, _LAYER_FUNCTION):
            setattr(layer, _LAYER_FUNCTION, attention_of_levels)
            changed += 1
        elif "Deformable" in type(layer).__name__ and hasattr(layer, "sampling_offsets"):
            changed += _replace_function(sys.modules[type(layer).__module__], replacements)
    if not changed:
        raise UserError(
            f"{type(model).__name__} has no deformable attention of `transformers` that is known; known are {FAMILIES}"
        )
    return changed


def _replace_function(module: ModuleType, replacements: dict[str, Any]) -> bool:
    """Whether this module's layers call a function of it, which is then ours."""
    found = [name for name in replacements if hasattr(module, name)]
    for name in found:
        setattr(module, name, replacements[name])
    return bool(found)
