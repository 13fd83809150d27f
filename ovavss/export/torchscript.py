"""From a PyTorch module to one TorchScript file: traced, but for the frame preparation, whose sizes need a script."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.export.onnx_export import Localizer
from ovavss.files import written_whole
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.graphs import UsslmGraph


class _Prepared(nn.Module):
    """Frame preparation, then the traced localizer."""

    def __init__(self, prepare: nn.Module, localizer: nn.Module) -> None:
        super().__init__()
        self.prepare, self.localizer = prepare, localizer

    def forward(self, frames: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, resized, image_size = self.prepare(frames)
        mask_logits, sound_scores = self.localizer(images, audio)
        return mask_logits, sound_scores, resized, image_size


def export_torchscript(spec: GraphSpec, module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write the graph's TorchScript file, whole or not at all; `inputs` are examples.

    Raises:
        UserError: The graph resizes frames inside and is not the localizer: a trace would fix their size.
    """
    frames = any(each.name == "frames" and "height" in each.shape for each in spec.inputs)
    if frames and not isinstance(module, UsslmGraph):
        raise UserError(f"the graph '{spec.name}' has no TorchScript form; leave torchscript out of --formats")
    with torch.no_grad(), warnings.catch_warnings():
        # It is deprecated, but served in production; and sizes that a trace takes for fixed are those of the preset.
        warnings.simplefilter("ignore")
        if isinstance(module, UsslmGraph):
            images = module.prepare(inputs["frames"])[0]
            localizer = _trace(Localizer(module), (images, inputs["audio"]))
            scripted: torch.jit.ScriptModule = torch.jit.script(_Prepared(module.prepare, localizer).eval())
        else:
            scripted = _trace(module, tuple(inputs[i.name] for i in spec.inputs))
        frozen = torch.jit.freeze(scripted)
        with written_whole(path) as partial:
            torch.jit.save(frozen, partial)


def _trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    traced = torch.jit.trace(module.eval(), inputs, check_trace=False)
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced.eval()
