"""What the user asked to build, and fingerprints of all that it follows from.

Imports nothing heavy: a second run that has nothing to do should say so at once.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovavss.errors import UserError
from ovavss.files import sha256
from ovavss.msda.onnx_node import FallbackBody
from ovavss.runtime.engines import QUANTIZED, Format, Precision, graph_precision

PLANS = (Format.TENSORRT, Format.TENSORRT_RTX)
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_FIRST_WITH_FP8 = (8, 9)
_PACKAGES = (
    "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "open_clip_torch", "nvidia-modelopt",
    "tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx-cu13-bindings",
)  # fmt: skip


@dataclass(frozen=True)
class PlanOptions:
    """What only TensorRT's formats need.

    Attributes:
        compute_capabilities: GPUs that a TensorRT-RTX plan is built for; each finishes it as it loads.
        plugin: Our plugin library, for TensorRT.
        timing_cache: A file that is read and written.
        version_compatible: The plan loads in later TensorRT versions.
        hardware_compatible: It runs on GPUs from Ampere on.
    """

    compute_capabilities: tuple[str, ...] = ("8.6", "8.9", "12.0")
    plugin: Path | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False

    def check(self) -> None:
        """UserError where TensorRT-RTX has no such target, or a file is missing."""
        for capability in self.compute_capabilities:
            if capability not in COMPUTE_CAPABILITIES:
                known = ", ".join(COMPUTE_CAPABILITIES)
                raise UserError(f"--compute-capability {capability} is no target of TensorRT-RTX; choose of {known}")
        if self.plugin is not None and not self.plugin.is_file():
            raise UserError(f"there is no plugin library {self.plugin}; build it with: make plugins")

    def of(self, precision: Precision) -> "PlanOptions":
        """With the GPUs alone that have the type. UserError where there is none."""
        if precision is not Precision.FP8:
            return self
        able = tuple(c for c in self.compute_capabilities if tuple(map(int, c.split("."))) >= _FIRST_WITH_FP8)
        if not able:
            raise UserError("FP8 needs GPUs of compute capability 8.9 or later; give one with --compute-capability")
        return replace(self, compute_capabilities=able)


@dataclass(frozen=True)
class BuildSpec:
    """What to build.

    `size`: fixed network size; `verify_size`: frame size of the comparison with PyTorch; `body`: how attention is
    written for runtimes without its plugin, by default as `body_of` says; `calibration`: files of what INT8 and FP8 are
    calibrated on. `layers`: write how far each layer of an ONNX file is from PyTorch.
    """

    formats: tuple[Format, ...] = (Format.ONNX,)
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    size: tuple[int, int] | None = None
    verify_size: tuple[int, int] | None = None
    body: FallbackBody | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)
    calibration: tuple[Path, ...] = ()
    layers: bool = False

    def body_of(self, artifact_format: Format) -> FallbackBody:
        """How attention is written.

        With GridSample, the fastest on CPUs, in ONNX files; with Gather in engines that do not take the plugin, as some
        versions of TensorRT are reported to compute GridSample wrongly.
        """
        without_plugin = artifact_format is Format.TENSORRT_RTX or (
            artifact_format is Format.TENSORRT and self.plan.plugin is None
        )
        return self.body or (FallbackBody.GATHER if without_plugin else FallbackBody.GRID_SAMPLE)

    def quantized(self) -> bool:
        """Whether INT8 or FP8 is asked for, in a format that has it."""
        return self.formats != (Format.TORCHSCRIPT,) and any(precision in QUANTIZED for precision in self.precisions)

    def targets(self, graph: str) -> Iterator[tuple[Format, Precision]]:
        """Each format of a graph in each precision that it has; ONNX also where a plan is made from it."""
        precisions = tuple(dict.fromkeys(graph_precision(graph, precision) for precision in self.precisions))
        for precision in precisions:
            if Format.ONNX in self.formats or any(artifact_format in self.formats for artifact_format in PLANS):
                yield Format.ONNX, precision
        if Format.TORCHSCRIPT in self.formats:
            yield Format.TORCHSCRIPT, Precision.FP32
        for artifact_format in PLANS:
            for precision in precisions:
                if artifact_format in self.formats:
                    yield artifact_format, precision


def fingerprint(*parts: object) -> str:
    """Of anything that JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Of what makes the artifacts, as far as it is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def sources_fingerprint() -> str:
    """Of the code that the artifacts follow from."""
    package = Path(__file__).parents[1]
    files = sorted(
        path
        for room in ("export", "models/ov_avss", "models/open_avs", "msda")
        for path in (package / room).glob("*.py*")
    )
    return fingerprint([(path.name, sha256(path)) for path in files])


def request_fingerprint(preset: str, weights: Sequence[Path], seed: int, clip: str | None, request: BuildSpec) -> str:
    """Of a whole command: equal fingerprints, and is_up_to_date artifacts, mean that there is nothing to do."""
    files = [*weights, *([Path(clip)] if clip and Path(clip).is_file() else []), *request.calibration]
    hashes = [sha256(path) for path in files]
    return fingerprint(preset, hashes, seed, clip, request.__dict__, package_versions(), sources_fingerprint())
