"""Modules in eager PyTorch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ovavss.models.graphs import GraphSpec
from ovavss.runtime.runner import Arrays, Runner


class TorchRunner(Runner):
    """The PyTorch module itself, where its weights and inputs are.

    Args:
        spec: The specification of the graph.
        module: The module; it is put into evaluation mode.
    """

    def __init__(self, spec: GraphSpec, module: nn.Module) -> None:
        super().__init__(spec)
        self.module = module.eval()

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        with torch.inference_mode():
            outputs = self.module(*(inputs[i.name] for i in self.spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {o.name: output for o, output in zip(self.spec.outputs, outputs)}
