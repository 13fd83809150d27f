"""Every runtime, format and precision that can run the graphs on this machine, or the sentence that says why not."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.datasets.vocabulary import default_vocabulary
from ovavss.errors import UserError
from ovavss.files import sha256
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.graphs import Models, graph_modules, graph_specs
from ovavss.models.ov_avss.presets import GRAPHS, PRESETS, Preset
from ovavss.msda.libraries import custom_op_library, find_library, has_cuda
from ovavss.runtime import tensorrt_library
from ovavss.runtime.engines import (
    Format,
    Manifest,
    Precision,
    artifact_key,
    checked_artifact,
    graph_precision,
    open_artifact,
    read_manifest,
    torch_runners,
)
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner
from ovavss.runtime.openvino_runner import LIBRARY as OPENVINO_LIBRARY
from ovavss.runtime.openvino_runner import OpenVinoRunner, missing_openvino
from ovavss.runtime.runner import Arrays, Runner
from ovavss.runtime.torch_runner import TorchRunner

Runners = dict[str, Runner]
NO_GPU = "needs an NVIDIA GPU, and this machine has none"
NOT_BUILT = "not in the engines folder"
NO_OPERATOR = "the operator is not built: `make plugins`"
EAGER = "torch"
CPU, CUDA = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
# Fastest first.
_ORDER = ("tensorrt-fp16", "tensorrt", "onnx-cuda+op", "torch_cuda", "onnx-bf16-openvino+op", "onnx-openvino+op",
          "onnx+op", "onnx", EAGER)  # fmt: skip


@dataclass(frozen=True)
class BackendConfig:
    """A way to run the graphs. `open` loads those named; `missing`: why it cannot run here (then it must not)."""

    name: str
    load: Callable[[Iterable[str]], Runners]
    missing: str = ""

    def open(self, graphs: Iterable[str] = GRAPHS) -> Runners:
        """The runners of these graphs."""
        return self.load(graphs)


@dataclass(frozen=True)
class Source:
    """An engines folder and the weights that it was built from (none: those shipped, or the manifest's seed)."""

    engines: Path
    weights: tuple[Path, ...] = ()

    @classmethod
    def of(cls, engines: Path, weights: Iterable[Path] | None) -> "Source":
        """From the options of a script."""
        return cls(engines, tuple(weights or ()))

    def manifest(self) -> Manifest:
        """The folder's manifest."""
        return read_manifest(self.engines)

    def preset(self) -> Preset:
        """The preset of the engines."""
        return PRESETS[self.manifest().preset]

    def models(self) -> Models:
        """The model in PyTorch; UserError where its weights are not those of the engines."""
        manifest = self.manifest()
        loaded = load_models(PRESETS[manifest.preset], WeightsSource(self.weights, seed=manifest.seed or 0))
        if sorted(sha256(path) for path in loaded.files) != sorted(manifest.weights.values()):
            names = ", ".join(manifest.weights) or f"random weights of seed {manifest.seed}"
            raise UserError(f"{self.engines} was built from {names}; give the same files with --weights")
        return loaded.models

    def names(self) -> tuple[str, ...]:
        """The vocabulary that is measured with; eight names of it where the weights are random: names mean nothing
        then, and embedding them for every runner would be most of the work."""
        names = default_vocabulary(self.preset())
        return names[:8] if self.random() else names

    def random(self) -> bool:
        """Whether the weights are random, so that no figure of quality means anything."""
        return self.manifest().seed is not None


def backends(source: Source, models: Models | None = None, compiled: bool = False) -> dict[str, BackendConfig]:
    """All, by name; the first is eager PyTorch (of `models`, or loaded when it is opened). `compiled`: torch.compile
    too, which takes minutes to start."""

    def get() -> Models:
        return models or source.models()

    left_out = "" if compiled else "left out: it compiles for minutes; ask for it with --compile"
    found = [
        BackendConfig(EAGER, lambda graphs: torch_runners(get(), graphs)),
        BackendConfig("torch_compile", lambda graphs: module_runners(get(), graphs, CompiledRunner), left_out),
        BackendConfig("torch_cuda", lambda graphs: module_runners(get(), graphs, CudaRunner), _no_gpu()),
    ]
    manifest = source.manifest()
    found += [b for form in Format for precision in Precision for b in _built(source, manifest, form, precision)]
    return {backend.name: backend for backend in found}


def _built(source: Source, manifest: Manifest, form: Format, precision: Precision) -> list[BackendConfig]:
    """Those of one format and precision; ONNX files run with and without our operator, on the CPU and on CUDA, and in
    OpenVINO."""
    key = artifact_key(form, precision)

    def config(suffix: str, open_file: Callable[[GraphSpec, Path], Runner], *reasons: str) -> BackendConfig:
        def load(graphs: Iterable[str]) -> Runners:
            specs = graph_specs(PRESETS[manifest.preset], manifest.size)
            paths = {g: checked_artifact(source.engines, manifest, g, form, precision) for g in graphs}
            return {graph: open_file(specs[graph], path) for graph, path in paths.items()}

        return BackendConfig(key + suffix, load, next(filter(None, reasons), ""))

    keys = {graph: artifact_key(form, graph_precision(graph, precision)) for graph in GRAPHS}
    built = "" if all(keys[graph] in manifest.graphs.get(graph, {}) for graph in GRAPHS) else NOT_BUILT
    if form is not Format.ONNX:
        runtime = "" if form is Format.TORCHSCRIPT else _no_gpu() or _no_tensorrt(form)
        return [config("", lambda spec, path: open_artifact(spec, path, form), runtime, built)]

    library = custom_op_library()
    kernels = "ONNX Runtime has no bfloat16 kernels for the CPU" if precision is Precision.BF16 else ""
    cuda = _no_gpu() or ("" if CUDA[0] in onnxruntime.get_available_providers() else "needs onnxruntime-gpu")
    on_cuda = "" if library and has_cuda(library) else "the operator has no CUDA kernels: `make plugins` with nvcc"

    def session(providers: list[str], custom_op: bool) -> Callable[[GraphSpec, Path], Runner]:
        return lambda spec, path: OnnxRuntimeRunner(spec, path, providers, custom_op=custom_op)

    found = [
        config("", session(CPU, False), built, kernels),
        config("+op", session(CPU, True), built, kernels, "" if library else NO_OPERATOR),
        config("-cuda", session(CUDA, False), built, cuda),
        config("-cuda+op", session(CUDA, True), built, cuda, on_cuda),
    ]
    if precision in (Precision.FP32, Precision.BF16):
        missing, operator = missing_openvino(), "" if find_library(OPENVINO_LIBRARY) else NO_OPERATOR
        found += [
            config("-openvino", lambda spec, path: OpenVinoRunner(spec, path, custom_op=False), built, missing),
            config("-openvino+op", lambda spec, path: OpenVinoRunner(spec, path), built, missing, operator),
        ]
    return found


def _no_gpu() -> str:
    return "" if torch.cuda.is_available() else NO_GPU


def _no_tensorrt(form: Format) -> str:
    try:
        tensorrt_library.tensorrt_rtx() if form is Format.TENSORRT_RTX else tensorrt_library.tensorrt()
    except UserError as error:
        return str(error)
    return ""


class CompiledRunner(TorchRunner):
    """torch.compile, sizes dynamic; compiled at the first call."""

    def __init__(self, spec: GraphSpec, module: nn.Module) -> None:
        super().__init__(spec, module)
        self.module = torch.compile(self.module, dynamic=True)  # type: ignore[assignment]


class CudaRunner(TorchRunner):
    """Eager PyTorch on the GPU; inputs are moved there."""

    def __init__(self, spec: GraphSpec, module: nn.Module) -> None:
        super().__init__(spec, deepcopy(module).cuda())

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        return super().run({name: tensor.cuda(non_blocking=True) for name, tensor in inputs.items()})


def module_runners(models: Models, graphs: Iterable[str], runner: type[TorchRunner]) -> Runners:
    """The PyTorch modules of these graphs, each in such a runner."""
    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: runner(specs[name], modules[name]) for name in graphs}


def fastest(found: Mapping[str, BackendConfig]) -> str:
    """The kind that is known for the highest speed among those that can run here."""
    return next(name for name in _ORDER if name in found and not found[name].missing)


def chosen(found: Mapping[str, BackendConfig], names: str | None) -> dict[str, BackendConfig]:
    """Those of `a,b` (None: all), eager PyTorch first; UserError for a name that there is not."""
    wanted = list(found) if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in found:
            raise UserError(f"--runners '{name}' is unknown; choose of {','.join(found)}")
    return {name: backend for name, backend in found.items() if name == EAGER or name in wanted}
