"""Multi-scale deformable attention leaves torch.onnx.export as one node (`ovavss/onnx_op.py`)."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor

from ovavss.msda import ms_deform_attn as op
from ovavss.msda.ms_deform_attn import LevelShapes
from ovavss.msda.onnx_node import ATTRIBUTES, DOMAIN, FUSED, VERSION


@contextlib.contextmanager
def exported_as_node() -> Iterator[None]:
    """While it lasts, torch.onnx.export turns each fused attention into one node."""
    with mock.patch.object(op, "ms_deform_attn_fused", _fused_node):
        yield


def _fused_node(
    value: Tensor, level_shapes: LevelShapes, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    shapes = torch.stack([torch.stack([_size(h, value), _size(w, value)]) for h, w in level_shapes])
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{FUSED}",
        (value, shapes, reference_points, offsets, logits),
        dict(ATTRIBUTES),
        dtype=value.dtype,
        shape=(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3]),
        version=VERSION,
    )


def _size(size: int, like: Tensor) -> Tensor:
    return torch.full((), size, dtype=torch.int64, device=like.device)
