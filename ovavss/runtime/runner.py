"""A runner loads one graph in one runtime and maps arrays by name."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec, TensorSpec
from ovavss.msda.libraries import session_options

Arrays = dict[str, Tensor]

# TensorRT-RTX's comes with a wheel of its own (onnxruntime-trt-rtx).
_GPU_PROVIDERS = ("NvTensorRTRTXExecutionProvider", "CUDAExecutionProvider")


class Runner(ABC):
    """One graph in one runtime. Calling it checks the inputs against the specification, then runs."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def __call__(self, **inputs: Tensor) -> Arrays:
        """Inputs and outputs by name, as the graph's specification lists them; ValueError where they do not fit."""
        _check(self.spec, inputs)
        return self.run(inputs)

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Run on inputs that fit."""


def _check(spec: GraphSpec, inputs: Mapping[str, Tensor]) -> None:
    if set(inputs) != {i.name for i in spec.inputs}:
        raise ValueError(f"{spec.name} takes {', '.join(i.name for i in spec.inputs)}, not {', '.join(inputs)}")
    for tensor in spec.inputs:
        given = inputs[tensor.name]
        fits = len(given.shape) == len(tensor.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(tensor.shape, given.shape)
        )
        if given.dtype != tensor.dtype or not fits:
            wanted, found = describe(tensor), f"{_dtype(given.dtype)} {list(given.shape)}"
            raise ValueError(f"{spec.name}: '{tensor.name}' must be {wanted}, not {found}")


def describe(tensor: TensorSpec) -> str:
    """For instance `uint8 [clips, 5, height, width, 3]`."""
    return f"{_dtype(tensor.dtype)} [{', '.join(map(str, tensor.shape))}]"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


Boundary = list[tuple[str, list[int | None]]]


def check_boundary(path: Path, spec: GraphSpec, inputs: Boundary, outputs: Boundary) -> None:
    """UserError where a file's inputs and outputs (names, sizes or None) are not those of the specification."""
    for found, specs in ((inputs, spec.inputs), (outputs, spec.outputs)):
        wanted = [(s.name, [d if isinstance(d, int) else None for d in s.shape]) for s in specs]
        if found != wanted:
            raise UserError(
                f"{path} is not '{spec.name}' of this preset (it has {found}, not {wanted}); build it again"
            )


class TorchRunner(Runner):
    """The PyTorch module itself, eager."""

    def __init__(self, spec: GraphSpec, module: nn.Module) -> None:
        super().__init__(spec)
        self.module = module.eval()

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        with torch.inference_mode():
            outputs = self.module(*(inputs[i.name] for i in self.spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {o.name: output for o, output in zip(self.spec.outputs, outputs)}


class TorchScriptRunner(Runner):
    """A TorchScript file, on the CPU or wherever its inputs are moved by the caller."""

    def __init__(self, spec: GraphSpec, path: Path) -> None:
        super().__init__(spec)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated, and still what many servers load
                self.module = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{path} is not a TorchScript file ({reason}); build it again") from error

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        # The profiling executor compiles anew for each shape, for seconds: the plain interpreter is faster here.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            outputs = self.module(*(inputs[i.name] for i in self.spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {o.name: output for o, output in zip(self.spec.outputs, outputs)}


class OnnxRuntimeRunner(Runner):
    """An ONNX file in ONNX Runtime: on the GPU where a provider for it works, else on the CPU; with our attention
    operator where its library is built, unless `custom_op` is False. Tensors are bound where they lie, and outputs lie
    where the session runs: nothing is copied but what must cross to the GPU."""

    def __init__(self, spec: GraphSpec, path: Path, providers: list[str] | None = None, custom_op: bool = True) -> None:
        super().__init__(spec)
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # it warns of every GPU provider that finds no GPU
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()  # OMP_NUM_THREADS holds for every runtime
        # Else idle threads of each graph spin on the cores that the next graph and torch need.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if providers is None:
            there = onnxruntime.get_available_providers() if torch.cuda.is_available() else []
            providers = [*(name for name in _GPU_PROVIDERS if name in there), "CPUExecutionProvider"]
        self.device = "cpu" if providers == ["CPUExecutionProvider"] else "cuda"
        if custom_op:
            options = session_options(providers, options)
        try:
            try:
                self.session = onnxruntime.InferenceSession(path, options, providers=providers)
            except Exception as error:
                if "float8" not in str(error):
                    raise
                # Its rewriting of Q/DQ takes FP8 for INT8; as they stand, the nodes run.
                options.add_session_config_entry("session.disable_quant_qdq", "1")
                self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(
                f"{path} is not an ONNX file that ONNX Runtime can load ({reason}); build it again"
            ) from error
        sides = [
            [(v.name, [d if isinstance(d, int) else None for d in v.shape]) for v in values]
            for values in (self.session.get_inputs(), self.session.get_outputs())
        ]
        check_boundary(path, spec, *sides)

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
