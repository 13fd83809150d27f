"""Where an ONNX file stops computing what PyTorch computes: module by module, through marked inner tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from polygraphy.backend.onnx import modify_outputs
from polygraphy.logger import G_LOGGER
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.export.precision import module_notes
from ovavss.models.graphs import GraphSpec
from ovavss.msda.libraries import session_options


@dataclass(frozen=True)
class Difference:
    """A module's name and by how much its output differs, relative to the largest value."""

    module: str
    error: float


def layer_differences(
    spec: GraphSpec, module: nn.Module, noted: onnx.ModelProto, path: Path, inputs: dict[str, Tensor]
) -> Iterator[Difference]:
    """Every module that can be compared, in the order of computation.

    `noted` is the exported model of the file at `path`, still with the exporter's notes of modules. Modules that run
    more than once, or whose output the exporter merged with other work, are passed over.
    """
    ends = _ends(noted)
    expected = _outputs(module, inputs)
    wanted = {name: tensor for name, tensor in ends.items() if name in expected}
    actual = _marked(path, list(wanted.values()), {i.name: inputs[i.name] for i in spec.inputs})
    for name, tensor in wanted.items():
        if tensor in actual and actual[tensor].shape == expected[name].shape:
            a, b = expected[name], actual[tensor].astype(np.float32)
            yield Difference(name, float(np.abs(a - b).max(initial=0) / max(float(np.abs(a).max(initial=0)), 1e-12)))


def _ends(model: onnx.ModelProto) -> dict[str, str]:
    """The tensor that each module ends with, in the order in which they are computed."""
    ends: dict[str, str] = {}
    for node in model.graph.node:
        for name in module_notes(node)[1]:
            ends.pop(name, None)
            ends[name] = node.output[0]
    return ends


def _outputs(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Outputs of all modules that run once and give one tensor."""
    seen: dict[str, list[Any]] = {}
    hooks = []
    for name, child in module.named_modules():
        calls = seen.setdefault(name, [])
        hooks.append(child.register_forward_hook(lambda _m, _i, out, calls=calls: calls.append(out)))
    try:
        with torch.inference_mode():
            module(*inputs.values())
    finally:
        for hook in hooks:
            hook.remove()
    single = {name: calls[0] for name, calls in seen.items() if name and len(calls) == 1}
    return {
        name: out.float().numpy() for name, out in single.items() if isinstance(out, Tensor) and out.is_floating_point()
    }


def _marked(path: Path, tensors: list[str], inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Inner tensors of the file, as ONNX Runtime computes them."""
    model = onnx.load(str(path))
    computed = {name for node in model.graph.node for name in node.output}
    marked = [name for name in dict.fromkeys(tensors) if name in computed]
    if not marked:
        return {}
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        model = modify_outputs(model, marked)
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(providers), providers)
        names = [output.name for output in session.get_outputs()]
        arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise UserError(f"{path}: its layers cannot be run ({str(error).splitlines()[0][:200]})") from error
    return dict(zip(names, arrays))
