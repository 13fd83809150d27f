"""TorchScript files."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec
from ovavss.runtime.runner import Arrays
from ovavss.runtime.torch_runner import TorchRunner


class TorchScriptRunner(TorchRunner):
    """A TorchScript file on the CPU.

    Args:
        spec: The specification of the graph.
        path: The file.

    Raises:
        UserError: PyTorch cannot load the file.
    """

    def __init__(self, spec: GraphSpec, path: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated, and still what many servers load
                module = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{path} is not a TorchScript file ({reason}); build it again") from error
        super().__init__(spec, module)

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        # The profiling executor compiles anew for each shape, for seconds: the plain interpreter is faster here. (The
        # setting is the calling thread's own.)
        with torch.jit.optimized_execution(False):
            return super().run(inputs)
