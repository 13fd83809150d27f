"""A folder of built artifacts: its manifest, and the runners that load it, with no model code."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovavss.errors import UserError
from ovavss.files import sha256, write_json
from ovavss.models.ov_avss.presets import CLIP_IMAGE_ENCODER, GRAPHS, Preset
from ovavss.models.systems import ALL_PRESETS, AnyPreset, find_preset

if TYPE_CHECKING:
    from ovavss.models.graphs import GraphSpec
    from ovavss.models.ov_avss.graphs import Models
    from ovavss.runtime.runner import Runner

MANIFEST = "manifest.json"
FORMAT, VERSION = "ovavss-engines", 4


class Format(StrEnum):
    """What a graph becomes."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


RunnerName = Literal["torch", "onnxruntime", "openvino", "torchscript", "tensorrt", "tensorrt_rtx"]
"""Which runtime runs the graphs."""

FORMAT_OF_RUNNER: dict[RunnerName, Format] = {
    "onnxruntime": Format.ONNX,
    "openvino": Format.ONNX,
    "torchscript": Format.TORCHSCRIPT,
    "tensorrt": Format.TENSORRT,
    "tensorrt_rtx": Format.TENSORRT_RTX,
}
"""What each runner but "torch" reads."""


class Precision(StrEnum):
    """Type of the products inside a graph; its inputs and outputs do not change.

    INT8 and FP8 are of the CLIP image encoder's weights and what they multiply; the rest of it, and the other graphs,
    are those of FP16.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"


QUANTIZED = (Precision.INT8, Precision.FP8)


def graph_precision(graph: str, precision: Precision) -> Precision:
    """The precision of one graph among engines of `precision`."""
    return Precision.FP16 if precision in QUANTIZED and graph != CLIP_IMAGE_ENCODER else precision


_SUFFIXES = {Format.ONNX: "onnx", Format.TORCHSCRIPT: "torchscript.pt", Format.TENSORRT: "plan",
             Format.TENSORRT_RTX: "rtx.plan"}  # fmt: skip


def artifact_key(artifact_format: Format, precision: Precision) -> str:
    """The manifest's name of an artifact of a graph, e.g. `onnx` or `tensorrt_rtx-fp16`."""
    return artifact_format.value if precision is Precision.FP32 else f"{artifact_format}-{precision}"


def artifact_file(graph: str, artifact_format: Format, precision: Precision) -> str:
    """Its file name, e.g. `usslm.onnx` or `usslm.fp16.rtx.plan`."""
    precision = graph_precision(graph, precision)
    middle = "" if precision is Precision.FP32 else f".{precision}"
    return f"{graph}{middle}.{_SUFFIXES[artifact_format]}"


@dataclass(frozen=True)
class Artifact:
    """One file.

    Its name, SHA-256, bytes, seconds to build, the fingerprint of all that it was built from, its measured difference
    from PyTorch, where it could not be run the reason, and how attention is written for runtimes without its plugin
    (empty in graphs that have none).
    """

    file: str
    sha256: str
    size: int
    seconds: float
    built_from: str
    difference: dict[str, float] = field(default_factory=dict)
    not_run: str = ""
    body: str = ""


@dataclass(frozen=True)
class Manifest:
    """What was built from what.

    `size`: the fixed network size, or None; `weights`: SHA-256 by file name; `gpu`: where engines were built, or None;
    `specs`: inputs and outputs of each graph, as `describe_graph` returns them; `graphs`: artifacts of each graph by
    `artifact_key`; `request`: fingerprint of the last finished command.
    """

    preset: str
    size: tuple[int, int] | None
    weights: dict[str, str]
    seed: int | None
    versions: dict[str, str]
    gpu: str | None
    specs: dict[str, dict[str, list[dict[str, Any]]]]
    graphs: dict[str, dict[str, Artifact]]
    request: str = ""

    def write(self, folder: Path) -> None:
        """Write `manifest.json` under a temporary name, then rename."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_json(folder / MANIFEST, content)

    def graph_specs(self) -> "dict[str, GraphSpec]":
        """The specification of each graph."""
        from ovavss.models.graphs import read_graph

        return {name: read_graph(name, content) for name, content in self.specs.items()}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an engines folder; UserError where there is none, or it is not ours."""
    how = "build it with: python export/build_engines.py --preset PRESET --out " + str(folder)
    if not folder.is_dir():
        raise UserError(f"there is no engines folder {folder}; {how}")
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder} is not an engines folder, it has no {MANIFEST}; {how}")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION) or content["preset"] not in ALL_PRESETS:
            raise ValueError
        graphs = {
            name: {key: Artifact(**artifact) for key, artifact in artifacts.items()}
            for name, artifacts in content.pop("graphs").items()
        }
        size = content.pop("size")
        manifest = Manifest(**content, graphs=graphs, size=tuple(size) if size else None)
        tensors = [t for graph in manifest.specs.values() for side in ("inputs", "outputs") for t in graph[side]]
        if any(tensor.keys() != {"name", "dtype", "shape"} for tensor in tensors):
            raise ValueError
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of this version; {how}") from error


def checked_artifact(
    folder: Path, manifest: Manifest, graph: str, artifact_format: Format, precision: Precision
) -> Path:
    """The file of one artifact; UserError where it is missing or is not the file that the manifest describes."""
    artifact = manifest.graphs.get(graph, {}).get(artifact_key(artifact_format, graph_precision(graph, precision)))
    path = folder / (artifact.file if artifact else artifact_file(graph, artifact_format, precision))
    if artifact is None or not path.exists():
        wanted = f"--formats {artifact_format} --precision {precision}"
        raise UserError(f"{folder} lacks the graph '{graph}' ({path.name}); build the folder again with {wanted}")
    if sha256(path) != artifact.sha256:
        raise UserError(f"{path} is not the file that was built (its SHA-256 differs from {MANIFEST}); build it again")
    return path


def open_engines(
    folder: Path, artifact_format: Format = Format.ONNX, precision: Precision = Precision.FP32, openvino: bool = False
) -> "tuple[Preset, dict[str, Runner]]":
    """The runners of an engines folder of OV-AVSS; see `open_any_engines`.

    Raises UserError also where the folder holds another system's graphs.
    """
    preset, runners = open_any_engines(folder, artifact_format, precision, openvino)
    if not isinstance(preset, Preset):
        raise UserError(f"{folder} holds preset '{preset.name}', which only `ovavss segment` runs; give another folder")
    return preset, runners


def open_any_engines(
    folder: Path, artifact_format: Format = Format.ONNX, precision: Precision = Precision.FP32, openvino: bool = False
) -> "tuple[AnyPreset, dict[str, Runner]]":
    """Opens the runners of an engines folder, in one format and precision.

    Args:
        folder: Written by `ovavss export`.
        artifact_format: Which of its files.
        precision: Which of these.
        openvino: Run ONNX files in OpenVINO in place of ONNX Runtime.

    Raises:
        UserError: A graph is missing or is not the file that the manifest describes, or the runtime or its hardware is
            missing.
    """
    manifest = read_manifest(folder)
    runners = {}
    for name, spec in manifest.graph_specs().items():
        path = checked_artifact(folder, manifest, name, artifact_format, precision)
        runners[name] = open_artifact(spec, path, artifact_format, openvino)
    return find_preset(manifest.preset), runners


def open_artifact(spec: "GraphSpec", path: Path, artifact_format: Format, openvino: bool = False) -> "Runner":
    """One file in the runtime of its format; ONNX files in OpenVINO if asked."""
    if artifact_format is Format.ONNX and openvino:
        from ovavss.runtime.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(spec, path)
    if artifact_format is Format.ONNX:
        from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner

        return OnnxRuntimeRunner(spec, path)
    if artifact_format is Format.TORCHSCRIPT:
        from ovavss.runtime.torchscript_runner import TorchScriptRunner

        return TorchScriptRunner(spec, path)
    from ovavss.runtime.tensorrt_runner import TensorRTRunner

    return TensorRTRunner(spec, path, rtx=artifact_format is Format.TENSORRT_RTX)


def torch_runners(models: "Models", names: Iterable[str] | None = None) -> "dict[str, Runner]":
    """PyTorch runners of a model."""
    from ovavss.models.ov_avss.graphs import graph_modules, graph_specs
    from ovavss.runtime.torch_runner import TorchRunner

    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: TorchRunner(specs[name], modules[name]) for name in names or GRAPHS}
