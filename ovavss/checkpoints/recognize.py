"""Whose weights a file holds, from the names and shapes in it."""

from collections.abc import Mapping
from functools import cache

import open_clip
import torch
from torch import nn

from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.clip import build_clip
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.ov_avss.usslm import USSLM

Shapes = Mapping[str, tuple[int, ...]]
# Fine-tuned models may have a head or a table of another size.
_LEAST_SHARE = 0.9


def preset_of(shapes: Shapes) -> str | None:
    """The preset whose model has nearly all of these tensors, by our names; None where none or several do."""
    return _most_alike(shapes, {name: _preset_shapes(name) for name in PRESETS})


def clip_model_of(shapes: Shapes) -> str | None:
    """The CLIP model that these tensors (by open_clip's names) are of: a preset's, or one of open_clip's list."""
    for preset in PRESETS.values():
        ours = _preset_shapes(preset.name)
        if all(ours.get(f"clip.{name}") == shape for name, shape in shapes.items()):
            return preset.clip.name
    width, patches = shapes.get("visual.proj"), shapes.get("visual.conv1.weight")
    for name in sorted(open_clip.list_models(), key=len) if width and patches else ():
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"]
        sizes = (vision.get("width"), config["embed_dim"]), (vision.get("width"), 3, *2 * (vision.get("patch_size"),))
        if "timm_model_name" not in vision and sizes == (width, patches):
            return str(name)
    return None


def _most_alike(shapes: Shapes, models: Mapping[str, Shapes]) -> str | None:
    if not shapes:
        return None
    counts = {name: sum(model.get(key) == shape for key, shape in shapes.items()) for name, model in models.items()}
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    return best[0] if len(best) == 1 and most >= _LEAST_SHARE * len(shapes) else None


@cache
def _preset_shapes(name: str) -> Shapes:
    preset = PRESETS[name]
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "audio_encoder": AudioEncoder(preset.audio, preset.snippets),
            "usslm": USSLM(preset),
            "clip": build_clip(preset.clip),
        }
    return {f"{prefix}.{name}": shape for prefix, module in modules.items() for name, shape in _shapes(module).items()}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
