"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LevelShapes = Sequence[tuple[int, int]]


def ms_deform_attn(value: Tensor, level_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The op: a weighted sum of bilinear samples (zeros outside, align_corners=False).

    value [N, S, M, D], S = sum of h * w over the levels; level_shapes: (h, w) of each level; locations
    [N, Q, M, L, P, 2] as (x, y) in [0, 1] of each level; weights [N, Q, M, L, P]. Returns [N, Q, M * D].
    """
    n, _, heads, dim = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # L, N*M, Q, P, 2
    weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)  # L, N*M, Q, P
    out = value.new_zeros(n * heads, dim, queries)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in level_shapes], dim=-1)
    for level, (height, width) in enumerate(level_shapes):
        level_map = maps[level].reshape(n * heads, dim, height, width)
        samples = F.grid_sample(level_map, grids[level], mode="bilinear", align_corners=False)
        # Level by level: the samples of all levels together would be the peak of the model's memory.
        out = out + (samples * weights[level, :, None]).sum(-1)
    return out.reshape(n, heads * dim, queries).transpose(1, 2)


def ms_deform_attn_fused(
    value: Tensor, level_shapes: LevelShapes, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """The op on what the layers give: softmax over all L * P points, locations from reference points and offsets.

    value [N, S, M, D]; level_shapes: (h, w) of each level; reference_points [N or 1, Q, L or 1, 2] as (x, y) in [0, 1];
    offsets [N, Q, M, L, P, 2] in pixels of their level; logits [N, Q, M, L, P]. Returns [N, Q, M * D].
    """
    weights = logits.flatten(3).softmax(-1).reshape(logits.shape)
    # torch.full, because an exported size may be symbolic.
    sizes = torch.stack([torch.stack([_scalar(w, offsets), _scalar(h, offsets)]) for h, w in level_shapes])
    locations = reference_points[:, :, None, :, None] + offsets / sizes[:, None]
    return ms_deform_attn(value, level_shapes, locations, weights)


def _scalar(size: int, like: Tensor) -> Tensor:
    return torch.full((), size, dtype=like.dtype, device=like.device)


def grid_reference_points(level_shapes: LevelShapes, like: Tensor) -> Tensor:
    """Center of each token in its own level as (x, y) in [0, 1], the same for every sampled level: [1, S, 1, 2]."""
    points = []
    for height, width in level_shapes:
        y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
        x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
        grid = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1)
        points.append(grid.reshape(height * width, 2))
    return torch.cat(points)[None, :, None]
