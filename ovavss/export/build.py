"""All artifacts of a model: built, compared with PyTorch, listed in a manifest; what is there already is kept."""

import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from ovavss.checkpoints.loaded import LoadedModels
from ovavss.errors import UserError
from ovavss.export.build_spec import PLANS, BuildSpec, fingerprint, package_versions, sources_fingerprint
from ovavss.export.calibration import calibrating, calibration_crops, held_out
from ovavss.export.layer_differences import Difference, layer_differences
from ovavss.export.onnx_export import export_graph, write_model
from ovavss.export.precision import to_half
from ovavss.export.quantization import QuantizerError, quantize
from ovavss.export.tensorrt_build import build_plan
from ovavss.export.torchscript import export_torchscript
from ovavss.export.verify import COSINE_MEAN, RELATIVE, VerificationError, compare, example_inputs
from ovavss.files import remove_leftovers, write_json
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.systems import AnyPreset, graph_modules, graph_specs
from ovavss.runtime.engines import (
    QUANTIZED,
    Artifact,
    Format,
    Manifest,
    Precision,
    artifact_file,
    artifact_key,
    open_artifact,
    read_manifest,
    sha256,
)  # fmt: skip
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner
from ovavss.runtime.openvino_runner import missing_openvino
from ovavss.runtime.runner import Arrays, Runner
from ovavss.runtime.torch_runner import TorchRunner

# Any size serves for tracing; a small one is quick.
_TRACED = (96, 128)


def state_fingerprint(module: nn.Module) -> str:
    """Of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Reference(TorchRunner):
    """PyTorch on the one set of inputs with which all artifacts of a graph are compared: computed once."""

    outputs: Arrays | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        if self.outputs is None:
            self.outputs = super().run(inputs)
        return self.outputs


class Builder:
    """One run over an output folder."""

    def __init__(self, loaded: "LoadedModels[Any]", out: Path, request: BuildSpec, seed: int) -> None:
        self.loaded, self.out, self.request, self.sources = loaded, out, request, sources_fingerprint()
        self.preset: AnyPreset = loaded.models.preset
        self.console = Console()
        self.refused: dict[tuple[Format, Precision], str] = {}
        self.models: dict[Precision, onnx.ModelProto] = {}
        self.localizers: dict[str, Runner] = {}
        self.crops: np.ndarray | None = None
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self.manifest = Manifest(
            preset=self.preset.name,
            size=request.size,
            weights={path.name: sha256(path) for path in loaded.files},
            seed=None if loaded.files else seed,
            versions=package_versions(),
            gpu=gpu,
            graphs=self._kept(),
        )

    def _kept(self) -> dict[str, dict[str, Artifact]]:
        """What an earlier run left, if it was of this preset and size; each is checked before it is used again."""
        try:
            before = read_manifest(self.out)
        except UserError:
            return {}
        same = before.preset == self.preset.name and before.size == self.request.size
        return before.graphs if same else {}

    def run(self, request_key: str) -> Manifest:
        """Builds what is missing; the manifest is written after each artifact, and with `request_key` at the end."""
        remove_leftovers(self.out)
        specs = graph_specs(self.preset, self.request.size)
        modules = graph_modules(self.loaded.models, self.request.size)
        found = [name for name in (AUDIO_ENCODER, USSLM_GRAPH) if name in specs]
        self.localizers = {name: TorchRunner(specs[name], modules[name]) for name in found}
        table = Table(title=f"{self.preset.name} in {self.out}")
        for column in ("artifact", "size", "difference from PyTorch", "seconds"):
            table.add_column(column, justify="right" if column in ("size", "seconds") else "left")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
            task = progress.add_task("")
            for name in specs:
                self._graph(specs[name], modules[name], table, lambda text: progress.update(task, description=text))
        if not self.refused:
            self.manifest = replace(self.manifest, request=request_key)
            self.manifest.write(self.out)
        self.console.print(table)
        for reason in dict.fromkeys(self.refused.values()):
            keys = [artifact_key(*target) for target, why in self.refused.items() if why == reason]
            print(f"{', '.join(keys)} not built: {reason}")
        return self.manifest

    def _graph(self, spec: GraphSpec, module: nn.Module, table: Table, tell: Callable[[str], None]) -> None:
        state, reference = state_fingerprint(module), _Reference(spec, module)
        self.models = {}
        for form, precision in self.request.targets(spec.name):
            if why := self.refused.get((Format.ONNX, precision)) or self.refused.get((form, precision)):
                self.refused[form, precision] = why
                continue
            key = artifact_key(form, precision)
            plan = asdict(self.request.plan) if form in PLANS else None
            built_from = fingerprint(
                state, self.sources, self.manifest.versions, key, self.request.size, self.request.body_of(form), plan,
                self.manifest.gpu if form is Format.TENSORRT else None,
                self._calibrated_on() if precision in QUANTIZED else None,
            )  # fmt: skip
            artifact = self._usable(spec.name, key, built_from)
            if artifact and artifact.difference and self._shows_layers(form, precision):
                artifact = artifact if _layers_file(self.out / artifact.file).exists() else None
            seconds = "kept"
            if artifact is None:
                start = time.perf_counter()
                tell(f"building {key} of {spec.name}")
                try:
                    artifact = self._build(spec, reference, form, precision, built_from, tell)
                except UserError as error:
                    if not (form in PLANS or isinstance(error, QuantizerError)) or isinstance(error, VerificationError):
                        raise
                    self.refused[form, precision] = str(error)
                    continue
                artifact = replace(artifact, seconds=round(time.perf_counter() - start, 1))
                seconds = f"{artifact.seconds:.1f}"
                self._record(spec.name, key, artifact)
            table.add_row(artifact.file, _mib(artifact.size), _difference(artifact), seconds)
        self.models = {}
        gc.collect()  # the exporter's copies of the weights

    def _usable(self, graph: str, key: str, built_from: str) -> Artifact | None:
        artifact = self.manifest.graphs.get(graph, {}).get(key)
        if artifact is None or artifact.built_from != built_from:
            return None
        path = self.out / artifact.file
        return artifact if path.exists() and sha256(path) == artifact.sha256 else None

    def _record(self, graph: str, key: str, artifact: Artifact) -> None:
        artifacts = {**self.manifest.graphs.get(graph, {}), key: artifact}
        self.manifest = replace(self.manifest, graphs={**self.manifest.graphs, graph: artifacts}, request="")
        self.manifest.write(self.out)

    def _build(
        self,
        spec: GraphSpec,
        reference: _Reference,
        form: Format,
        precision: Precision,
        built_from: str,
        tell: Callable[[str], None],
    ) -> Artifact:
        path = self.out / artifact_file(spec.name, form, precision)
        if form is Format.ONNX:
            self._write_onnx(spec, reference.module, precision, path, tell)
        elif form is Format.TORCHSCRIPT:
            inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
            export_torchscript(spec, reference.module, inputs, path)
        else:
            source = self.out / artifact_file(spec.name, Format.ONNX, precision)
            rtx = form is Format.TENSORRT_RTX
            options = self.request.plan.of(precision) if rtx else self.request.plan
            build_plan(spec, source, path, options, rtx, self.request.body_of(form))
        tell(f"comparing {path.name} with PyTorch")
        differences, not_run = self._verify(spec, reference, form, precision, path, tell)
        layers = _layers_file(path)
        layers.unlink(missing_ok=True)  # of an earlier build
        if differences and self._shows_layers(form, precision):
            tell(f"comparing the layers of {path.name} with PyTorch")
            write_json(layers, {layer.module: layer.error for layer in self._layers(spec, reference, path)})
        return Artifact(
            path.name, sha256(path), path.stat().st_size, 0.0, built_from, differences, not_run, self._body(spec, form)
        )

    def _body(self, spec: GraphSpec, form: Format) -> str:
        """How the graph's attention is written, empty where it has none."""
        if form is Format.TORCHSCRIPT or spec.name != USSLM_GRAPH:
            return ""
        return "plugin" if form is Format.TENSORRT and self.request.plan.plugin else self.request.body_of(form).value

    def _calibrated_on(self) -> list[object]:
        """The files, or the weights that find the crops of the synthetic world."""
        return [*(sha256(path) for path in self.request.calibration), self.manifest.weights, self.manifest.seed]

    def _crops(self, tell: Callable[[str], None]) -> np.ndarray:
        """What CLIP sees of the calibration's videos: found once, when first needed."""
        assert isinstance(self.preset, Preset)  # the command refuses INT8 and FP8 of OpenAVS
        if self.crops is None:
            tell("looking for crops to calibrate on")
            self.crops = calibration_crops(self.preset, self.request.calibration, self.localizers)
        return self.crops

    def _write_onnx(
        self, spec: GraphSpec, module: nn.Module, precision: Precision, path: Path, tell: Callable[[str], None]
    ) -> None:
        if Precision.FP32 not in self.models:
            inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
            self.models[Precision.FP32] = export_graph(spec, module, inputs, self.request.body_of(Format.ONNX))
        model = self.models[Precision.FP32]
        if precision in QUANTIZED:
            crops = self._crops(tell)
            tell(f"quantizing {spec.name} to {precision} (the first time, ModelOpt's packages are fetched)")
            write_model(quantize(model, calibrating(crops), precision), path)
            return
        written = onnx.ModelProto()
        written.CopyFrom(model if precision is Precision.FP32 else to_half(model, precision, spec.float32_modules))
        write_model(written, path)

    def _verify(
        self,
        spec: GraphSpec,
        reference: TorchRunner,
        form: Format,
        precision: Precision,
        path: Path,
        tell: Callable[[str], None],
    ) -> tuple[dict[str, float], str]:
        """The differences from PyTorch, or why there are none; a file that fails it is removed."""
        try:
            # ONNX Runtime has no bfloat16 kernels for the CPU.
            other = precision is Precision.BF16 and not torch.cuda.is_available() and not missing_openvino()
            runner = open_artifact(spec, path, form, openvino=other)
        except UserError as error:
            if (form is Format.ONNX and precision not in (Precision.BF16, Precision.FP8)) or form is Format.TORCHSCRIPT:
                path.unlink()
                raise
            return {}, "not run: " + ("no GPU here" if form in PLANS else _short(str(error)))
        size = self.request.verify_size or self.request.size
        size = size or (self.preset.short_side, self.preset.short_side * 4 // 3)
        inputs = example_inputs(spec.name, self.preset, size, batch=1 if spec.name == USSLM_GRAPH else 2)
        if precision in QUANTIZED:
            inputs = {"crops": torch.from_numpy(held_out(self._crops(tell)))}
            reference = TorchRunner(spec, reference.module)
        try:
            return compare(spec, reference, runner, inputs, precision), ""
        except UserError as error:  # too far from PyTorch, or NaN among the outputs
            named = (
                isinstance(error, VerificationError)
                and form is Format.ONNX
                and precision not in QUANTIZED
                and isinstance(runner, OnnxRuntimeRunner)
            )
            where = self._where(spec, reference, precision, path) if named else ""
            path.unlink()
            raise VerificationError(f"{error}{where}; the file was removed") from None

    def _shows_layers(self, form: Format, precision: Precision) -> bool:
        runs = precision is not Precision.BF16 or torch.cuda.is_available()  # in ONNX Runtime
        return self.request.layers and form is Format.ONNX and precision not in QUANTIZED and runs

    def _layers(self, spec: GraphSpec, reference: TorchRunner, path: Path) -> Iterator[Difference]:
        inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
        return layer_differences(spec, reference.module, self.models[Precision.FP32], path, inputs)

    def _where(self, spec: GraphSpec, reference: TorchRunner, precision: Precision, path: Path) -> str:
        """Which layer differs first, as part of a sentence."""
        bound = spec.tolerance * RELATIVE[precision]
        found = next((layer for layer in self._layers(spec, reference, path) if not layer.error <= bound), None)
        return f"; the first layer that differs is '{found.module}', by {found.error:.1e}" if found else ""


def _layers_file(path: Path) -> Path:
    return path.with_suffix(".layers.json")


def _short(text: str) -> str:
    return "no bfloat16 kernels" if "bfloat16" in text or "NOT_IMPLEMENTED" in text else text[:80]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _difference(artifact: Artifact) -> str:
    values = artifact.difference
    if not values:
        return f"[dim]{artifact.not_run}[/dim]"
    if COSINE_MEAN in values:
        return f"cosine 1 - {values[COSINE_MEAN]:.1e}"
    if "sign_flips" in values:
        return f"mean {values['mask_logits_mean']:.1e}, signs {values['sign_flips']:.0e}"
    return f"{max(values.values()):.1e}"
