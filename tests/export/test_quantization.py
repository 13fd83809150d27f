"""INT8 and FP8 of the CLIP image encoder, by the real quantizer: Q/DQ that two runtimes take, near PyTorch; and what
cannot be calibrated or quantized, in one sentence each."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import media_files
import numpy as np
import onnx
import pytest
import torch
import typer
from onnx import TensorProto
from typer.testing import CliRunner

from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.commands import export as build_engines
from ovavss.datasets.sounding_shapes.disk import write_mp4
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import CATEGORIES, sample_scene
from ovavss.errors import UserError
from ovavss.export import quantization
from ovavss.export.build_spec import PlanOptions
from ovavss.export.calibration import CROPS, LEAST, calibrating, calibration_crops, held_out
from ovavss.export.tensorrt_build import build_plan
from ovavss.export.verify import COSINE_MEAN
from ovavss.files import sha256
from ovavss.models.ov_avss.graphs import graph_specs
from ovavss.models.ov_avss.presets import CLIP_IMAGE_ENCODER, GRAPHS, PRESETS
from ovavss.pipeline.pipeline import Pipeline
from ovavss.runtime import tensorrt_library
from ovavss.runtime.engines import QUANTIZED, Precision, open_engines, read_manifest, torch_runners
from ovavss.runtime.runner import Runner
from ovavss.serving.repository import write_repository
from ovavss.serving.targets import Target

ROOT = Path(__file__).parents[2]
TINY = PRESETS["tiny"]
STORED = {Precision.INT8: TensorProto.INT8, Precision.FP8: TensorProto.FLOAT8E4M3FN}
app = typer.Typer()
app.command()(build_engines.export)


def build(out: Path, *arguments: str, code: int = 0, preset: str = "tiny") -> str:
    """What the command prints on either stream; where it fails, its last line."""
    result = CliRunner().invoke(app, ["--preset", preset, "--out", str(out), *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1] if code == 2 else result.output


@pytest.fixture(scope="module")
def quantizer() -> None:
    """Skips where ModelOpt is neither installed nor to be fetched."""
    try:
        command = quantization.quantizer()
    except UserError as error:
        pytest.skip(str(error))
    if command[0] == sys.executable:
        return
    done = subprocess.run(
        [command[0], "sync", "--quiet", "--frozen", "--script", str(quantization.SCRIPT)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if "Failed to fetch" in done.stderr or "Failed to download" in done.stderr:
        pytest.skip("ModelOpt's packages cannot be fetched here; they come from PyPI")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def engines(quantizer: None, tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's engines, with INT8 and FP8."""
    out = Path(shutil.copytree(tiny_engines, tmp_path_factory.mktemp("quantized") / "tiny"))
    printed = build(out, "--precision", "fp16,int8,fp8")
    assert printed.count("kept") == 4 and "cosine" in printed
    return out


@pytest.fixture(scope="module")
def eager() -> dict[str, Runner]:
    return torch_runners(load_models(TINY, WeightsSource()).models)


@pytest.fixture(scope="module")
def crops(eager: dict[str, Runner]) -> np.ndarray:
    """What tiny calibrates on by itself."""
    return calibration_crops(TINY, (), eager)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_what_is_quantized(engines: Path, precision: Precision) -> None:
    model = onnx.load(engines / f"clip_image_encoder.{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    made = {output: node for node in model.graph.node for output in node.output}
    weights = {weight.name: weight for weight in model.graph.initializer}
    kinds = Counter(node.op_type for node in model.graph.node)
    sources = {node.name: [made[name].op_type for name in node.input[:2] if name in made] for node in model.graph.node}
    products = [node for node in model.graph.node if sources[node.name] == 2 * ["DequantizeLinear"]]
    products = [node for node in products if node.op_type in ("MatMul", "Gemm")]
    assert len(products) >= 12  # of three blocks: into and out of attention, and the two of the MLP
    for node in products:
        dequantize = made[node.input[1]]
        assert weights[dequantize.input[0]].data_type == STORED[precision]
        assert weights[dequantize.input[1]].data_type == TensorProto.FLOAT16
        assert made[made[node.input[0]].input[0]].op_type == "QuantizeLinear"
    assert kinds["QuantizeLinear"] >= len(products)
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    whole = engines / "clip_image_encoder.fp16.onnx"
    assert (engines / f"clip_image_encoder.{precision}.onnx").stat().st_size < 0.65 * whole.stat().st_size


def test_other_graphs_are_the_half_ones(engines: Path, tmp_path: Path) -> None:
    manifest = read_manifest(engines)
    for graph in GRAPHS:
        assert ("onnx-int8" in manifest.graphs[graph]) == ("onnx-fp8" in manifest.graphs[graph])
        assert ("onnx-int8" in manifest.graphs[graph]) == (graph == CLIP_IMAGE_ENCODER)
    assert sorted(p.name for p in (*engines.glob("*int8*"), *engines.glob("*fp8*"))) == [
        "clip_image_encoder.fp8.onnx", "clip_image_encoder.int8.onnx",
    ]  # fmt: skip
    write_repository(engines, tmp_path / "repository", Target.ONNXRUNTIME, Precision.INT8)
    for graph in GRAPHS:
        file = engines / f"{graph}.{'int8' if graph == CLIP_IMAGE_ENCODER else 'fp16'}.onnx"
        assert sha256(tmp_path / "repository" / graph / "1" / "model.onnx") == sha256(file)
    with pytest.raises(UserError, match="--target onnxruntime cannot load fp8; give --precision int8"):
        write_repository(engines, tmp_path / "repository", Target.ONNXRUNTIME, Precision.FP8)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_near_pytorch_on_what_it_never_saw(engines: Path, eager: dict[str, Runner], precision: Precision) -> None:
    """Label maps of whole clips, and the embeddings of their crops."""
    _, runners = open_engines(engines, precision=precision)
    _, halves = open_engines(engines, precision=Precision.FP16)
    clip = render(sample_scene(77, 3))
    seen: list[torch.Tensor] = []

    class Kept:
        def __call__(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(crops)
            return eager[CLIP_IMAGE_ENCODER](crops=crops)

    reference = Pipeline(TINY, {**eager, CLIP_IMAGE_ENCODER: Kept()})  # type: ignore[dict-item]
    vocabulary = reference.embed_names(CATEGORIES)
    expected = reference(clip.frames, clip.waveform, vocabulary).label_map
    found = Pipeline(TINY, runners)(clip.frames, clip.waveform, vocabulary).label_map
    assert (expected > 0).any() and (found == expected).float().mean() > 0.99

    def apart(some: dict[str, Runner]) -> float:
        vectors = [r[CLIP_IMAGE_ENCODER](crops=torch.cat(seen))["image_embeddings"].double() for r in (eager, some)]
        return float((1 - (vectors[0] * vectors[1]).sum(-1)).mean())

    assert 20 * apart(halves) < apart(runners) < 2e-3
    assert read_manifest(engines).graphs[CLIP_IMAGE_ENCODER][f"onnx-{precision}"].difference[COSINE_MEAN] < 2e-3


@pytest.mark.slow
def test_built_again_where_the_calibration_is_another(engines: Path, crops: np.ndarray, tmp_path: Path) -> None:
    out = Path(shutil.copytree(engines, tmp_path / "engines"))
    assert "is up to date: nothing to build" in build(out, "--precision", "fp16,int8,fp8")
    before = {path.name: sha256(path) for path in out.glob("*.onnx")}
    np.save(tmp_path / "crops.npy", 0.5 * crops)
    asked = ["--precision", "int8", "--calibration", str(tmp_path / "crops.npy")]
    assert build(out, *asked).count("kept") == 3
    changed = {name for name, was in before.items() if sha256(out / name) != was}
    assert changed == {"clip_image_encoder.int8.onnx"}
    assert "is up to date" in build(out, *asked)
    np.save(tmp_path / "crops.npy", 0.4 * crops)
    assert build(out, *asked).count("kept") == 3


def rtx_missing() -> bool:
    try:
        tensorrt_library.tensorrt_rtx()
    except UserError:
        return True
    return False


@pytest.mark.skipif(rtx_missing(), reason="TensorRT-RTX is not installed: pip install 'ovavss[rtx]'")
@pytest.mark.parametrize("precision", QUANTIZED)
def test_tensorrt_rtx_builds_it(engines: Path, tmp_path: Path, precision: Precision) -> None:
    spec, plan = graph_specs(TINY)[CLIP_IMAGE_ENCODER], tmp_path / "clip.plan"
    source = engines / f"clip_image_encoder.{precision}.onnx"
    build_plan(spec, source, plan, PlanOptions(("8.6", "8.9")).of(precision), rtx=True)
    assert plan.stat().st_size > 100_000


def test_fp8_needs_a_gpu_that_has_it() -> None:
    assert PlanOptions(("8.6", "8.9", "12.0")).of(Precision.FP8).compute_capabilities == ("8.9", "12.0")
    assert PlanOptions(("8.6", "12.0")).of(Precision.INT8).compute_capabilities == ("8.6", "12.0")
    with pytest.raises(UserError, match=r"FP8 needs GPUs of compute capability 8\.9 or later"):
        PlanOptions(("7.5", "8.6")).of(Precision.FP8)


def test_crops_of_videos_and_files_take_turns(eager: dict[str, Runner], crops: np.ndarray, tmp_path: Path) -> None:
    assert crops.shape[1:] == (3, 32, 32) and crops.dtype == np.float32 and 0.9 * CROPS < len(crops) <= CROPS
    assert len(held_out(crops)) == -(-len(crops) // 9) and len(calibrating(crops)) + len(held_out(crops)) == len(crops)
    video = write_mp4(sample_scene(77, 3), tmp_path / "clip.mp4", fps=25)
    np.save(tmp_path / "crops.npy", crops)
    few = calibration_crops(TINY, (video, tmp_path / "crops.npy"), eager)
    again = calibration_crops(TINY, (video, tmp_path / "crops.npy"), eager)
    assert np.array_equal(few, again) and len(few) == CROPS  # what the short video lacks is of the file
    of_file = (few[:, None] == crops[None]).all((2, 3, 4)).any(1)
    assert 0 < (~of_file).sum() <= CROPS // 2 and not of_file[0] and of_file[-1]


def test_what_cannot_be_calibrated_on(tiny_engines: Path, crops: np.ndarray, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_engines, tmp_path / "engines"))
    before = {path.name: sha256(path) for path in out.iterdir()}

    def refused(array: np.ndarray | None, name: str = "crops.npy") -> str:
        if array is not None:
            np.save(tmp_path / name, array)
        return build(out, "--precision", "int8", "--calibration", str(tmp_path / name), code=2)

    assert "there is no file" in refused(None, "none.mp4")
    assert "none.npy cannot be read (No such file or directory)" in refused(None, "none.npy")
    (tmp_path / "text.npy").write_text("no array")
    assert "text.npy cannot be read (it is not a .npy array)" in refused(None, "text.npy")
    silent = media_files.write(tmp_path / "silent.mp4", sounds=None)
    assert "silent.mp4 has no sound track; calibrate on videos with sound" in refused(None, silent.name)
    wrong = "not this preset's crops, float32 [n, 3, 32, 32]"
    assert f"holds float32 [{len(crops)}, 3, 16, 16], {wrong}" in refused(np.ascontiguousarray(crops[..., :16, :16]))
    assert f"holds float64 [{len(crops)}, 3, 32, 32], {wrong}" in refused(crops.astype(np.float64))
    spoiled = crops.copy()
    spoiled[7, 0, 3, 3] = np.nan
    assert "crops.npy holds values that are no pixels as CLIP normalizes them" in refused(spoiled)
    assert "are no pixels as CLIP normalizes them" in refused(100 * crops)
    assert f"--calibration gives 5 crops of the {LEAST} that are needed" in refused(crops[:5])
    message = build(tmp_path / "r50", "--precision", "fp8", code=2, preset="r50")
    assert "of preset 'r50' need --calibration: videos with sound" in message
    message = build(out, "--precision", "fp16", "--calibration", str(silent), code=2)
    assert "--calibration is for --precision int8 or fp8" in message
    assert {path.name: sha256(path) for path in out.glob("*.onnx")}.items() <= before.items()
    assert not (tmp_path / "r50").exists() and not list(out.glob("*int8*"))


@pytest.mark.slow
def test_a_missing_or_failing_quantizer(tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(tiny_engines, tmp_path / "engines"))
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    printed = build(out, "--precision", "fp16,int8", code=3)
    assert "onnx-int8 not built: INT8 and FP8 need uv (pip install uv), which fetches NVIDIA's ModelOpt" in printed
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho starting >&2\necho 'error: no route to the index' >&2\nexit 2\n")
    failing.chmod(0o755)
    monkeypatch.setenv("UV", str(failing))
    printed = build(out, "--precision", "fp16,int8", code=3)
    assert "onnx-int8 not built: ModelOpt did not quantize it: error: no route to the index" in printed
    assert not list(out.glob("*int8*")) and not list(out.glob(".*"))
    open_engines(out, precision=Precision.FP16)
    with pytest.raises(UserError, match=r"lacks the graph 'clip_image_encoder' \(clip_image_encoder\.int8\.onnx\)"):
        open_engines(out, precision=Precision.INT8)
