"""ResNet backbone with frozen batch norm, stride in the 3x3 convolution (R-50 of detectron2's torchvision form)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.presets import ResNetConfig


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine terms are constants: four buffers, no parameter."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class ConvNorm(nn.Module):
    """Convolution without bias, then frozen batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = FrozenBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a residual; a projection shortcut where the shape changes."""

    def __init__(self, in_channels: int, bottleneck_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if changes else nn.Identity()
        self.conv1 = ConvNorm(in_channels, bottleneck_channels, 1)
        self.conv2 = ConvNorm(bottleneck_channels, bottleneck_channels, 3, stride)
        self.conv3 = ConvNorm(bottleneck_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        return F.relu(self.conv3(out) + self.shortcut(x))


class ResNet(nn.Module):
    """forward: normalized images float32 [N, 3, H, W] -> {"res2", ..., "res5"} at strides 4, 8, 16, 32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem_channels, 7, stride=2)
        in_channels, bottleneck = config.stem_channels, config.bottleneck_channels
        self.stages = nn.ModuleDict()
        for index, (blocks, out_channels) in enumerate(zip(config.blocks, config.channels)):
            stage = []
            for block in range(blocks):
                stride = 2 if block == 0 and index > 0 else 1
                stage.append(Bottleneck(in_channels, bottleneck * 2**index, out_channels, stride))
                in_channels = out_channels
            self.stages[f"res{index + 2}"] = nn.Sequential(*stage)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(F.relu(self.stem(images)), kernel_size=3, stride=2, padding=1)
        features = {}
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return features
