"""ONNX files in OpenVINO: on x86 CPUs its kernels fuse more than ONNX Runtime's, and bfloat16 runs in hardware."""

import os
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec
from ovavss.msda.libraries import find_library
from ovavss.msda.onnx_node import DOMAIN
from ovavss.runtime.runner import Arrays, Runner, check_boundary

if TYPE_CHECKING:
    import openvino

LIBRARY = "libovavss_msdeform_attn_openvino.so"
# With known sizes a graph runs up to 1.7 times faster, and is there once more.
_KEPT_SIZES, _KEPT_BYTES = 8, 512 * 2**20

Sizes = tuple[tuple[int, ...], ...]


def missing_openvino() -> str:
    """Why OpenVINO cannot be used here; empty where it can."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        return f"the package openvino is missing ({error}): pip install 'ovavss[openvino]'"
    return ""


class OpenVinoRunner(Runner):
    """An ONNX file in OpenVINO on the CPU.

    Every product is computed in the type that the file gives it. The first few input sizes are compiled for themselves
    at their first call (seconds), as many as take half a gigabyte; others share one graph for all sizes. Calls from
    several threads run side by side.

    Args:
        spec: The specification of the graph.
        path: The file.
        custom_op: Use our attention operator where its library is built.

    Raises:
        UserError: The package or an operator is missing, or the file is not of this graph.
    """

    def __init__(self, spec: GraphSpec, path: Path, custom_op: bool = True) -> None:
        super().__init__(spec)
        if why := missing_openvino():
            raise UserError(why)
        import openvino

        threads = torch.get_num_threads()  # OMP_NUM_THREADS holds for every runtime
        streams = max(1, (os.cpu_count() or 1) // threads)
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 for what the file has as float32
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # another graph's threads would be pinned to the same cores
        }
        self._core = openvino.Core()
        library = find_library(LIBRARY) if custom_op else None
        try:
            self._source: str | bytes = str(path) if library else _with_functions_inlined(path)
            if library:
                self._core.add_extension(str(library))
            model = self._read()
        except Exception as error:  # OpenVINO raises RuntimeError, ONNX errors of its own
            reason = " ".join(str(error).split())[-200:]
            how = f"build it again, and the operator {library} with `make plugins`" if library else "build it again"
            raise UserError(f"{path} is not an ONNX file that OpenVINO can load ({reason}); {how}") from error
        sides = [[(v.any_name, _dimensions(v.partial_shape)) for v in some] for some in (model.inputs, model.outputs)]
        check_boundary(path, spec, *sides)
        self._by_size: dict[Sizes | None, Future[openvino.CompiledModel]] = {}  # None: all other sizes
        self._most_sizes = min(_KEPT_SIZES, _KEPT_BYTES // path.stat().st_size)
        # CLIP's batches have any size: filled up to a power of two, they share a few graphs.
        alike = all(isinstance(side, int) for i in spec.inputs for side in i.shape[1:])
        self._fills_up = alike and self._most_sizes == _KEPT_SIZES
        self._lock = Lock()

    def _read(self) -> "openvino.Model":
        return self._core.read_model(self._source)

    def _compiled(self, arrays: Mapping[str, np.ndarray]) -> "openvino.CompiledModel":
        sizes: Sizes | None = tuple(arrays[i.name].shape for i in self.spec.inputs)
        with self._lock:  # not while compiling: other sizes go on meanwhile
            if sizes not in self._by_size and len(self._by_size.keys() - {None}) >= self._most_sizes:
                sizes = None
            first = sizes not in self._by_size
            future = self._by_size.setdefault(sizes, Future())
        if first:
            try:
                future.set_result(self._compile(sizes))
            except BaseException as error:
                del self._by_size[sizes]  # the next call tries again
                future.set_exception(error)
        return future.result()

    def _compile(self, sizes: Sizes | None) -> "openvino.CompiledModel":
        """The graph for some input sizes, or (None) for all."""
        model = self._read()
        if sizes is not None:
            model.reshape({i.name: list(size) for i, size in zip(self.spec.inputs, sizes)})
            replace_identity_products(model)
        return self._core.compile_model(model, "CPU", self._settings)

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        import openvino

        arrays = {name: np.ascontiguousarray(tensor.numpy(force=True)) for name, tensor in inputs.items()}
        count = len(next(iter(arrays.values())))
        if self._fills_up and count and (missing := 2 ** (count - 1).bit_length() - count):
            arrays = {name: np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for name, a in arrays.items()}
        # A request of its own owns what it returns, so nothing is copied; making one takes under 0.1 ms.
        request = self._compiled(arrays).create_infer_request()
        for name, array in arrays.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.infer()
        outputs = {o.name: torch.from_numpy(request.get_tensor(o.name).data) for o in self.spec.outputs}
        # On one thread OpenVINO hides what goes wrong in a graph for all sizes, and returns nothing.
        if any(array.size for array in arrays.values()) and not all(o.numel() for o in outputs.values()):
            raise RuntimeError(f"{self.spec.name}: OpenVINO returned nothing; with two threads or more it says why")
        return {name: o[:count] for name, o in outputs.items()} if self._fills_up else outputs


def replace_identity_products(model: "openvino.Model") -> None:
    """A product with a multiple of the identity becomes a multiplication, which is exact.

    Frames that have the network's size already are "resized" by such products, a tenth of the tiny localizer's time.
    """
    from openvino import Type, opset8
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())  # the resize's weights follow from the sizes
    manager.run_passes(model)
    for product in [node for node in model.get_ops() if node.get_type_name() == "MatMul"]:
        for side, turned in ((0, "transpose_b"), (1, "transpose_a")):
            weights, other = product.input_value(side), product.input_value(1 - side)
            if weights.get_node().get_type_name() != "Constant" or weights.get_element_type() != Type.f32:
                continue
            values = weights.get_node().data
            if values.ndim != 2 or values.shape[0] != values.shape[1] or product.get_attributes()[turned]:
                continue
            if np.array_equal(values, values[0, 0] * np.eye(len(values), dtype=np.float32)):
                product.output(0).replace(opset8.multiply(other, opset8.constant(values[0, 0])).output(0))
                break


def _with_functions_inlined(path: Path) -> bytes:
    """The file without local functions, which OpenVINO does not read."""
    model = onnx.load(str(path))
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        # onnx leaves functions of another opset where they are. What ours use is the same in that of bfloat16 files.
        version = next(entry.version for entry in model.opset_import if entry.domain == "")
        for entry in (entry for function in model.functions for entry in function.opset_import if entry.domain == ""):
            entry.version = version
        model = onnx.inliner.inline_local_functions(model)
    return model.SerializeToString()


def _dimensions(shape: "openvino.PartialShape") -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in shape]
