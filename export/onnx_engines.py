"""The ONNX form of all graphs of a model: exported, checked in ONNX Runtime, listed in a manifest."""

import gc
import time
from importlib.metadata import version
from pathlib import Path

from onnx_export import export_graph
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from verify import VerificationError, compare, example_inputs

from ovavss.model.graphs import GRAPHS, graph_modules, graph_specs
from ovavss.runtime.engines import MANIFEST, Artifact, Manifest, sha256
from ovavss.runtime.runner import OnnxRuntimeRunner, TorchRunner
from ovavss.runtime.weights import LoadedModels

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "open_clip_torch")
# Any size serves for tracing; a small one is quick.
_TRACED = (96, 128)


def build_onnx(
    loaded: LoadedModels, out: Path, size: tuple[int, int] | None, frame_size: tuple[int, int], seed: int
) -> Manifest:
    """Export and check every graph; print a table. VerificationError removes the file that failed."""
    preset = loaded.models.preset
    specs, modules = graph_specs(preset, size), graph_modules(loaded.models, size)
    artifacts: dict[str, Artifact] = {}
    table = Table(title=f"{preset.name}: ONNX in {out}")
    for column in ("graph", "file", "size", "difference from PyTorch", "seconds"):
        table.add_column(column, justify="right" if column in ("size", "seconds") else "left")
    # A manifest must not outlive what it describes.
    (out / MANIFEST).unlink(missing_ok=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as progress:
        task = progress.add_task("")
        for name in GRAPHS:
            start = time.perf_counter()
            path = out / f"{name}.onnx"
            progress.update(task, description=f"exporting {name}")
            export_graph(specs[name], modules[name], example_inputs(name, preset, size or _TRACED), path)
            gc.collect()  # the exporter's copies of the weights
            progress.update(task, description=f"comparing {name} with PyTorch")
            runner = OnnxRuntimeRunner(specs[name], path, providers=["CPUExecutionProvider"])
            inputs = example_inputs(name, preset, frame_size, batch=1 if name == "usslm" else 2)
            try:
                comparison = compare(specs[name], TorchRunner(specs[name], modules[name]), runner, inputs)
            except VerificationError:
                path.unlink()
                raise
            del runner
            seconds = time.perf_counter() - start
            artifacts[name] = Artifact(
                path.name, sha256(path), path.stat().st_size, round(seconds, 1), comparison.differences
            )
            table.add_row(
                name, path.name, f"{path.stat().st_size / 2**20:.1f} MiB", comparison.headline, f"{seconds:.1f}"
            )
    manifest = Manifest(
        preset=preset.name,
        size=size,
        weights={path.name: sha256(path) for path in loaded.files},
        seed=None if loaded.files else seed,
        versions={package: version(package) for package in PACKAGES},
        graphs=artifacts,
    )
    manifest.write(out)
    Console().print(table)
    return manifest
