"""Multi-scale deformable attention as PyTorch operators: one node each for torch.export, torch.compile and ONNX.

`torch.ops.ovavss.ms_deform_attn` takes sampling locations and weights, `torch.ops.ovavss.ms_deform_attn_fused` what the
layers give (reference points, offsets, logits). Importing this module registers them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovavss.msda import ms_deform_attn as reference
from ovavss.msda.kernels import run_kernel
from ovavss.msda.ms_deform_attn import LevelShapes


@torch.library.custom_op("ovavss::ms_deform_attn", mutates_args=())
def plain(value: Tensor, level_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The operator on sampling locations and attention weights; arguments as of `msda.ms_deform_attn`."""
    output = run_kernel("plain", value, level_shapes, locations, weights)
    if output is None:
        output = reference.ms_deform_attn(value, _pairs(level_shapes), locations, weights).contiguous()
    return output


@torch.library.custom_op("ovavss::ms_deform_attn_fused", mutates_args=())
def fused(value: Tensor, level_shapes: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """The operator on raw offsets and logits; arguments as of `msda.ms_deform_attn_fused`."""
    output = run_kernel("fused", value, level_shapes, reference_points, offsets, logits)
    if output is None:
        shapes = _pairs(level_shapes)
        output = reference.ms_deform_attn_fused(value, shapes, reference_points, offsets, logits).contiguous()
    return output


@plain.register_fake
def _(value: Tensor, level_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return _empty_output(value, locations)


@fused.register_fake
def _(value: Tensor, level_shapes: Tensor, reference_points: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    return _empty_output(value, offsets)


def _empty_output(value: Tensor, places: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], places.shape[1], value.shape[2] * value.shape[3])


def _pairs(level_shapes: Tensor) -> LevelShapes:
    return [(height, width) for height, width in level_shapes.tolist()]


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The gradients of the reference, which is computed again: the samples are too large to be kept."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, level_shapes, *others = ctx.saved_tensors
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]
        inputs = [tensor.detach() for tensor in (value, *others)]
        by_argument = {0: inputs[0], **{index + 2: tensor for index, tensor in enumerate(inputs[1:])}}
        with torch.enable_grad():
            for index in wanted:
                by_argument[index].requires_grad_()
            output = function(inputs[0], _pairs(level_shapes), *inputs[1:])
            found = torch.autograd.grad(output, [by_argument[index] for index in wanted], gradient)
        gradients = dict(zip(wanted, found))
        return tuple(gradients.get(index) for index in range(len(ctx.needs_input_grad)))

    return backward


plain.register_autograd(_backward_of(reference.ms_deform_attn), setup_context=_save_inputs)
fused.register_autograd(_backward_of(reference.ms_deform_attn_fused), setup_context=_save_inputs)


def level_shapes_tensor(level_shapes: LevelShapes) -> Tensor:
    """The levels' (height, width) as int64 [L, 2] on the CPU; sizes may be symbolic."""
    rows = [torch.stack([torch.full((), side, dtype=torch.int64) for side in level]) for level in level_shapes]
    return torch.stack(rows)


def deformable_attention_fused(
    value: Tensor, level_shapes: LevelShapes, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """`ms_deform_attn_fused`, in torch.export as the operator, so that an exporter has one node to translate."""
    if torch.compiler.is_exporting():
        shapes = level_shapes_tensor(level_shapes)
        return fused(value, shapes, reference_points, offsets, logits)
    return reference.ms_deform_attn_fused(value, level_shapes, reference_points, offsets, logits)
