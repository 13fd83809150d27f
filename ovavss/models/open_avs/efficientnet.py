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
    """EfficientNet-Lite0 as a map of classes.

    forward: images float32 [B, 3, H, W], normalized -> logits float32 [B, 1000, H / 32, W / 32], whose mean over the
    cells is the classifier's answer for the whole picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, kernel, stride, repeats, outputs in _STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = SameConv(channels, 1280)
        self.classify = nn.Conv2d(1280, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.last(self.blocks(self.stem(images))))
        return logits


class ClassMaps(nn.Module):
    """Class activation maps at two sizes of the picture, which is stretched to each size (height, width).

    forward: frames uint8 [B, H, W, 3] RGB of any size -> coarse and fine float32 [B, 1000, height / 32, width / 32]
    of the two sizes, rounded up. In every cell the classes sum to one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: EfficientNetLite0, sizes: tuple[tuple[int, int], tuple[int, int]] = ((480, 640), (720, 960))
    ) -> None:
        super().__init__()
        self.network, self.sizes = network, sizes
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        pictures = frames.float().permute(0, 3, 1, 2)
        resized = [resize_and_pad(pictures, size, size) for size in self.sizes]
        coarse, fine = (self.network((picture - self.mean) / self.std).softmax(1) for picture in resized)
        return coarse, fine
