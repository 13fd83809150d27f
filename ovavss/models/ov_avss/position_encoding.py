"""Sine position encodings (DETR's 2-D form and its extension to time)."""

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
EPSILON = 1e-6


def _axis(length: int, width: int, device: torch.device) -> Tensor:
    """Encoding of positions 1..length, normalized to (0, 2 pi]: float32 [length, width]; sine and cosine alternate."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    position = position / (position[-1:] + EPSILON) * (2 * math.pi)
    channel = torch.arange(width, device=device)
    angle = position[:, None] / TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / width)
    return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)


def sine_2d(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Float32 [dim, height, width]: dim / 2 channels for y, then dim / 2 for x."""
    y, x = _axis(height, dim // 2, device), _axis(width, dim // 2, device)
    encoding = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=-1)
    return encoding.permute(2, 0, 1)


def sine_3d(frames: int, height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Float32 [frames, dim, height, width]: the 2-D encoding plus a dim-wide term for time."""
    time = _axis(frames, dim, device)
    return sine_2d(height, width, dim, device)[None] + time[:, :, None, None]
