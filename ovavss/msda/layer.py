"""The layer of multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3)."""

import math

import torch
from torch import Tensor, nn

from ovavss.msda.ms_deform_attn import LevelShapes
from ovavss.msda.operators import deformable_attention_fused


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
        return self.output_proj(deformable_attention_fused(value, level_shapes, reference_points, offsets, logits))
