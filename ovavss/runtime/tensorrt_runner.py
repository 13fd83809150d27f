"""TensorRT and TensorRT-RTX engines on a GPU: buffers are torch tensors, one CUDA graph for each set of shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec
from ovavss.runtime import tensorrt_library
from ovavss.runtime.runner import Arrays, Runner

_GRAPHS_KEPT = 8  # sets of shapes whose recorded work is kept


@dataclass
class _Recorded:
    """Static buffers and the CUDA graph that reads and writes them."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    graph: torch.cuda.CUDAGraph | None


class TensorRTRunner(Runner):
    """A plan on the current GPU.

    Inputs may lie on either side; from the host they go through pinned memory. Outputs are copies on the GPU. The work
    for a set of shapes is recorded once as a CUDA graph and replayed; where it cannot be recorded it is enqueued.
    Calls of several threads run one after another: they share an execution context and its buffers.

    Args:
        spec: The specification of the graph.
        path: The plan.
        rtx: The plan is TensorRT-RTX's.
        cuda_graphs: Record the work as CUDA graphs.

    Raises:
        UserError: The library or a GPU is missing, or the plan does not fit them.
    """

    device = "cuda"

    def __init__(self, spec: GraphSpec, path: Path, rtx: bool = False, cuda_graphs: bool = True) -> None:
        super().__init__(spec)
        name = "TensorRT-RTX" if rtx else "TensorRT"
        self.trt: Any = tensorrt_library.tensorrt_rtx() if rtx else tensorrt_library.tensorrt()
        if not torch.cuda.is_available():
            raise UserError(f"{path} needs an NVIDIA GPU, and this machine has none; use --runner onnxruntime")
        self.logger = tensorrt_library.logger(self.trt)
        self.engine = self.trt.Runtime(self.logger).deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            why = tensorrt_library.reason(self.logger, "no reason given")
            raise UserError(f"{name} {self.trt.__version__} cannot load {path} ({why}); build it on this machine")
        self.context = self.engine.create_execution_context()
        self.cuda_graphs = cuda_graphs
        self.stream = torch.cuda.Stream()
        self.recorded: dict[tuple[tuple[int, ...], ...], _Recorded] = {}
        self._lock = Lock()

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        with self._lock:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        shapes = tuple(tuple(inputs[i.name].shape) for i in self.spec.inputs)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work = self.recorded.get(shapes)
            if work is None:
                work = self._prepare(inputs)
                while len(self.recorded) >= _GRAPHS_KEPT:
                    self.recorded.pop(next(iter(self.recorded)))
                self.recorded[shapes] = work
            else:
                self._fill(work, inputs)
            if work.graph is not None:
                work.graph.replay()
            else:
                self._bind(work)
                self._enqueue()
            outputs = {name: tensor.clone() for name, tensor in work.outputs.items()}
        caller = torch.cuda.current_stream()
        caller.wait_stream(self.stream)
        for tensor in outputs.values():
            tensor.record_stream(caller)  # else its memory could be reused while the caller still reads it
        return outputs

    def _prepare(self, inputs: Mapping[str, Tensor]) -> _Recorded:
        statics = {
            i.name: torch.empty(inputs[i.name].shape, dtype=i.dtype, device=self.device) for i in self.spec.inputs
        }
        for tensor in self.spec.inputs:
            if not self.context.set_input_shape(tensor.name, tuple(inputs[tensor.name].shape)):
                shape = list(inputs[tensor.name].shape)
                why = tensorrt_library.reason(self.logger, "outside its profile")
                raise UserError(f"{self.spec.name}: '{tensor.name}' {shape} does not fit the engine ({why})")
        outputs = {}
        for output in self.spec.outputs:
            size = tuple(self.context.get_tensor_shape(output.name))
            outputs[output.name] = torch.empty(size, dtype=output.dtype, device=self.device)
        work = _Recorded(statics, outputs, None)
        self._fill(work, inputs)
        self._bind(work)
        self._enqueue()  # once before recording, as lazy set-up cannot be recorded
        self.stream.synchronize()
        if self.cuda_graphs:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self.stream):
                    self._enqueue()
                work.graph = graph
            except RuntimeError:  # an engine with work on the host cannot be recorded
                self.cuda_graphs = False
        return work

    def _fill(self, work: _Recorded, inputs: Mapping[str, Tensor]) -> None:
        for name, static in work.inputs.items():
            given = inputs[name].contiguous()
            static.copy_(given if given.is_cuda else given.pin_memory(), non_blocking=True)

    def _bind(self, work: _Recorded) -> None:
        for name, static in work.inputs.items():
            self.context.set_input_shape(name, tuple(static.shape))
        for name, tensor in (*work.inputs.items(), *work.outputs.items()):
            self.context.set_tensor_address(name, tensor.data_ptr())

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            why = tensorrt_library.reason(self.logger, "no reason given")
            raise RuntimeError(f"{self.spec.name}: the engine failed ({why})")
