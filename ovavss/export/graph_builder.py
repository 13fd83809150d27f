"""The artifacts of one graph: written, compared with PyTorch, and where they differ the first layer that does."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.export.build_spec import PLANS, BuildSpec
from ovavss.export.calibration import calibrating, held_out
from ovavss.export.layer_differences import Difference, layer_differences
from ovavss.export.onnx_export import export_graph, write_model
from ovavss.export.precision import to_half
from ovavss.export.quantization import quantize
from ovavss.export.tensorrt_build import build_plan
from ovavss.export.torchscript import export_torchscript
from ovavss.export.verify import RELATIVE, VerificationError, compare, example_inputs
from ovavss.files import sha256, write_json
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.presets import USSLM_GRAPH
from ovavss.models.systems import AnyPreset
from ovavss.runtime.engines import QUANTIZED, Artifact, Format, Precision, artifact_file, artifact_key, open_artifact
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner
from ovavss.runtime.openvino_runner import missing_openvino
from ovavss.runtime.runner import Arrays, Runner
from ovavss.runtime.torch_runner import TorchRunner

_TRACED = (96, 128)  # any frame size serves for tracing; a small one is quick


class GraphBuilder:
    """Builds artifacts of one graph. The exported model and PyTorch's outputs are computed once, for all of them.

    Args:
        spec: The graph.
        module: Its module in PyTorch.
        preset: The preset that it is of.
        request: What to build.
        out: The folder to write to.
        calibration_crops: Returns what CLIP sees of the calibration's videos.
        say: Is told what is being done.
    """

    def __init__(
        self,
        spec: GraphSpec,
        module: nn.Module,
        preset: AnyPreset,
        request: BuildSpec,
        out: Path,
        calibration_crops: Callable[[], np.ndarray],
        say: Callable[[str], None],
    ) -> None:
        self.spec, self.module, self.preset, self.request, self.out = spec, module, preset, request, out
        self.calibration_crops, self.say = calibration_crops, say
        self.reference = _CachedReference(spec, module)
        self.traced_inputs = example_inputs(spec.name, preset, request.size or _TRACED)

    @cached_property
    def onnx_model(self) -> onnx.ModelProto:
        """The graph in float32, with the exporter's notes."""
        return export_graph(self.spec, self.module, self.traced_inputs, self.request.body_of(Format.ONNX))

    def build(self, artifact_format: Format, precision: Precision) -> Artifact:
        """Writes one artifact and compares it with PyTorch.

        Raises:
            VerificationError: It differs too much; the file was removed.
            UserError: It cannot be built here.
        """
        start, path = time.perf_counter(), self.out / artifact_file(self.spec.name, artifact_format, precision)
        self.say(f"building {artifact_key(artifact_format, precision)} of {self.spec.name}")
        self._write(artifact_format, precision, path)
        self.say(f"comparing {path.name} with PyTorch")
        difference, not_run = self._verify(artifact_format, precision, path)
        layers = _layers_file(path)
        layers.unlink(missing_ok=True)  # of an earlier build
        if difference and self._compares_layers(artifact_format, precision):
            self.say(f"comparing the layers of {path.name} with PyTorch")
            write_json(layers, {layer.module: layer.error for layer in self._layer_differences(path)})
        seconds = round(time.perf_counter() - start, 1)
        body = self._attention_body(artifact_format)
        return Artifact(path.name, sha256(path), path.stat().st_size, seconds, "", difference, not_run, body)

    def has_layers(self, artifact_format: Format, precision: Precision, artifact: Artifact) -> bool:
        """Whether the file of layers that goes with an earlier artifact is there, if there should be one."""
        wanted = artifact.difference and self._compares_layers(artifact_format, precision)
        return not wanted or _layers_file(self.out / artifact.file).exists()

    def _write(self, artifact_format: Format, precision: Precision, path: Path) -> None:
        if artifact_format is Format.ONNX:
            write_model(self._converted(precision), path)
        elif artifact_format is Format.TORCHSCRIPT:
            export_torchscript(self.spec, self.module, self.traced_inputs, path)
        else:
            source = self.out / artifact_file(self.spec.name, Format.ONNX, precision)
            options, body = self.request.plan, self.request.body_of(artifact_format)
            rtx = artifact_format is Format.TENSORRT_RTX
            build_plan(self.spec, source, path, options.of(precision) if rtx else options, rtx, body)

    def _converted(self, precision: Precision) -> onnx.ModelProto:
        if precision is Precision.FP32:
            return self.onnx_model
        if precision not in QUANTIZED:
            return to_half(self.onnx_model, precision, self.spec.float32_modules)
        crops = self.calibration_crops()
        self.say(f"quantizing {self.spec.name} to {precision} (the first time, ModelOpt's packages are fetched)")
        return quantize(self.onnx_model, calibrating(crops), precision)

    def _attention_body(self, artifact_format: Format) -> str:
        """How the graph's attention is written, empty where it has none."""
        if artifact_format is Format.TORCHSCRIPT or self.spec.name != USSLM_GRAPH:
            return ""
        plugin = artifact_format is Format.TENSORRT and self.request.plan.plugin is not None
        return "plugin" if plugin else self.request.body_of(artifact_format).value

    def _verify(self, artifact_format: Format, precision: Precision, path: Path) -> tuple[dict[str, float], str]:
        """The differences from PyTorch, or why there are none; a file that fails is removed."""
        try:
            # ONNX Runtime has no bfloat16 kernels for the CPU.
            openvino = precision is Precision.BF16 and not torch.cuda.is_available() and not missing_openvino()
            runner = open_artifact(self.spec, path, artifact_format, openvino)
        except UserError as error:
            if artifact_format not in PLANS and precision not in (Precision.BF16, Precision.FP8):
                path.unlink()
                raise
            return {}, "not run: " + ("no GPU here" if artifact_format in PLANS else _short(str(error)))
        try:
            return self._compare(runner, precision), ""
        except UserError as error:  # too far from PyTorch, or NaN among the outputs
            onnx_runtime = artifact_format is Format.ONNX and isinstance(runner, OnnxRuntimeRunner)
            named = isinstance(error, VerificationError) and onnx_runtime and precision not in QUANTIZED
            where = self._first_different_layer(precision, path) if named else ""
            path.unlink()
            raise VerificationError(f"{error}{where}; the file was removed") from None

    def _compare(self, runner: Runner, precision: Precision) -> dict[str, float]:
        if precision in QUANTIZED:
            crops = {"crops": torch.from_numpy(held_out(self.calibration_crops()))}
            return compare(self.spec, TorchRunner(self.spec, self.module), runner, crops, precision)
        short_side = self.preset.short_side
        size = self.request.verify_size or self.request.size or (short_side, short_side * 4 // 3)
        inputs = example_inputs(self.spec.name, self.preset, size, batch=1 if self.spec.name == USSLM_GRAPH else 2)
        return compare(self.spec, self.reference, runner, inputs, precision)

    def _compares_layers(self, artifact_format: Format, precision: Precision) -> bool:
        runs = precision is not Precision.BF16 or torch.cuda.is_available()  # in ONNX Runtime
        return self.request.layers and artifact_format is Format.ONNX and precision not in QUANTIZED and runs

    def _layer_differences(self, path: Path) -> Iterator[Difference]:
        return layer_differences(self.spec, self.module, self.onnx_model, path, self.traced_inputs)

    def _first_different_layer(self, precision: Precision, path: Path) -> str:
        """Its name and error, as part of a sentence."""
        bound = self.spec.tolerance * RELATIVE[precision]
        found = next((layer for layer in self._layer_differences(path) if not layer.error <= bound), None)
        return f"; the first layer that differs is '{found.module}', by {found.error:.1e}" if found else ""


class _CachedReference(TorchRunner):
    """PyTorch on the one set of inputs with which all artifacts of a graph are compared."""

    outputs: Arrays | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        if self.outputs is None:
            self.outputs = super().run(inputs)
        return self.outputs


def _layers_file(path: Path) -> Path:
    return path.with_suffix(".layers.json")


def _short(text: str) -> str:
    return "no bfloat16 kernels" if "bfloat16" in text or "NOT_IMPLEMENTED" in text else text[:80]
