"""ONNX files in ONNX Runtime, on the CPU or an NVIDIA GPU."""

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec
from ovavss.msda.libraries import session_options
from ovavss.runtime.runner import Arrays, Runner, check_boundary, fixed_sizes

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
# TensorRT-RTX's comes with a wheel of its own (onnxruntime-trt-rtx).
GPU_PROVIDERS = ("NvTensorRTRTXExecutionProvider", "CUDAExecutionProvider")


class OnnxRuntimeRunner(Runner):
    """An ONNX file in ONNX Runtime. Tensors are bound where they lie, and outputs lie where the session runs.

    Args:
        spec: The specification of the graph.
        path: The file.
        providers: The execution providers to use, the first being the one that must run. By default those of the GPU
            where one works, else the CPU's.
        custom_op: Use our attention operator where its library is built.

    Raises:
        UserError: The file cannot be loaded or is not of this graph, or the first of `providers` cannot be used here.
    """

    def __init__(
        self, spec: GraphSpec, path: Path, providers: Sequence[str] | None = None, custom_op: bool = True
    ) -> None:
        super().__init__(spec)
        chosen = list(providers or _usable_providers())
        notes = _preload_cuda() if chosen[0] in GPU_PROVIDERS else ""
        self.session = _open_session(path, chosen, custom_op)
        self.provider = self.session.get_providers()[0]
        self.device = "cpu" if self.provider == CPU else "cuda"
        if self.provider != chosen[0]:
            sentence = (
                f"ONNX Runtime cannot use {chosen[0]} here{notes} and took {self.provider}; "
                "pip install 'ovavss[gpu]' on a machine with an NVIDIA GPU and its driver, or run on the CPU"
            )
            if providers:
                raise UserError(sentence)
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
        check_boundary(path, spec, *map(_boundary, (self.session.get_inputs(), self.session.get_outputs())))

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        from onnxruntime import OrtValue

        binding = self.session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.from_dlpack(tensor.contiguous()))
            if tensor.is_cuda:
                torch.cuda.current_stream().synchronize()  # ONNX Runtime has a stream of its own
        for output in self.spec.outputs:
            binding.bind_output(output.name, self.device)
        self.session.run_with_iobinding(binding)
        return {o.name: torch.from_dlpack(v) for o, v in zip(self.spec.outputs, binding.get_outputs())}


def _usable_providers() -> list[str]:
    import onnxruntime

    installed = onnxruntime.get_available_providers() if torch.cuda.is_available() else []
    return [*(name for name in GPU_PROVIDERS if name in installed), CPU]


def _preload_cuda() -> str:
    """Loads the CUDA libraries of Python packages, which ONNX Runtime does not look for; returns what is missing."""
    import onnxruntime

    with redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    failed = [line for line in printed.getvalue().splitlines() if line.startswith("Failed to load")]
    return f" ({failed[-1][:160]})" if failed else ""


def _open_session(path: Path, providers: list[str], custom_op: bool) -> "onnxruntime.InferenceSession":
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # it warns of every GPU provider that finds no GPU
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()  # OMP_NUM_THREADS holds for every runtime
    # Else idle threads of each graph spin on the cores that the next graph and torch need.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if custom_op:
        options = session_options(providers, options)
    usable = [name for name in providers if name in onnxruntime.get_available_providers()]  # it warns of others
    try:
        try:
            return onnxruntime.InferenceSession(path, options, providers=usable or [CPU])
        except Exception as error:
            if "float8" not in str(error):
                raise
            # Its fusion of Q/DQ takes FP8 for INT8; without it, the nodes run.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            return onnxruntime.InferenceSession(path, options, providers=usable or [CPU])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{path} is not an ONNX file that ONNX Runtime can load ({reason}); build it again") from error


def _boundary(values: "Sequence[onnxruntime.NodeArg]") -> list[tuple[str, list[int | None]]]:
    return [(value.name, fixed_sizes(value.shape)) for value in values]
