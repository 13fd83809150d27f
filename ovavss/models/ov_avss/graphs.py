"""The four networks of OV-AVSS that leave PyTorch, each with its inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import open_clip
import torch
from torch import Tensor, nn

from ovavss.models.graphs import GraphSpec, TensorSpec
from ovavss.models.ov_avss.audio_encoder import SAMPLE_RATE, AudioEncoder
from ovavss.models.ov_avss.clip import ClipImageEncoder, ClipTextEncoder
from ovavss.models.ov_avss.frame_preparation import FramePreparation
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.ov_avss.usslm import USSLM


def graph_specs(preset: Preset, size: tuple[int, int] | None = None) -> dict[str, GraphSpec]:
    """The four graphs of a preset. With `size`, the localizer's network size (height, width) is fixed."""
    snippets, queries = preset.snippets, preset.mask_decoder.num_queries
    clip, f32 = preset.clip, torch.float32
    height, width = size or ("padded_height", "padded_width")
    quarter = (size[0] // 4, size[1] // 4) if size else ("mask_height", "mask_width")
    specs = (
        GraphSpec(
            AUDIO_ENCODER,
            (TensorSpec("waveform", f32, ("clips", snippets * SAMPLE_RATE)),),
            (TensorSpec("audio", f32, ("clips", snippets, preset.audio_dim)),),
            float32_modules=("LogMel",),
        ),
        GraphSpec(
            USSLM_GRAPH,
            (
                TensorSpec("frames", torch.uint8, ("clips", snippets, "height", "width", 3)),
                TensorSpec("audio", f32, ("clips", snippets, preset.audio_dim)),
            ),
            (
                TensorSpec("mask_logits", f32, ("clips", queries, snippets, *quarter)),
                TensorSpec("sound_scores", f32, ("clips", queries)),
                TensorSpec("resized_frames", torch.uint8, ("clips", snippets, height, width, 3)),
                TensorSpec("image_size", torch.int64, (2,)),
            ),
            thresholds=True,
            # Exact resizing, where to sample, the sign of a mask.
            float32_modules=("FramePreparation", "sampling_offsets", "MaskDecoder"),
        ),
        GraphSpec(
            CLIP_IMAGE_ENCODER,
            (TensorSpec("crops", f32, ("crops", 3, clip.image_size, clip.image_size)),),
            (TensorSpec("image_embeddings", f32, ("crops", clip.embed_dim)),),
        ),
        GraphSpec(
            CLIP_TEXT_ENCODER,
            (TensorSpec("tokens", torch.int64, ("sentences", clip.context_length)),),
            (TensorSpec("text_embeddings", f32, ("sentences", clip.embed_dim)),),
        ),
    )
    return {spec.name: spec for spec in specs}


class UsslmGraph(nn.Module):
    """Graph 2: frames as decoded to masks of what sounds.

    forward: frames uint8 [B, T, H, W, 3] RGB at any size, audio float32 [B, T, 128] -> mask_logits float32
    [B, N, T, H'/4, W'/4] at stride 4 of the padded size, sound_scores float32 [B, N] in [0, 1], resized_frames uint8
    [B, T, H', W', 3] (padded with zeros), image_size int64 [2] (unpadded height and width).

    `last_only` = False computes the earlier heads' masks in full, as the published code does.
    """

    last_only = True

    def __init__(self, usslm: USSLM, preset: Preset, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.prepare = FramePreparation(preset.short_side, preset.long_side, size)
        self.usslm = usslm

    def forward(self, frames: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, resized, image_size = self.prepare(frames)
        prediction = self.usslm(images, audio, self.last_only)[-1]
        return prediction.mask_logits, prediction.sound_logits.softmax(-1)[..., 0], resized, image_size


@dataclass
class Models:
    """The parts of one model in PyTorch."""

    preset: Preset
    audio_encoder: AudioEncoder
    usslm: USSLM
    clip: open_clip.CLIP

    def modules(self) -> dict[str, nn.Module]:
        """By the prefix that their parameters have in a checkpoint."""
        return {"audio_encoder": self.audio_encoder, "usslm": self.usslm, "clip": self.clip}


def graph_modules(models: Models, size: tuple[int, int] | None = None) -> dict[str, nn.Module]:
    """The module of each graph, in evaluation mode."""
    graphs: Mapping[str, nn.Module] = {
        AUDIO_ENCODER: models.audio_encoder,
        USSLM_GRAPH: UsslmGraph(models.usslm, models.preset, size),
        CLIP_IMAGE_ENCODER: ClipImageEncoder(models.clip),
        CLIP_TEXT_ENCODER: ClipTextEncoder(models.clip),
    }
    return {name: module.eval().requires_grad_(False) for name, module in graphs.items()}
