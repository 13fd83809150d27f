"""What the user asked to build, and fingerprints of all that it follows from. Imports nothing heavy: a second run that
has nothing to do should say so at once."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovavss.errors import UserError
from ovavss.onnx_op import Body
from ovavss.runtime.engines import Format, Precision, sha256

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "open_clip_torch")
PLANS = (Format.TENSORRT, Format.TENSORRT_RTX)
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_LIBRARIES = ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx-cu13-bindings")


@dataclass(frozen=True)
class PlanOptions:
    """compute_capabilities: GPUs that a TensorRT-RTX plan is built for (each finishes it as it loads). plugin: our
    plugin library, for TensorRT. timing_cache: a file that is read and written. version_compatible: the plan loads in
    later TensorRT versions. hardware_compatible: it runs on GPUs from Ampere on."""

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


@dataclass(frozen=True)
class Request:
    """What to build. `size`: fixed network size; `verify_size`: frame size of the comparison with PyTorch."""

    formats: tuple[Format, ...] = (Format.ONNX,)
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    size: tuple[int, int] | None = None
    verify_size: tuple[int, int] | None = None
    body: Body = Body.GRID_SAMPLE
    plan: PlanOptions = field(default_factory=PlanOptions)

    def targets(self) -> Iterator[tuple[Format, Precision]]:
        """Each format in each precision that it has; ONNX also where a plan is made from it."""
        for precision in self.precisions:
            if Format.ONNX in self.formats or any(form in self.formats for form in PLANS):
                yield Format.ONNX, precision
        if Format.TORCHSCRIPT in self.formats:
            yield Format.TORCHSCRIPT, Precision.FP32
        for form in PLANS:
            for precision in self.precisions:
                if form in self.formats:
                    yield form, precision


def fingerprint(*parts: object) -> str:
    """Of anything that JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Of what makes the artifacts, as far as it is installed."""
    found = {}
    for package in (*PACKAGES, *_LIBRARIES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def sources_fingerprint() -> str:
    """Of the code that the artifacts follow from."""
    root = Path(__file__).parents[1]
    package = root / "ovavss"
    files = sorted([*(root / "export").glob("*.py"), *(package / "model").glob("*.py"), package / "onnx_op.py"])
    return fingerprint([(path.name, sha256(path)) for path in files])


def request_fingerprint(preset: str, weights: Sequence[Path], seed: int, clip: str | None, request: Request) -> str:
    """Of a whole command: equal fingerprints, and intact artifacts, mean that there is nothing to do."""
    files = [*weights, *([Path(clip)] if clip and Path(clip).is_file() else [])]
    hashes = [sha256(path) for path in files]
    return fingerprint(preset, hashes, seed, clip, request.__dict__, package_versions(), sources_fingerprint())
