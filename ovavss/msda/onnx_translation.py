"""How the PyTorch operators leave torch.onnx.export: each as one node of our domain (see `onnx_node`)."""

from collections.abc import Callable
from typing import Any

import torch
from onnx import defs
from onnxscript import values

from ovavss.msda import operators  # noqa: F401 - it registers the operators
from ovavss.msda.onnx_node import ATTRIBUTES, DOMAIN, FUSED, PLAIN, VERSION

_VALUE_TYPES = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`.

    The exported model needs the nodes' local functions: `ovavss.msda.onnx_node.add_bodies`.

    Returns:
        The ONNX function of each operator.
    """
    return {
        torch.ops.ovavss.ms_deform_attn.default: _translation(PLAIN, ("locations", "weights")),
        torch.ops.ovavss.ms_deform_attn_fused.default: _translation(FUSED, ("references", "offsets", "logits")),
    }


def _translation(name: str, places: tuple[str, ...]) -> Callable[..., Any]:
    schema = defs.OpSchema
    node = values.Op(
        values.Opset(DOMAIN, VERSION),
        name,
        schema(
            name,
            DOMAIN,
            VERSION,
            inputs=[
                schema.FormalParameter("value", "T"),
                schema.FormalParameter("shapes", "tensor(int64)"),
                *(schema.FormalParameter(place, "T") for place in places),
            ],
            outputs=[schema.FormalParameter("output", "T")],
            type_constraints=[("T", _VALUE_TYPES, "")],
            attributes=[schema.Attribute(key, schema.AttrType.STRING, "") for key in ATTRIBUTES],
        ),
    )
    return lambda *inputs: node(*inputs, **ATTRIBUTES)
