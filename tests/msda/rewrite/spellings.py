"""Deformable attention as others spell it: PyTorch modules to export, and ONNX text that needs no exporter."""

from abc import ABC, abstractmethod

import onnx
import onnx.parser
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.msda.ms_deform_attn import ms_deform_attn

HEADS, CHANNELS, POINTS = 4, 8, 3


class Spelling(nn.Module, ABC):
    """Two feature maps, locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P] -> [B, Q, M * D]."""

    def forward(self, fine: Tensor, coarse: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        maps = [fine, coarse]
        value = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).reshape(fine.shape[0], -1, HEADS, CHANNELS)
        return self.attend(value, [(m.shape[2], m.shape[3]) for m in maps], locations, weights)

    @abstractmethod
    def attend(self, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        """The attention in one spelling."""


class LevelByLevel(Spelling):
    """Our own."""

    def attend(self, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, sizes, locations, weights)


class Stacked(Spelling):
    """All levels' samples stacked: Deformable DETR, Mask2Former, Grounding DINO, RT-DETR."""

    def attend(self, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries = locations.shape[:2]
        samples = []
        for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], 1), sizes)):
            level_map = part.flatten(2).transpose(1, 2).reshape(batch * HEADS, CHANNELS, h, w)
            grid = (2 * locations - 1)[:, :, :, level].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(level_map, grid, align_corners=False))
        shares = weights.transpose(1, 2).reshape(batch * HEADS, 1, queries, len(sizes) * POINTS)
        total = (torch.stack(samples, -2).flatten(-2) * shares).sum(-1)
        return total.view(batch, HEADS * CHANNELS, queries).transpose(1, 2).contiguous()


class PointsSplit(Spelling):
    """Levels and points on one axis, split by the points of each level: RT-DETR's second version."""

    def attend(self, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries = locations.shape[:2]
        maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], -1)
        grids = (2 * locations - 1).flatten(3, 4).permute(0, 2, 1, 3, 4).flatten(0, 1).split([POINTS] * len(sizes), -2)
        samples = [
            F.grid_sample(m.reshape(batch * HEADS, CHANNELS, h, w), grid, align_corners=False)
            for m, (h, w), grid in zip(maps, sizes, grids)
        ]
        shares = weights.flatten(3).permute(0, 2, 1, 3).reshape(batch * HEADS, 1, queries, len(sizes) * POINTS)
        return (torch.cat(samples, -1) * shares).sum(-1).reshape(batch, HEADS * CHANNELS, queries).permute(0, 2, 1)


_TEXT = """
<ir_version: 8, opset_import: ["": OPSET]>
agraph (float[B, 40, 2, 8] value, float[B, Q, 2, 2, 3, 2] locations, float[B, Q, 2, 2, 3] weights)
=> (float[B, Q, 16] out)
<int64[2] parts = {28, 12}, float two = {2.0}, float one = {1.0}, int64[3] flat = {0, 0, -1}, int64[1] last = {-1},
 int64[4] map0_shape = {-1, 8, 4, 7}, int64[4] map1_shape = {-1, 8, 3, 4}, int64 first = {0}, int64 second = {1},
 int64[3] out_shape = {-1, 16, 0}, int64[1] third = {3}, int64[1] head = {1}, int64[1] all_points = {6}>
{
    value0, value1 = Split <axis = 1> (value, parts)
    flat0 = Reshape (value0, flat)
    flat1 = Reshape (value1, flat)
    turned0 = Transpose <perm = [0, 2, 1]> (flat0)
    turned1 = Transpose <perm = [0, 2, 1]> (flat1)
    map0 = Reshape (turned0, map0_shape)
    map1 = Reshape (turned1, map1_shape)
    doubled = Mul (locations, two)
    grids = Sub (doubled, one)
    place0 = Gather <axis = 3> (grids, first)
    place1 = Gather <axis = 3> (grids, second)
    by_head0 = Transpose <perm = [0, 2, 1, 3, 4]> (place0)
    by_head1 = Transpose <perm = [0, 2, 1, 3, 4]> (place1)
    end = Shape <start = 2> (by_head0)
    grid_shape = Concat <axis = 0> (last, end)
    grid0 = Reshape (by_head0, grid_shape)
    grid1 = Reshape (by_head1, grid_shape)
    sample0 = GridSample <ATTRIBUTES> (map0, grid0)
    sample1 = GridSample <ATTRIBUTES> (map1, grid1)
    stacked0 = Unsqueeze (sample0, third)
    stacked1 = Unsqueeze (sample1, third)
    stacked = Concat <axis = 3> (stacked0, stacked1)
    samples_front = Shape <start = 0, end = 3> (stacked)
    samples_shape = Concat <axis = 0> (samples_front, last)
    samples = Reshape (stacked, samples_shape)
    shares_by_head = Transpose <perm = [0, 2, 1, 3, 4]> (weights)
    queries = Shape <start = 2, end = 3> (shares_by_head)
    shares_shape = Concat <axis = 0> (last, head, queries, all_points)
    shares = Reshape (shares_by_head, shares_shape)
    weighted = Mul (samples, shares)
    summed = ReduceSum <keepdims = 0> (weighted, last)
    wide = Reshape (summed, out_shape)
    out = Transpose <perm = [0, 2, 1]> (wide)
}
"""


def text_model(
    opset: int = 17,
    attributes: str = 'align_corners = 0, mode = "bilinear", padding_mode = "zeros"',
    changes: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """The stacked spelling with fixed levels (4 x 7, 3 x 4), 2 heads of 8 channels, 3 points."""
    text = _TEXT.replace("OPSET", str(opset)).replace("ATTRIBUTES", attributes)
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    return model
