"""OpenAVS' networks as graphs, each with its inputs and outputs: what export and runners agree on."""

from dataclasses import dataclass

import torch
from torch import nn

from ovavss.models.graphs import GraphSpec, TensorSpec
from ovavss.models.open_avs.efficientnet import CLASSES as IMAGENET_CLASSES
from ovavss.models.open_avs.efficientnet import STRIDE as CLASS_MAP_STRIDE
from ovavss.models.open_avs.efficientnet import ClassMaps, EfficientNetLite0
from ovavss.models.open_avs.presets import (
    CLASS_MAPS,
    DETECTOR,
    LISTENER,
    MASK_IMAGE_ENCODER,
    PROMPT_DECODER,
    OpenAvsPreset,
)
from ovavss.models.open_avs.prompt_decoder import MASKS, PromptDecoder
from ovavss.models.open_avs.ssdlite import ANCHORS, COCO_IDS, SSDLite
from ovavss.models.open_avs.tiny_vit import EMBEDDING, MaskImageEncoder, TinyViT
from ovavss.models.open_avs.tiny_vit import STRIDE as MASK_STRIDE
from ovavss.models.open_avs.yamnet import CLASSES as SOUND_CLASSES
from ovavss.models.open_avs.yamnet import WINDOW, YamNet


@dataclass
class OpenAvsModels:
    """The networks of one preset."""

    preset: OpenAvsPreset
    listener: YamNet
    detector: SSDLite
    classifier: EfficientNetLite0
    mask_image_encoder: TinyViT
    prompt_decoder: PromptDecoder


def build_open_avs(preset: OpenAvsPreset) -> OpenAvsModels:
    """The networks of a preset with PyTorch's random weights."""
    return OpenAvsModels(preset, YamNet(), SSDLite(), EfficientNetLite0(), TinyViT(), PromptDecoder())


def graph_specs(preset: OpenAvsPreset) -> dict[str, GraphSpec]:
    """The five graphs of a preset."""
    f32 = torch.float32
    frames = TensorSpec("frames", torch.uint8, ("frames", "height", "width", 3))
    coarse, fine = (tuple(-(-side // CLASS_MAP_STRIDE) for side in size) for size in preset.class_map_sizes)
    cells = preset.mask_side // MASK_STRIDE
    specs = (
        GraphSpec(
            LISTENER,
            (TensorSpec("windows", f32, ("windows", WINDOW)),),
            (TensorSpec("sounds", f32, ("windows", SOUND_CLASSES)),),
            float32_modules=("YamNet",),  # the mel spectrogram
        ),
        GraphSpec(
            DETECTOR,
            (frames,),
            (
                TensorSpec("boxes", f32, ("frames", ANCHORS, 4)),
                TensorSpec("scores", f32, ("frames", ANCHORS, COCO_IDS)),
            ),
            tolerance=3e-4,  # of probabilities
            float32_modules=("SSDLite",),  # exact resizing
        ),
        GraphSpec(
            CLASS_MAPS,
            (frames,),
            (
                TensorSpec("coarse", f32, ("frames", IMAGENET_CLASSES, *coarse)),
                TensorSpec("fine", f32, ("frames", IMAGENET_CLASSES, *fine)),
            ),
            tolerance=5e-4,  # of probabilities
            float32_modules=("ClassMaps",),  # exact resizing
        ),
        GraphSpec(
            MASK_IMAGE_ENCODER,
            (frames,),
            (TensorSpec("embedding", f32, ("frames", EMBEDDING, cells, cells)),),
            float32_modules=("MaskImageEncoder",),  # exact resizing
        ),
        GraphSpec(
            PROMPT_DECODER,
            (
                TensorSpec("embedding", f32, ("prompts", EMBEDDING, cells, cells)),
                TensorSpec("points", f32, ("prompts", "points", 2)),
                TensorSpec("labels", f32, ("prompts", "points")),
            ),
            (
                TensorSpec("mask_logits", f32, ("prompts", MASKS, 4 * cells, 4 * cells)),
                TensorSpec("iou", f32, ("prompts", MASKS)),
            ),
            float32_modules=("_PromptEncoder", "_MaskDecoder"),  # angles of positions, the sign of a mask
        ),
    )
    return {spec.name: spec for spec in specs}


def graph_modules(models: OpenAvsModels) -> dict[str, nn.Module]:
    """The module of each graph, in evaluation mode."""
    graphs: dict[str, nn.Module] = {
        LISTENER: models.listener,
        DETECTOR: models.detector,
        CLASS_MAPS: ClassMaps(models.classifier, models.preset.class_map_sizes),
        MASK_IMAGE_ENCODER: MaskImageEncoder(models.mask_image_encoder, models.preset.mask_side),
        PROMPT_DECODER: models.prompt_decoder,
    }
    return {name: module.eval().requires_grad_(False) for name, module in graphs.items()}
