"""Writes a model repository for Triton: the template in triton_repo/, filled in for one preset, and the artifacts."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ovavss.errors import UserError
from ovavss.files import partial_path, remove_leftovers
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.audio_encoder import SAMPLE_RATE
from ovavss.models.ov_avss.presets import (
    AUDIO_ENCODER,
    CLIP_IMAGE_ENCODER,
    CLIP_TEXT_ENCODER,
    GRAPHS,
    PRESETS,
    USSLM_GRAPH,
)
from ovavss.models.ov_avss.prompts import TEMPLATES
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import Format, Manifest, Precision, artifact_file, checked_artifact, read_manifest
from ovavss.serving.targets import Target

ENSEMBLE = "ov_avss"
STEPS = ("check_request", "mask_crop", "open_vocabulary")
MODELS = (ENSEMBLE, *GRAPHS, *STEPS)
# Batches that the engines are built for (export/tensorrt_build.py).
CROP_BATCH, SENTENCE_BATCH = 500, 16 * len(TEMPLATES)

_PACKAGE = Path(__file__).parents[1]
_WARMUP: dict[str, dict[str, np.ndarray]] = {
    "check_request": {"sample_rate": np.array([SAMPLE_RATE], np.int32)},
    "mask_crop": {"image_size": np.array([96, 128], np.int64)},
}
_TYPES = {
    torch.float32: model_config_pb2.TYPE_FP32,
    torch.uint8: model_config_pb2.TYPE_UINT8,
    torch.int64: model_config_pb2.TYPE_INT64,
}


_FORMATS = {Target.TENSORRT: Format.TENSORRT, Target.ONNXRUNTIME: Format.ONNX}
_FILES = {Target.TENSORRT: "model.plan", Target.ONNXRUNTIME: "model.onnx", Target.PYTHON: "model.py"}


def template_folder() -> Path:
    """triton_repo/ of the checkout, or of the installed package."""
    checkout = _PACKAGE.parent / "triton_repo"
    return checkout if checkout.is_dir() else _PACKAGE / "triton_repo"


def write_repository(
    engines: Path,
    out: Path,
    target: Target = Target.PYTHON,
    precision: Precision = Precision.FP32,
    artifact_format: Format | None = None,
    operator: str | None = None,
) -> None:
    """Write the repository of an engines folder as `out`, whole or not at all; an earlier one there is replaced.

    `artifact_format`: for the Python target, which artifacts its runners load (default ONNX). `operator`: path of our
    ONNX Runtime operator on the server, for that target. Raises UserError where an artifact is missing, a configuration
    does not fit it, or `out` holds something else.
    """
    if artifact_format is not None and target in _FORMATS and artifact_format is not _FORMATS[target]:
        raise UserError(f"--target {target} serves {_FORMATS[target]} files; leave --format out")
    if operator is not None and target is not Target.ONNXRUNTIME:
        raise UserError(
            "--operator is for --target onnxruntime; TensorRT takes its plugin on the server's command line"
        )
    # What OnnxRuntimeRunner switches off for it, that server does not let us.
    if precision is Precision.FP8 and target is Target.ONNXRUNTIME:
        raise UserError("--target onnxruntime cannot load fp8; give --precision int8, or --target tensorrt or python")
    manifest, artifact_format = read_manifest(engines), _FORMATS.get(target, artifact_format or Format.ONNX)
    _check_place(out)
    partial = partial_path(out)
    try:
        remove_leftovers(out.parent, out.name)
        shutil.rmtree(partial, ignore_errors=True)
        for name in MODELS:
            artifact = checked_artifact(engines, manifest, name, artifact_format, precision) if name in GRAPHS else None
            file = artifact_file(name, artifact_format, precision) if target is Target.PYTHON else _FILES[target]
            values = _values(manifest, target, artifact_format, name, file, operator)
            _write_model(partial / name, target, values, artifact, file)
        check_repository(partial, manifest)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_place(out: Path) -> None:
    if out.exists() and not (out / ENSEMBLE / "config.pbtxt").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a repository of ours; give another --out")


def _write_model(folder: Path, target: Target, values: Mapping[str, object], artifact: Path | None, file: str) -> None:
    name, version = folder.name, folder / "1"
    template = template_folder() / name
    version.mkdir(parents=True)
    text = Template((template / "config.pbtxt").read_text()).substitute(values)
    (folder / "config.pbtxt").write_text(text)
    if artifact is not None:
        shutil.copyfile(artifact, version / file)
        if target is Target.PYTHON:
            shutil.copyfile(template_folder() / "graph_model.py", version / "model.py")
    elif name in STEPS:
        shutil.copyfile(template / "1" / "model.py", version / "model.py")
    for tensor, array in _WARMUP.get(name, {}).items():
        (folder / "warmup").mkdir(exist_ok=True)
        (folder / "warmup" / tensor).write_bytes(array.tobytes())


def _values(
    manifest: Manifest, target: Target, artifact_format: Format, name: str, file: str, operator: str | None
) -> dict[str, object]:
    """What the templates' `$names` stand for."""
    preset = PRESETS[manifest.preset]
    height, width = manifest.size or (-1, -1)
    mask_height, mask_width = (height // 4, width // 4) if manifest.size else (-1, -1)
    queries, snippets, clip = preset.mask_decoder.num_queries, preset.snippets, preset.clip
    values: dict[str, object] = {
        "preset": preset.name, "snippets": snippets, "samples": snippets * SAMPLE_RATE, "audio_dim": preset.audio_dim,
        "queries": queries, "height": height, "width": width, "mask_height": mask_height, "mask_width": mask_width,
        "crop_size": clip.image_size, "embed_dim": clip.embed_dim, "context_length": clip.context_length,
        "crop_batch": max(CROP_BATCH, queries * snippets), "sentences": SENTENCE_BATCH,
        "backend": target.value, "model_file": _FILES[target],
        "kind": "KIND_CPU" if target is Target.PYTHON and not torch.cuda.is_available() else "KIND_GPU",
        "graph_parameters": "",
    }  # fmt: skip
    if target is Target.PYTHON:
        # The dynamic batcher's batches in pieces of the local pipeline's size; 0: no batches.
        batch = {
            AUDIO_ENCODER: 8,
            USSLM_GRAPH: 0,
            CLIP_IMAGE_ENCODER: Options().clip_batch,
            CLIP_TEXT_ENCODER: SENTENCE_BATCH,
        }
        spec = json.dumps(manifest.specs[name]) if name in GRAPHS else ""
        chosen = {"spec": spec, "format": artifact_format.value, "artifact": file,
                  "batch": batch.get(name, 0), "FORCE_CPU_ONLY_INPUT_TENSORS": "no"}  # fmt: skip
        values["graph_parameters"] = "\n".join(
            f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(str(value))} }} }}'
            for key, value in chosen.items()
        )
    elif operator is not None and name == USSLM_GRAPH:
        values["graph_parameters"] = f'model_operations {{ op_library_filename: [ "{operator}" ] }}'
    return values


def read_config(path: Path) -> Any:
    """A config.pbtxt in Triton's own protobuf definition. UserError where it does not parse."""
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a model configuration ({error})") from error


def check_repository(folder: Path, manifest: Manifest) -> None:
    """Names, types and shapes of every configuration against the graphs' and between the ensemble's steps.

    Raises UserError at the first that does not fit.
    """
    configs = {name: read_config(folder / name / "config.pbtxt") for name in MODELS}
    for name, spec in manifest.graph_specs().items():
        _check_graph(configs[name], spec)
    ensemble = configs[ENSEMBLE]
    tensors = {tensor.name: _boundary(tensor, 0) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        inputs, outputs = ({t.name: t for t in side} for side in (config.input, config.output))
        if set(step.input_map) != set(inputs):
            raise UserError(
                f"step {step.model_name} of the ensemble is given {sorted(step.input_map)}, not {sorted(inputs)}"
            )
        for name, value in step.input_map.items():
            _check_fit(
                f"{value} into {step.model_name}.{name}", tensors[value], _boundary(inputs[name], config.max_batch_size)
            )
        tensors |= {value: _boundary(outputs[name], config.max_batch_size) for name, value in step.output_map.items()}
    for tensor in ensemble.output:
        _check_fit(f"output {tensor.name}", tensors[tensor.name], _boundary(tensor, 0))


Boundary = tuple[int, list[int]]


def _boundary(tensor: Any, max_batch_size: int) -> Boundary:
    """Type and shape of a tensor as the ensemble sees it."""
    return tensor.data_type, [-1] * (max_batch_size > 0) + list(tensor.dims)


def _check_fit(what: str, have: Boundary, want: Boundary) -> None:
    free = all(-1 in pair or pair[0] == pair[1] for pair in zip(have[1], want[1]))
    if have[0] != want[0] or len(have[1]) != len(want[1]) or not free:
        raise UserError(f"the configurations disagree about {what}: {have} is not {want}")


def _check_graph(config: Any, spec: GraphSpec) -> None:
    for tensors, specs in ((config.input, spec.inputs), (config.output, spec.outputs)):
        if [t.name for t in tensors] != [s.name for s in specs]:
            raise UserError(
                f"{config.name}: the configuration has {[t.name for t in tensors]}, not {[s.name for s in specs]}"
            )
        for tensor, wanted in zip(tensors, specs):
            shape = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
            have = tensor.data_type, [-1] * (config.max_batch_size > 0) + shape
            _check_fit(
                f"{config.name}.{tensor.name}",
                have,
                (_TYPES[wanted.dtype], [d if isinstance(d, int) else -1 for d in wanted.shape]),
            )
