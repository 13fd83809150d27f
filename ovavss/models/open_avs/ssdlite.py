"""SSDLite with MobileNetV2: boxes and scores of the 80 COCO classes (Sandler et al., "MobileNetV2", 2018)."""

import torch
from torch import Tensor, nn

from ovavss.models.open_avs.convolution import InvertedResidual, SameConv
from ovavss.models.ov_avss.frame_preparation import resize_and_pad

SIZE = 300
ANCHORS = 1917
COCO_IDS = 90  # column k is COCO's category id k + 1; ten of them are not in use
# Expansion, output channels, repeats, stride.
_BACKBONE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FIRST_MAP = 13  # the block whose expanded input is the first feature map
_EXTRA = ((1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
_MAPS = ((576, 3), (1280, 6), (512, 6), (256, 6), (256, 6), (128, 6))  # channels and anchors of each feature map
_CENTER_SCALE, _SIZE_SCALE = 0.1, 0.2


class _Head(nn.Module):
    """Depthwise and pointwise convolution that predict `values` numbers for each anchor of a feature map."""

    def __init__(self, channels: int, anchors: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = SameConv(channels, channels, 3, groups=channels)
        self.predict = SameConv(channels, anchors * values, relu6=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.predict(self.depthwise(x))
        return y.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class SSDLite(nn.Module):
    """SSDLite on MobileNetV2, without suppression of boxes.

    forward: images uint8 [B, H, W, 3] RGB of any size -> boxes float32 [B, 1917, 4] (x0, y0, x1, y1 as shares of width
    and height), scores float32 [B, 1917, 90] in [0, 1].
    """

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.zeros(ANCHORS, 4))  # y0, x0, y1, x1
        self.stem = SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, outputs, repeats, stride in _BACKBONE:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, stride=stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.last = SameConv(channels, 1280)
        self.extra = nn.ModuleList(
            nn.Sequential(
                SameConv(inputs, hidden), SameConv(hidden, hidden, 3, 2, groups=hidden), SameConv(hidden, outputs)
            )
            for inputs, hidden, outputs in _EXTRA
        )
        self.box_heads = nn.ModuleList(_Head(channels, anchors, 4) for channels, anchors in _MAPS)
        self.class_heads = nn.ModuleList(_Head(channels, anchors, COCO_IDS + 1) for channels, anchors in _MAPS)

    def _feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index == _FIRST_MAP:
                maps.append(block.expand(x))  # type: ignore[operator]
            x = block(x)
        maps.append(self.last(x))
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = resize_and_pad(images.float().permute(0, 3, 1, 2), (SIZE, SIZE), (SIZE, SIZE))
        maps = self._feature_maps(x * (2 / 255) - 1)
        logits = torch.cat([head(x) for head, x in zip(self.class_heads, maps)], dim=1)
        offsets = torch.cat([head(x) for head, x in zip(self.box_heads, maps)], dim=1)
        low, high = self.anchors.chunk(2, dim=1)
        sides = high - low
        center = (low + high) / 2 + offsets[..., :2] * _CENTER_SCALE * sides
        half = (offsets[..., 2:] * _SIZE_SCALE).exp() * sides / 2
        return torch.cat(((center - half).flip(-1), (center + half).flip(-1)), dim=-1), logits[..., 1:].sigmoid()
