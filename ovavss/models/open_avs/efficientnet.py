"""EfficientNet-Lite0 as a source of class activation maps for the 1000 ImageNet classes.

Tan and Le, "EfficientNet", 2019, in the form without squeeze-and-excitation; Zhou et al., "Learning Deep Features for
Discriminative Localization", 2016: the last linear layer is applied to every cell, and its mean is the usual logit.
"""

import torch
from torch import Tensor, nn

from ovavss.models.open_avs.convolution import InvertedResidual, SameConv
from ovavss.models.ov_avss.frame_preparation import resize_and_pad

CLASSES, STRIDE = 1000, 32
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Expansion, kernel, stride, repeats, output channels.
_STAGES = (
    (1, 3, 1, 1, 16), (6, 3, 2, 2, 24), (6, 5, 2, 2, 40), (6, 3, 2, 3, 80),
    (6, 5, 1, 3, 112), (6, 5, 2, 4, 192), (6, 3, 1, 1, 320),
)  # fmt: skip


class EfficientNetLite0(nn.Module):
    """The network at one size (height, width).

    forward: images uint8 [B, H, W, 3] RGB of any size, stretched to `size` -> class_map float32
    [B, 1000, height / 32, width / 32], which sums to one over the classes in every cell.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: tuple[int, int] = (480, 640)) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.stem = SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, kernel, stride, repeats, outputs in _STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = SameConv(channels, 1280)
        self.classify = nn.Conv2d(1280, CLASSES, 1)

    def logits(self, images: Tensor) -> Tensor:
        """float32 [B, 1000, h, w]; the mean over the cells is the classifier's answer for the whole picture."""
        x = resize_and_pad(images.float().permute(0, 3, 1, 2), self.size, self.size)
        x = self.last(self.blocks(self.stem((x - self.mean) / self.std)))
        logits: Tensor = self.classify(x)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(1)
