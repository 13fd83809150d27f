"""All artifacts of a model: built, compared with PyTorch, listed in a manifest; what is there already is kept."""

import gc
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from first_difference import first_difference
from onnx_export import export_graph, write_model
from ovavss.errors import UserError
from ovavss.model.graph_names import GRAPHS
from ovavss.model.graphs import USSLM_GRAPH, GraphSpec, graph_modules, graph_specs
from ovavss.model.presets import Preset
from ovavss.runtime.engines import (
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
from ovavss.runtime.runner import Arrays, TorchRunner
from ovavss.runtime.weights import LoadedModels
from ovavss.runtime.write import remove_leftovers
from precision import to_half
from request import PLANS, Request, fingerprint, package_versions, sources_fingerprint
from tensorrt_build import build_plan
from torchscript import export_torchscript
from verify import RELATIVE, Comparison, VerificationError, compare, example_inputs

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

    def __init__(self, loaded: LoadedModels, out: Path, request: Request, seed: int) -> None:
        self.loaded, self.out, self.request, self.sources = loaded, out, request, sources_fingerprint()
        self.preset: Preset = loaded.models.preset
        self.console = Console()
        self.refused: dict[tuple[Format, Precision], str] = {}
        self.models: dict[Precision, onnx.ModelProto] = {}
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self.manifest = Manifest(
            preset=self.preset.name,
            size=request.size,
            weights={path.name: sha256(path) for path in loaded.files},
            seed=None if loaded.files else seed,
            body=request.body.value,
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
        table = Table(title=f"{self.preset.name} in {self.out}")
        for column in ("artifact", "size", "difference from PyTorch", "seconds"):
            table.add_column(column, justify="right" if column in ("size", "seconds") else "left")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
            task = progress.add_task("")
            for name in GRAPHS:
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
        for form, precision in self.request.targets():
            if (form, precision) in self.refused:
                continue
            key = artifact_key(form, precision)
            plan = asdict(self.request.plan) if form in PLANS else None
            built_from = fingerprint(
                state, self.sources, self.manifest.versions, key, self.request.size, self.request.body, plan,
                self.manifest.gpu if form is Format.TENSORRT else None,
            )  # fmt: skip
            artifact = self._usable(spec.name, key, built_from)
            seconds = "kept"
            if artifact is None:
                start = time.perf_counter()
                tell(f"building {key} of {spec.name}")
                try:
                    artifact = self._build(spec, reference, form, precision, built_from, tell)
                except UserError as error:
                    if form not in PLANS or isinstance(error, VerificationError):
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
            self._write_onnx(spec, reference.module, precision, path)
        elif form is Format.TORCHSCRIPT:
            inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
            export_torchscript(spec, reference.module, inputs, path)
        else:
            source = self.out / artifact_file(spec.name, Format.ONNX, precision)
            build_plan(spec, source, path, self.request.plan, rtx=form is Format.TENSORRT_RTX)
        tell(f"comparing {path.name} with PyTorch")
        comparison, not_run = self._verify(spec, reference, form, precision, path)
        differences = comparison.differences if comparison else {}
        return Artifact(path.name, sha256(path), path.stat().st_size, 0.0, built_from, differences, not_run)

    def _write_onnx(self, spec: GraphSpec, module: nn.Module, precision: Precision, path: Path) -> None:
        if Precision.FP32 not in self.models:
            inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
            self.models[Precision.FP32] = export_graph(spec, module, inputs, self.request.body)
        model = self.models[Precision.FP32]
        written = onnx.ModelProto()
        written.CopyFrom(model if precision is Precision.FP32 else to_half(model, precision))
        write_model(written, path)

    def _verify(
        self, spec: GraphSpec, reference: _Reference, form: Format, precision: Precision, path: Path
    ) -> tuple[Comparison | None, str]:
        """The comparison, or why there is none; a file that fails it is removed."""
        try:
            runner = open_artifact(spec, path, form)
        except UserError as error:
            if (form is Format.ONNX and precision is not Precision.BF16) or form is Format.TORCHSCRIPT:
                path.unlink()
                raise
            return None, "not run: " + ("no GPU here" if form in PLANS else _short(str(error)))
        size = self.request.verify_size or self.request.size
        size = size or (self.preset.short_side, self.preset.short_side * 4 // 3)
        inputs = example_inputs(spec.name, self.preset, size, batch=1 if spec.name == USSLM_GRAPH else 2)
        try:
            return compare(spec, reference, runner, inputs, precision), ""
        except VerificationError as error:
            where = self._where(spec, reference, precision, path) if form is Format.ONNX else ""
            path.unlink()
            raise VerificationError(f"{error}{where}; the file was removed") from None

    def _where(self, spec: GraphSpec, reference: _Reference, precision: Precision, path: Path) -> str:
        """Which layer differs first, as part of a sentence."""
        inputs = example_inputs(spec.name, self.preset, self.request.size or _TRACED)
        bound = spec.tolerance * RELATIVE[precision]
        found = first_difference(spec, reference.module, self.models[Precision.FP32], path, inputs, bound)
        return f"; the first layer that differs is '{found.module}', by {found.error:.1e}" if found else ""


def _short(text: str) -> str:
    return "no bfloat16 kernels" if "bfloat16" in text or "NOT_IMPLEMENTED" in text else text[:80]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _difference(artifact: Artifact) -> str:
    values = artifact.difference
    if not values:
        return f"[dim]{artifact.not_run}[/dim]"
    if "sign_flips" in values:
        return f"mean {values['mask_logits_mean']:.1e}, signs {values['sign_flips']:.0e}"
    return f"{max(values.values()):.1e}"
