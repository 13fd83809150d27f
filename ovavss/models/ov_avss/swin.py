"""Swin transformer backbone (Liu et al., ICCV 2021), in the form that the published model uses.

Two points differ from torchvision and timm: odd blocks shift by half a window even where the map is smaller than the
window, and the window padding is added after the first LayerNorm, so padded tokens are zeros that take part.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.presets import SwinConfig


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window: int64 [window^2, window^2]."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    position = torch.stack([rows.flatten(), columns.flatten()])
    difference = position[:, :, None] - position[:, None, :] + window - 1
    return difference[0] * (2 * window - 1) + difference[1]


def to_windows(x: Tensor, window: int) -> Tensor:
    """[N, H, W, C] -> [N * windows, window^2, C]; H and W are multiples of the window."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of `to_windows`."""
    channels = windows.shape[-1]
    x = windows.reshape(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Additive mask float32 [windows, window^2, window^2]: -100 where only the cyclic shift made neighbors."""

    def region(size: int) -> Tensor:
        index = torch.arange(size, device=device)
        return (index >= size - window).long() + (index >= size - shift).long()

    regions = region(height)[:, None] * 3 + region(width)[None, :]
    tokens = to_windows(regions[None, :, :, None], window)[..., 0]
    return (tokens[:, None, :] != tokens[:, :, None]).float() * -100.0


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with relative position bias; `qkv` rows are (3, heads, dim)."""

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Not persistent: it follows from the window size.
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        n, length, dim = windows.shape
        heads = self.num_heads
        qkv = self.qkv(windows).reshape(n, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(length, length, heads).permute(2, 0, 1)
        logits = (query * (dim // heads) ** -0.5) @ key.transpose(-2, -1) + bias
        if mask is not None:
            count = mask.shape[0]
            logits = logits.reshape(-1, count, heads, length, length) + mask[:, None]
            logits = logits.reshape(-1, heads, length, length)
        out = logits.softmax(-1) @ value
        return self.proj(out.transpose(1, 2).reshape(n, length, dim))


class DropPath(nn.Module):
    """Drops a residual branch of whole samples in training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = torch.rand(x.shape[0], *([1] * (x.ndim - 1)), device=x.device) < keep
        return x * kept / keep


class SwinBlock(nn.Module):
    """(Shifted) window attention and MLP, pre-norm. forward: [N, H, W, C] -> the same."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.fc2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        out = self.norm1(x)
        bottom, right = -height % self.window, -width % self.window
        out = F.pad(out, (0, 0, 0, right, 0, bottom))
        mask = None
        if self.shift:
            out = torch.roll(out, shifts=(-self.shift, -self.shift), dims=(1, 2))
            mask = shift_mask(height + bottom, width + right, self.window, self.shift, x.device)
        windows = self.attn(to_windows(out, self.window), mask)
        out = from_windows(windows, self.window, height + bottom, width + right)
        if self.shift:
            out = torch.roll(out, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + self.drop_path(out[:, :height, :width])
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class PatchMerging(nn.Module):
    """Halves the map and doubles the channels: 2x2 neighbors concatenated column by column, LayerNorm, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Swin(nn.Module):
    """forward: normalized images float32 [N, 3, H, W] -> {"res2", ..., "res5"} at strides 4, 8, 16, 32."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, config.embed_dim, 4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        last = max(1, sum(config.depths) - 1)
        rates = [config.drop_path_rate * block / last for block in range(sum(config.depths))]
        self.stages, self.merges, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, (depth, heads, dim) in enumerate(zip(config.depths, config.num_heads, config.channels)):
            blocks = []
            for block in range(depth):
                shift = config.window_size // 2 if block % 2 else 0
                blocks.append(SwinBlock(dim, heads, config.window_size, shift, config.mlp_ratio, rates.pop(0)))
            self.stages.append(nn.Sequential(*blocks))
            self.norms.append(nn.LayerNorm(dim))
            if index < len(config.depths) - 1:
                self.merges.append(PatchMerging(dim))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.patch_norm(self.patch_embed(images).permute(0, 2, 3, 1))
        features = {}
        for index, (stage, norm) in enumerate(zip(self.stages, self.norms)):
            x = stage(x)
            # The norm belongs to the copy that leaves the backbone only.
            features[f"res{index + 2}"] = norm(x).permute(0, 3, 1, 2)
            if index < len(self.merges):
                x = self.merges[index](x)
        return features
