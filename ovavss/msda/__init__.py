"""Multi-scale deformable attention: the PyTorch operator, the ONNX node and its bodies, the built libraries."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def use_in(model: "nn.Module") -> int:
    """Swaps the deformable attention of a model of `transformers` for the operator, in place.

    The operator runs the compiled kernels where they are built or installed (`pip install ovavss-msda`), and is one
    node for torch.export and torch.compile; `ovavss.msda.onnx_translation.onnx_translations` makes it one ONNX node. Of
    Mask2Former, OneFormer and RT-DETR v2 a function of their module is replaced, and with it all models of that family
    in this process.

    Args:
        model: Such as `AutoModelForObjectDetection.from_pretrained(...)`.

    Returns:
        How many layers were changed.

    Raises:
        UserError: The model has no attention of a known family.
    """
    from ovavss.msda.detectors import use_in

    return use_in(model)
