"""Who can run the graphs on this machine: every runtime, format and precision, or the sentence that says why not."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.datasets.vocabulary import default_vocabulary
from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.graphs import Models, graph_modules, graph_specs
from ovavss.models.ov_avss.presets import GRAPHS, PRESETS, Preset
from ovavss.msda.libraries import custom_op_library, find_library
from ovavss.runtime.engines import (
    Format,
    Manifest,
    Precision,
    artifact_key,
    checked_artifact,
    graph_precision,
    open_artifact,
    read_manifest,
    sha256,
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
EAGER = "torch"
# Fastest first.
_ORDER = ("tensorrt-fp16", "tensorrt", "onnx-cuda+op", "torch_cuda", "onnx-bf16-openvino+op", "onnx-openvino+op",
          "onnx+op", "onnx", EAGER)  # fmt: skip


@dataclass(frozen=True)
class BackendConfig:
    """A way to run the graphs. `load` opens those named; `missing`: why it cannot run here (then it must not)."""

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

    def manifest(self) -> Manifest:
        return read_manifest(self.engines)

    def preset(self) -> Preset:
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

    found = [BackendConfig(EAGER, lambda graphs: torch_runners(get(), graphs))]
    why = "" if compiled else "left out: it compiles for minutes; ask for it with --compile"
    found.append(BackendConfig("torch_compile", lambda graphs: compiled_runners(get(), graphs), why))
    found.append(
        BackendConfig(
            "torch_cuda", lambda graphs: cuda_runners(get(), graphs), "" if torch.cuda.is_available() else NO_GPU
        )
    )
    manifest = source.manifest()
    for form in Format:
        for precision in Precision:
            found += _built(source, manifest, form, precision)
    return {backend.name: backend for backend in found}


def _built(source: Source, manifest: Manifest, form: Format, precision: Precision) -> list[BackendConfig]:
    """Those of one format and precision; ONNX files run with and without our operator, on the CPU and on CUDA, and in
    OpenVINO."""
    key = artifact_key(form, precision)
    keys = {graph: artifact_key(form, graph_precision(graph, precision)) for graph in GRAPHS}
    built = all(keys[graph] in manifest.graphs.get(graph, {}) for graph in GRAPHS)
    why = "" if built else NOT_BUILT
    if form is not Format.ONNX:
        if form is not Format.TORCHSCRIPT and not torch.cuda.is_available():
            why = NO_GPU
        return [BackendConfig(key, lambda graphs: _open(source, form, precision, graphs), why)]
    plugin = "" if custom_op_library() else "the operator is not built: `make plugins`"
    cuda = "" if torch.cuda.is_available() else NO_GPU
    cpu, gpu = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    kernels = "ONNX Runtime has no bfloat16 kernels for the CPU" if precision is Precision.BF16 else ""
    found = [
        BackendConfig(key, lambda graphs: _onnx(source, precision, cpu, False, graphs), why or kernels),
        BackendConfig(
            f"{key}+op", lambda graphs: _onnx(source, precision, cpu, True, graphs), why or kernels or plugin
        ),
        BackendConfig(f"{key}-cuda", lambda graphs: _onnx(source, precision, gpu, False, graphs), why or cuda),
        BackendConfig(
            f"{key}-cuda+op", lambda graphs: _onnx(source, precision, gpu, True, graphs), why or cuda or plugin
        ),
    ]
    if precision in (Precision.FP32, Precision.BF16):
        package = missing_openvino()
        operator = "" if find_library(OPENVINO_LIBRARY) else "the OpenVINO operator is not built: `make plugins`"
        found += [
            BackendConfig(
                f"{key}-openvino", lambda graphs: _openvino(source, precision, False, graphs), why or package
            ),
            BackendConfig(
                f"{key}-openvino+op",
                lambda graphs: _openvino(source, precision, True, graphs),
                why or package or operator,
            ),
        ]
    return found


def _open(source: Source, form: Format, precision: Precision, graphs: Iterable[str]) -> Runners:
    return _each(source, form, precision, graphs, lambda spec, path: open_artifact(spec, path, form))


def _onnx(
    source: Source, precision: Precision, providers: list[str], custom_op: bool, graphs: Iterable[str]
) -> Runners:
    return _each(
        source, Format.ONNX, precision, graphs,
        lambda spec, path: OnnxRuntimeRunner(spec, path, providers, custom_op=custom_op),
    )  # fmt: skip


def _openvino(source: Source, precision: Precision, custom_op: bool, graphs: Iterable[str]) -> Runners:
    return _each(
        source, Format.ONNX, precision, graphs, lambda spec, path: OpenVinoRunner(spec, path, custom_op=custom_op)
    )


def _each(
    source: Source,
    form: Format,
    precision: Precision,
    graphs: Iterable[str],
    open_file: Callable[[GraphSpec, Path], Runner],
) -> Runners:
    manifest, specs = source.manifest(), _specs(source)
    return {
        graph: open_file(specs[graph], checked_artifact(source.engines, manifest, graph, form, precision))
        for graph in graphs
    }


def _specs(source: Source) -> dict[str, GraphSpec]:
    manifest = source.manifest()
    return graph_specs(PRESETS[manifest.preset], manifest.size)


def compiled_runners(models: Models, graphs: Iterable[str] = GRAPHS) -> Runners:
    """torch.compile, sizes dynamic; compiled at the first call of each graph."""
    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: _Compiled(specs[name], modules[name]) for name in graphs}


class _Compiled(TorchRunner):
    def __init__(self, spec: GraphSpec, module: nn.Module) -> None:
        super().__init__(spec, module)
        self.module = torch.compile(self.module, dynamic=True)  # type: ignore[assignment]


def cuda_runners(models: Models, graphs: Iterable[str] = GRAPHS) -> Runners:
    """Eager PyTorch on the GPU; what comes in is moved there."""

    class OnGpu(TorchRunner):
        def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
            return super().run({name: tensor.cuda(non_blocking=True) for name, tensor in inputs.items()})

    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: OnGpu(specs[name], deepcopy(modules[name]).cuda()) for name in graphs}


def fastest(found: Mapping[str, BackendConfig]) -> str:
    """The sort that is known for the highest speed among those that can run here."""
    return next(name for name in _ORDER if name in found and not found[name].missing)


def chosen(all_of_them: Mapping[str, BackendConfig], names: str | None) -> dict[str, BackendConfig]:
    """Those of `a,b` (None: all), eager PyTorch first; UserError for a name that there is not."""
    if names is None:
        return dict(all_of_them)
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in all_of_them:
            raise UserError(f"--runners '{name}' is unknown; choose of {','.join(all_of_them)}")
    return {name: backend for name, backend in all_of_them.items() if name == EAGER or name in wanted}
