"""Frames as the network wants them: resize, normalize, pad (section 1 of the model's description).

The resize equals PIL's bilinear (antialiased) resize of uint8 images byte for byte in every runtime: PIL sums with
integer weights of 22 bits, so each axis is two matrix products whose factors have at most 11 bits. They and their sums
are exact in float32, and the products even in TF32.
"""

import torch
from torch import Tensor, nn

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
MULTIPLE = 32

_WHOLE, _LOW = 2**22, 2**11


# An export's sizes are symbols, which torch.sym_min keeps; TorchScript knows only plain integers.
def _least(a: int, b: int) -> int:
    if torch.jit.is_scripting():
        return min(a, b)
    return torch.sym_min(a, b)  # type: ignore[return-value]


def _most(a: int, b: int) -> int:
    if torch.jit.is_scripting():
        return max(a, b)
    return torch.sym_max(a, b)  # type: ignore[return-value]


def resized_size(
    height: int, width: int, short_side: int, long_side: int, limit: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Size after the test-time resize.

    The short side becomes `short_side`, the long one at most `long_side`, and with `limit` neither height nor width
    exceeds a fixed network size.

    Integer arithmetic without branches, so that it also holds for the symbolic sizes of an export.
    """
    scales = [(short_side, _least(height, width)), (long_side, _most(height, width))]
    if limit is not None:
        scales += [(limit[0], height), (limit[1], width)]
    new_height, new_width = _rounded(height, scales[0]), _rounded(width, scales[0])
    for scale in scales[1:]:
        new_height, new_width = _least(new_height, _rounded(height, scale)), _least(new_width, _rounded(width, scale))
    return _most(new_height, 1), _most(new_width, 1)


def _rounded(side: int, scale: tuple[int, int]) -> int:
    """A side times target / source, rounded half up."""
    target, source = scale
    return (2 * target * side + source) // (2 * source)


# TorchScript reads no constants of a module, but default arguments.
def padded_size(height: int, width: int, multiple: int = MULTIPLE) -> tuple[int, int]:
    """Both sides rounded up to a multiple of 32."""
    return (height + multiple - 1) // multiple * multiple, (width + multiple - 1) // multiple * multiple


def resize_weights(
    source: int, target: int, rows: int, device: torch.device, whole: int = _WHOLE, low: int = _LOW
) -> tuple[Tensor, Tensor]:
    """PIL's triangle filter for one axis as integer weights of 22 bits, split into 11 high and 11 low bits.

    Two float32 [rows, source]; rows from `target` on are zero (padding).
    """
    out = torch.arange(rows, device=device)[:, None]
    pixel = torch.arange(source, device=device)[None]
    reach = 2 * _most(source, target)
    triangle = (reach - ((2 * pixel + 1) * target - (2 * out + 1) * source).abs()).clamp(min=0)
    total = triangle.sum(1, keepdim=True).clamp(min=1)
    # floor_divide exports as an integer division; torch.div would go through float32 and lose bits.
    weight = torch.floor_divide(triangle * (2 * whole) + total, 2 * total)
    weight = weight * (out < target)
    high = torch.floor_divide(weight, torch.full_like(weight, low))
    return high.float(), (weight - high * low).float()


def _round(high: Tensor, low: Tensor, carry: float = _LOW / _WHOLE, unit: float = 1 / _WHOLE) -> Tensor:
    """floor((high * 2^11 + low) / 2^22 + 1/2), exactly, for integer sums in float32."""
    high = high * carry + 0.5
    whole = high.floor()
    return (whole + ((high - whole) + low * unit).floor()).clamp(0, 255)


def resize_and_pad(frames: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Frames [N, 3, H, W] of whole numbers 0..255 -> float32 [N, 3, *padded], whole numbers, zeros right and below."""
    height, width = frames.shape[-2:]
    high, low = resize_weights(width, size[1], padded[1], frames.device)
    frames = _round(frames @ high.T, frames @ low.T)
    high, low = resize_weights(height, size[0], padded[0], frames.device)
    return _round(high @ frames, low @ frames)


class FramePreparation(nn.Module):
    """Resize to the preset's size (or into a fixed `size`), normalize, pad with zeros to a multiple of 32.

    forward: frames uint8 [B, T, H, W, 3] RGB -> images float32 [B, T, 3, H', W'], resized frames uint8
    [B, T, H', W', 3] (padded with zeros) and their unpadded size int64 [2].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, short_side: int, long_side: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.short_side, self.long_side, self.size = short_side, long_side, size
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, snippets, height, width, _ = frames.shape
        size = resized_size(height, width, self.short_side, self.long_side, self.size)
        padded = padded_size(size[0], size[1])
        if self.size is not None:
            padded = self.size
        resized = resize_and_pad(frames.float().flatten(0, 1).permute(0, 3, 1, 2), size, padded)
        inside = (torch.arange(padded[0], device=frames.device) < size[0])[:, None] & (
            torch.arange(padded[1], device=frames.device) < size[1]
        )
        images = torch.where(inside, (resized - self.mean) / self.std, 0.0)
        # TensorRT knows uint8 only at the border: cast first and last.
        resized = resized.permute(0, 2, 3, 1).reshape(batch, snippets, *padded, 3).to(torch.uint8)
        sizes = torch.stack([torch.full((), side, dtype=torch.int64, device=frames.device) for side in size])
        return images.reshape(batch, snippets, 3, *padded), resized, sizes
