"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
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


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention with learned offsets and weights.

    forward: query [N, Q, C], reference_points [N or 1, Q, L or 1, 2] as (x, y) in [0, 1], src [N, S, C] -> [N, Q, C].
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Deformable DETR's start: heads look in different directions, points at growing distance, equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        bias = direction[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference_points: Tensor, src: Tensor, level_shapes: LevelShapes) -> Tensor:
        n, queries, dim = query.shape
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(src).reshape(n, -1, heads, dim // heads)
        offsets = self.sampling_offsets(query).reshape(n, queries, heads, levels, points, 2)
        logits = self.attention_weights(query).reshape(n, queries, heads, levels, points)
        return self.output_proj(ms_deform_attn_fused(value, level_shapes, reference_points, offsets, logits))


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
