"""MobileSAM's image encoder: TinyViT with 5 million parameters and SAM's neck.

Wu et al., "TinyViT", 2022; Zhang et al., "Faster Segment Anything", 2023. Names of parameters are those of the
published checkpoint. The network takes any size that is a multiple of 16, as it consists of windows and convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovavss.models.ov_avss.frame_preparation import resize_and_pad, resized_size

EMBEDDING, STRIDE = 256, 16
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CHANNELS, _DEPTHS, _HEADS, _WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)


class _ConvNorm(nn.Module):
    """Convolution and batch normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.c(x))
        return y


class _MBConv(nn.Module):
    """Inverted bottleneck of the first stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.conv1 = _ConvNorm(channels, hidden)
        self.conv2 = _ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = _ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class _Merging(nn.Module):
    """Patch merging between two stages; SAM's encoder keeps the resolution before the last one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(inputs, outputs)
        self.conv2 = _ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = _ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return y


def _bias_index(window: int) -> Tensor:
    """Which learned bias each pair of positions of a window has.

    The result is int64 [window^2, window^2]. Biases depend on the absolute distances along both axes, in the order of
    their first appearance, which is row by row.
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = ((axis.flatten()[:, None] - axis.flatten()).abs() for axis in (y, x))
    return rows * window + columns


class _Attention(nn.Module):
    """Attention within windows: tokens [N, window^2, C] -> the same."""

    bias_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("bias_index", _bias_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, channels = x.shape
        qkv = self.qkv(self.norm(x)).reshape(count, tokens, self.heads, 3, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value, self.attention_biases[:, self.bias_index])
        y: Tensor = self.proj(x.transpose(1, 2).reshape(count, tokens, channels))
        return y


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return y


class _Block(nn.Module):
    """Window attention, a depthwise convolution, and a two-layer perceptron: x [B, C, H, W] -> the same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = _Attention(channels, heads, window)
        self.local_conv = _ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = _Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        window = self.window
        padded = F.pad(x, (0, -width % window, 0, -height % window))
        rows, columns = padded.shape[2] // window, padded.shape[3] // window
        tokens = padded.reshape(batch, channels, rows, window, columns, window).permute(0, 2, 4, 3, 5, 1)
        tokens = self.attn(tokens.reshape(-1, window * window, channels))
        tokens = tokens.reshape(batch, rows, columns, window, window, channels).permute(0, 5, 1, 3, 2, 4)
        x = x + tokens.reshape(batch, channels, rows * window, columns * window)[:, :, :height, :width]
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)


class _Stage(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        channels = _CHANNELS[index]
        self.blocks = nn.Sequential(
            *(
                _MBConv(channels) if index == 0 else _Block(channels, _HEADS[index], _WINDOWS[index])
                for _ in range(_DEPTHS[index])
            )
        )
        last = index == len(_CHANNELS) - 1
        stride = 1 if index == len(_CHANNELS) - 2 else 2
        self.downsample = nn.Identity() if last else _Merging(channels, _CHANNELS[index + 1], stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.downsample(self.blocks(x))
        return y


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        x = centered * (centered.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class TinyViT(nn.Module):
    """TinyViT-5M, the image encoder of MobileSAM.

    forward: images float32 [B, 3, H, W], normalized, H and W multiples of 16 -> embedding float32
    [B, 256, H / 16, W / 16].
    """

    def __init__(self) -> None:
        super().__init__()
        first = _CHANNELS[0]
        self.patch_embed = nn.Module()
        self.patch_embed.seq = nn.Sequential(
            _ConvNorm(3, first // 2, 3, 2), nn.GELU(), _ConvNorm(first // 2, first, 3, 2)
        )
        self.layers = nn.Sequential(*(_Stage(index) for index in range(len(_CHANNELS))))
        self.neck = nn.Sequential(
            nn.Conv2d(_CHANNELS[-1], EMBEDDING, 1, bias=False),
            ChannelNorm(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False),
            ChannelNorm(EMBEDDING),
        )

    def forward(self, images: Tensor) -> Tensor:
        y: Tensor = self.neck(self.layers(self.patch_embed.seq(images)))  # type: ignore[operator]
        return y


class MaskImageEncoder(nn.Module):
    """The image encoder with its preparation.

    The picture's longer side is scaled to `side` pixels (SAM was trained with 1024), and zeros right or below make it a
    square.

    forward: frames uint8 [B, H, W, 3] RGB -> embedding float32 [B, 256, side / 16, side / 16].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: TinyViT, side: int = 1024) -> None:
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        height, width = resized_size(frames.shape[1], frames.shape[2], self.side, self.side)
        square = (self.side, self.side)
        x = resize_and_pad(frames.float().permute(0, 3, 1, 2), (height, width), square)
        position = torch.arange(self.side, device=frames.device)
        inside = (position < height)[:, None] & (position < width)
        y: Tensor = self.encoder(torch.where(inside, (x - self.mean) / self.std, 0.0))
        return y
