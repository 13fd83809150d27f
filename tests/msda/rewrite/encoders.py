"""A pixel decoder as windowed segmenters have it, exported by way of TorchScript."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, DIM, POINTS, LEVELS, LAYERS = 2, 16, 2, 2, 3
Sizes = list[tuple[int, int]]


class Attention(nn.Module):
    """Deformable attention over sizes that the exporter sees as computed."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.offsets = nn.Linear(DIM, HEADS * LEVELS * POINTS * 2)
        self.weights = nn.Linear(DIM, HEADS * LEVELS * POINTS)

    def forward(self, query: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        batch, queries, _ = query.shape
        value = self.value(query).view(batch, query.shape[1], HEADS, DIM // HEADS)
        offsets = self.offsets(query).view(batch, queries, HEADS, LEVELS, POINTS, 2)
        weights = self.weights(query).view(batch, queries, HEADS, LEVELS * POINTS).softmax(-1)
        weights = weights.view(batch, queries, HEADS, LEVELS, POINTS)
        # An int64 tensor, as Mask2Former has it: the exporter divides by it in double where the sizes are fixed.
        size = torch.tensor([[w, h] for h, w in sizes], dtype=torch.long)
        locations = reference[:, :, None, :, None, :] + offsets / size[None, None, None, :, None, :]
        grids, sampled = 2 * locations - 1, []
        for level, part in enumerate(value.split([h * w for h, w in sizes], dim=1)):
            h, w = sizes[level]
            maps = part.flatten(2).transpose(1, 2).reshape(batch * HEADS, DIM // HEADS, h, w)
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(batch * HEADS, 1, queries, LEVELS * POINTS)
        output = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)
        return self.out(output.view(batch, DIM, queries).transpose(1, 2).contiguous())


class Encoder(nn.Module):
    """Two maps of a picture, cut into windows and put together, through layers of deformable self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, DIM, 3, 4, 1), nn.Conv2d(DIM, DIM, 3, 2, 1)
        self.layers = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(LAYERS))

    def forward(self, picture: Tensor) -> Tensor:
        near = windows(self.near(picture))
        maps = [windows(self.far(near)), near]
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        ratios = torch.stack([valid_ratio(m) for m in maps], 1)
        reference = reference_points(sizes, ratios)
        for layer, norm in zip(self.layers, self.norms):
            x = norm(x + layer(x, reference, sizes))
        return x


def windows(features: Tensor, side: int = 2) -> Tensor:
    """As windowed backbones have it: padded to whole windows, cut into windows, put together, cut back."""
    batch, dim, h, w = features.shape
    x = features.flatten(2).transpose(1, 2).view(batch, h, w, dim)
    x = F.pad(x, (0, 0, 0, (side - w % side) % side, 0, (side - h % side) % side))
    _, high, wide, _ = x.shape
    x = x.view(batch, high // side, side, wide // side, side, dim).permute(0, 1, 3, 2, 4, 5)
    x = x.contiguous().view(-1, side, side, dim).relu()
    x = x.view(-1, high // side, wide // side, side, side, dim).permute(0, 1, 3, 2, 4, 5).contiguous()
    x = x.view(-1, high, wide, dim)[:, :h, :w, :].contiguous().view(batch, h * w, dim)
    return x.view(batch, h, w, dim).permute(0, 3, 1, 2).contiguous()


def valid_ratio(features: Tensor) -> Tensor:
    mask = torch.zeros((features.shape[0], features.shape[2], features.shape[3]), dtype=torch.bool)
    _, h, w = mask.shape
    high, wide = torch.sum(~mask[:, :, 0], 1), torch.sum(~mask[:, 0, :], 1)
    return torch.stack([wide.to(features.dtype) / w, high.to(features.dtype) / h], -1)


def reference_points(sizes: Sizes, ratios: Tensor) -> Tensor:
    points = []
    for level, (h, w) in enumerate(sizes):
        rows, columns = (torch.linspace(0.5, side - 0.5, side, dtype=ratios.dtype) for side in (h, w))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        y = y.reshape(-1)[None] / (ratios[:, None, level, 1] * h)
        x = x.reshape(-1)[None] / (ratios[:, None, level, 0] * w)
        points.append(torch.stack((x, y), -1))
    return torch.cat(points, 1)[:, :, None] * ratios[:, None]


def export_encoder(path: Path, dynamic: dict[int, str], side: int) -> Encoder:
    """Writes an encoder with random weights for pictures of `side`; `dynamic` names the picture's dynamic axes."""
    torch.manual_seed(0)
    encoder = Encoder().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder, (torch.randn(1, 3, side, side),), str(path), opset_version=17, dynamo=False,
            input_names=["picture"], output_names=["tokens"], dynamic_axes={"picture": dynamic} if dynamic else None,
        )  # fmt: skip
    return encoder
