"""All artifacts of a model: built, compared with PyTorch, listed in a manifest; those that are up to date are kept."""

import gc
import hashlib
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ovavss.checkpoints.loaded import LoadedModels
from ovavss.errors import UserError
from ovavss.export.build_report import BuildReport
from ovavss.export.build_spec import PLANS, BuildSpec, fingerprint, package_versions, sources_fingerprint
from ovavss.export.calibration import calibration_crops
from ovavss.export.graph_builder import GraphBuilder
from ovavss.export.quantization import QuantizerError
from ovavss.export.verify import VerificationError
from ovavss.files import remove_leftovers, sha256
from ovavss.models.graphs import describe_graph
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.systems import graph_modules, graph_specs
from ovavss.runtime.engines import QUANTIZED, Artifact, Format, Manifest, Precision, artifact_key, read_manifest
from ovavss.runtime.torch_runner import TorchRunner


class Builder:
    """Brings an output folder up to date.

    Args:
        loaded: The model and the files that it came from.
        out: The folder.
        request: What to build.
        seed: The seed of weights that came from no file.

    Attributes:
        refused: The formats and precisions that this machine cannot build, each with the reason.
    """

    def __init__(self, loaded: "LoadedModels[Any]", out: Path, request: BuildSpec, seed: int) -> None:
        self.out, self.request, self.preset = out, request, loaded.models.preset
        self.specs = graph_specs(self.preset, request.size)
        self.modules = graph_modules(loaded.models, request.size)
        self.sources = sources_fingerprint()
        self.refused: dict[tuple[Format, Precision], str] = {}
        self.manifest = Manifest(
            preset=self.preset.name,
            size=request.size,
            weights={path.name: sha256(path) for path in loaded.files},
            seed=None if loaded.files else seed,
            versions=package_versions(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            specs={name: describe_graph(spec) for name, spec in self.specs.items()},
            graphs=self._earlier_artifacts(),
        )

    def _earlier_artifacts(self) -> dict[str, dict[str, Artifact]]:
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
        with BuildReport(f"{self.preset.name} in {self.out}") as report:
            for name, spec in self.specs.items():
                crops = lambda: self.calibration_crops  # noqa: E731  found only if some graph is quantized
                builder = GraphBuilder(spec, self.modules[name], self.preset, self.request, self.out, crops, report.say)
                self._build_graph(builder, report)
                del builder
                gc.collect()  # the exporter's copies of the weights
        if not self.refused:
            self.manifest = replace(self.manifest, request=request_key)
            self.manifest.write(self.out)
        report.print(self.refused)
        return self.manifest

    def _build_graph(self, builder: GraphBuilder, report: BuildReport) -> None:
        graph, state = builder.spec.name, state_fingerprint(builder.module)
        for target in self.request.targets(graph):
            if why := self.refused.get((Format.ONNX, target[1])) or self.refused.get(target):
                self.refused[target] = why
                continue
            built_from = self._fingerprint(state, *target)
            artifact = self._up_to_date(graph, *target, built_from)
            kept = artifact is not None and builder.has_layers(*target, artifact)
            if artifact is None or not kept:
                try:
                    artifact = replace(builder.build(*target), built_from=built_from)
                except UserError as error:
                    if not self._may_refuse(target[0], error):
                        raise
                    self.refused[target] = str(error)
                    continue
                self._record(graph, artifact_key(*target), artifact)
            report.add(artifact, kept)

    @staticmethod
    def _may_refuse(artifact_format: Format, error: UserError) -> bool:
        """Whether the other artifacts are built all the same: what is missing is a library or a GPU."""
        return isinstance(error, QuantizerError) or (
            artifact_format in PLANS and not isinstance(error, VerificationError)
        )

    def _fingerprint(self, state: str, artifact_format: Format, precision: Precision) -> str:
        """Of all that an artifact follows from; `state` is the fingerprint of the weights."""
        # What INT8 and FP8 are calibrated on: files, or the synthetic world's crops, which these weights find.
        calibration = [*map(sha256, self.request.calibration), self.manifest.weights, self.manifest.seed]
        return fingerprint(
            state,
            self.sources,
            self.manifest.versions,
            artifact_key(artifact_format, precision),
            self.request.size,
            self.request.body_of(artifact_format),
            asdict(self.request.plan) if artifact_format in PLANS else None,
            self.manifest.gpu if artifact_format is Format.TENSORRT else None,
            calibration if precision in QUANTIZED else None,
        )

    def _up_to_date(
        self, graph: str, artifact_format: Format, precision: Precision, built_from: str
    ) -> Artifact | None:
        artifact = self.manifest.graphs.get(graph, {}).get(artifact_key(artifact_format, precision))
        if artifact is None or artifact.built_from != built_from:
            return None
        path = self.out / artifact.file
        return artifact if path.exists() and sha256(path) == artifact.sha256 else None

    def _record(self, graph: str, key: str, artifact: Artifact) -> None:
        artifacts = {**self.manifest.graphs.get(graph, {}), key: artifact}
        self.manifest = replace(self.manifest, graphs={**self.manifest.graphs, graph: artifacts}, request="")
        self.manifest.write(self.out)

    @cached_property
    def calibration_crops(self) -> np.ndarray:
        """What CLIP sees of the calibration's videos."""
        assert isinstance(self.preset, Preset)  # the command refuses INT8 and FP8 of OpenAVS
        runners = {name: TorchRunner(self.specs[name], self.modules[name]) for name in (AUDIO_ENCODER, USSLM_GRAPH)}
        return calibration_crops(self.preset, self.request.calibration, runners)


def state_fingerprint(module: nn.Module) -> str:
    """Of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
