"""Pixel decoder: fusion, multi-scale deformable attention over res5, res4, res3, and the step up to stride 4."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.early_fusion import EarlyFusion
from ovavss.models.ov_avss.position_encoding import sine_2d
from ovavss.models.ov_avss.presets import FusionConfig, PixelDecoderConfig
from ovavss.msda.layer import MSDeformAttn
from ovavss.msda.ms_deform_attn import LevelShapes, grid_reference_points

LEVELS = ("res5", "res4", "res3")


@dataclass
class PixelDecoderOutput:
    """mask_features [N, C, H/4, W/4]; multi_scale: [N, C, ., .] at strides 32, 16, 8; audio [N, D]: the fused audio."""

    mask_features: Tensor
    multi_scale: list[Tensor]
    audio: Tensor


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and FFN, post-norm. forward: src [N, S, C] -> the same."""

    def __init__(self, dim: int, num_levels: int, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.attention = MSDeformAttn(dim, config.num_heads, num_levels, config.num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, src: Tensor, position: Tensor, reference_points: Tensor, level_shapes: LevelShapes) -> Tensor:
        src = self.norm1(src + self.attention(src + position, reference_points, src, level_shapes))
        return self.norm2(src + self.linear2(F.relu(self.linear1(src))))


class ConvGroupNorm(nn.Module):
    """Convolution and GroupNorm, with ReLU if asked."""

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, groups: int, *, bias: bool = False, relu: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = nn.GroupNorm(groups, channels)
        self.relu = relu
        nn.init.kaiming_uniform_(self.conv.weight, a=1)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


class PixelDecoder(nn.Module):
    """forward: backbone features of N = B * T frames, audio [N, D] -> PixelDecoderOutput."""

    def __init__(
        self, channels: tuple[int, ...], dim: int, audio_dim: int, config: PixelDecoderConfig, fusion: FusionConfig
    ) -> None:
        super().__init__()
        groups = config.num_groups
        by_level = dict(zip(("res2", "res3", "res4", "res5"), channels))
        self.input_proj = nn.ModuleDict({k: ConvGroupNorm(by_level[k], dim, 1, groups, bias=True) for k in LEVELS})
        for projection in self.input_proj.values():
            assert isinstance(projection, ConvGroupNorm)
            nn.init.xavier_uniform_(projection.conv.weight)
        self.early_fusion = EarlyFusion(dim, audio_dim, fusion)
        self.level_embed = nn.Parameter(torch.randn(len(LEVELS), dim))
        self.layers = nn.ModuleList(DeformableEncoderLayer(dim, len(LEVELS), config) for _ in range(config.num_layers))
        self.lateral = ConvGroupNorm(by_level["res2"], dim, 1, groups)
        self.output = ConvGroupNorm(dim, dim, 3, groups, relu=True)
        self.mask_features = nn.Conv2d(dim, dim, 1)

    def forward(self, features: dict[str, Tensor], audio: Tensor) -> PixelDecoderOutput:
        maps = [self.input_proj[level](features[level]) for level in LEVELS]
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        tokens, audio = self.early_fusion(tokens, audio, shapes[0][0] * shapes[0][1])

        dim, device = tokens.shape[-1], tokens.device
        position = torch.cat(
            [
                sine_2d(height, width, dim, device).flatten(1).transpose(0, 1) + self.level_embed[level]
                for level, (height, width) in enumerate(shapes)
            ]
        )[None]
        reference_points = grid_reference_points(shapes, tokens)
        for layer in self.layers:
            tokens = layer(tokens, position, reference_points, shapes)

        per_level = tokens.transpose(1, 2).split([height * width for height, width in shapes], dim=2)
        multi_scale = [x.reshape(-1, dim, height, width) for x, (height, width) in zip(per_level, shapes)]
        finest = self.lateral(features["res2"])
        size = finest.shape[-2:]
        finest = finest + F.interpolate(multi_scale[-1], size=size, mode="bilinear", align_corners=False)
        return PixelDecoderOutput(self.mask_features(self.output(finest)), multi_scale, audio)
