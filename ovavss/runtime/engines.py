"""A folder of built artifacts: its manifest, and the runners that load it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ovavss.errors import UserError
from ovavss.model.graphs import GRAPHS, Models, graph_modules, graph_specs
from ovavss.model.presets import PRESETS, Preset
from ovavss.runtime.runner import OnnxRuntimeRunner, Runner, TorchRunner
from ovavss.runtime.write import write_json

MANIFEST = "manifest.json"
FORMAT, VERSION = "ovavss-engines", 1


@dataclass(frozen=True)
class Artifact:
    """One file: its name, SHA-256, bytes, seconds to build, and its measured difference from PyTorch."""

    file: str
    sha256: str
    size: int
    seconds: float
    difference: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What was built from what. `size`: the fixed network size, or None; `weights`: SHA-256 by file name."""

    preset: str
    size: tuple[int, int] | None
    weights: dict[str, str]
    seed: int | None
    versions: dict[str, str]
    graphs: dict[str, Artifact]

    def write(self, folder: Path) -> None:
        """Write `manifest.json` under a temporary name, then rename."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_json(folder / MANIFEST, content)


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION) or content["preset"] not in PRESETS:
            raise ValueError
        graphs = {name: Artifact(**artifact) for name, artifact in content.pop("graphs").items()}
        size = content.pop("size")
        return Manifest(**content, graphs=graphs, size=tuple(size) if size else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of this version; {how}") from error


def open_engines(folder: Path) -> tuple[Preset, dict[str, Runner]]:
    """The ONNX Runtime runners of an engines folder.

    Raises UserError where a graph is missing or is not the file that the manifest describes.
    """
    manifest = read_manifest(folder)
    specs = graph_specs(PRESETS[manifest.preset], manifest.size)
    runners: dict[str, Runner] = {}
    for name in GRAPHS:
        artifact = manifest.graphs.get(name)
        path = folder / (artifact.file if artifact else f"{name}.onnx")
        if artifact is None or not path.exists():
            raise UserError(f"{folder} lacks the graph '{name}' ({path.name}); build the folder again")
        if sha256(path) != artifact.sha256:
            raise UserError(
                f"{path} is not the file that was built (its SHA-256 differs from {MANIFEST}); build it again"
            )
        runners[name] = OnnxRuntimeRunner(specs[name], path)
    return PRESETS[manifest.preset], runners


def torch_runners(models: Models, names: Iterable[str] = GRAPHS) -> dict[str, Runner]:
    """PyTorch runners of a model."""
    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: TorchRunner(specs[name], modules[name]) for name in names}
