"""Building again, building what changed, builds that end badly, and engines of TensorRT-RTX and TensorRT."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ovavss.checkpoints.shipped import shipped_weights
from ovavss.commands import export as build_engines
from ovavss.errors import UserError
from ovavss.export.build_spec import BuildSpec, PlanOptions
from ovavss.export.tensorrt_build import build_plan, model_content
from ovavss.files import sha256
from ovavss.models.ov_avss.graphs import graph_specs
from ovavss.models.ov_avss.presets import GRAPHS, PRESETS
from ovavss.msda.onnx_node import FallbackBody, add_bodies
from ovavss.runtime import tensorrt_library
from ovavss.runtime.engines import QUANTIZED, Format, Precision, open_engines, read_manifest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "export" / "build_engines.py"), "--preset", "tiny"]
AS_BUILT = ["--formats", "onnx,torchscript", "--precision", "fp32,fp16", "--layers"]
FLOATS = [precision for precision in Precision if precision not in QUANTIZED]
app = typer.Typer()
app.command()(build_engines.export)


def run(*arguments: str, code: int = 0) -> str:
    """What the command prints, on either stream."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def refused(*arguments: str) -> str:
    """The one sentence with which the command ends, in this process."""
    result = CliRunner().invoke(app, ["--preset", "tiny", *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def copy(tiny_engines: Path, tmp_path: Path) -> Path:
    """Engines that a test may spoil."""
    # `serve` is what a test of the examples leaves there.
    return Path(shutil.copytree(tiny_engines, tmp_path / "engines", ignore=shutil.ignore_patterns("serve")))


def test_a_second_run_does_nothing(tiny_engines: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_engines.iterdir()}
    assert "is up to date: nothing to build" in run("--out", str(tiny_engines), *AS_BUILT)
    assert {path: path.stat().st_mtime_ns for path in tiny_engines.iterdir()} == before


@pytest.mark.slow
def test_a_changed_weight_rebuilds_its_graph_alone(copy: Path, tmp_path: Path) -> None:
    shipped = shipped_weights("tiny")
    assert shipped is not None
    weights = load_file(shipped)
    name = next(n for n in weights if n.startswith("audio_encoder.") and n.endswith("weight"))
    weights[name] = weights[name] * 1.5
    save_file(weights, tmp_path / "changed.safetensors", {"preset": "tiny"})
    before = {path.name: sha256(path) for path in copy.iterdir()}
    printed = run("--out", str(copy), *AS_BUILT, "--weights", str(tmp_path / "changed.safetensors"))
    changed = {name for name, was in before.items() if sha256(copy / name) != was}
    assert changed == {
        "manifest.json", "audio_encoder.onnx", "audio_encoder.fp16.onnx", "audio_encoder.torchscript.pt",
        "audio_encoder.layers.json", "audio_encoder.fp16.layers.json",
    }  # fmt: skip
    assert printed.count("kept") == 9
    assert read_manifest(copy).weights == {"changed.safetensors": sha256(tmp_path / "changed.safetensors")}


def test_a_lost_artifact_is_built_again_and_leftovers_go(copy: Path) -> None:
    (copy / "clip_image_encoder.onnx").write_bytes(b"half of a file")
    (copy / ".usslm.onnx.partial-999999999").write_bytes(b"left by a killed build")
    printed = run("--out", str(copy), *AS_BUILT)
    assert printed.count("kept") == 11
    assert not list(copy.glob(".*"))
    open_engines(copy)


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_broken(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([*COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # into the export of the next graph
    process.send_signal(signal.SIGKILL)
    process.wait()
    manifest = read_manifest(out)
    assert "audio_encoder" in manifest.graphs and "clip_text_encoder" not in manifest.graphs and not manifest.request
    for artifacts in manifest.graphs.values():
        for artifact in artifacts.values():
            assert sha256(out / artifact.file) == artifact.sha256
    with pytest.raises(UserError, match="lacks the graph"):
        open_engines(out)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        printed = run("--out", str(disk / "out"), code=2)
        assert "the disk is full:" in printed and "free some space and run the command again" in printed
        assert [path.name for path in (disk / "out").iterdir()] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_bad_choices(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert "--formats 'openvino' is unknown; choose of onnx,torchscript" in refused(*out, "--formats", "onnx,openvino")
    assert "--precision 'int4' is unknown; choose of fp32,fp16,bf16" in refused(*out, "--precision", "int4")
    assert "--compute-capability 9.9 is no target" in refused(*out, "--compute-capability", "8.6,9.9")
    assert "there is no plugin library" in refused(*out, "--plugin", str(tmp_path / "none.so"))
    assert not (tmp_path / "out").exists()


def test_engines_of_another_preset_or_format(copy: Path) -> None:
    with pytest.raises(UserError, match=r"lacks the graph 'audio_encoder' \(audio_encoder\.plan\); build the folder"):
        open_engines(copy, Format.TENSORRT)
    content = json.loads((copy / "manifest.json").read_text())
    content["specs"]["usslm"]["outputs"][1]["shape"] = ["clips", 100]
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is not 'usslm' of this preset"):
        open_engines(copy)


def test_a_plan_is_hashed_before_it_is_loaded(copy: Path) -> None:
    content = json.loads((copy / "manifest.json").read_text())
    for name in GRAPHS:
        (copy / f"{name}.plan").write_bytes(b"an engine file is code")
        content["graphs"][name]["tensorrt"] = content["graphs"][name]["onnx"] | {"file": f"{name}.plan"}
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not the file that was built"):
        open_engines(copy, Format.TENSORRT)


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv(tensorrt_library.LIBRARIES, raising=False)


def test_missing_tensorrt_is_told_and_the_rest_is_built(copy: Path, no_tensorrt: None) -> None:
    result = CliRunner().invoke(
        app, ["--preset", "tiny", "--out", str(copy), "--formats", "onnx,tensorrt", "--precision", "fp32,fp16"]
    )
    assert result.exit_code == 3, result.output
    assert (
        "tensorrt, tensorrt-fp16 not built: TensorRT is not installed: pip install 'ovavss[tensorrt]'" in result.output
    )
    open_engines(copy, precision=Precision.FP16)
    with pytest.raises(UserError, match="lacks the graph"):
        open_engines(copy, Format.TENSORRT)


def test_tensorrt_libraries_in_a_wrong_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(tensorrt_library.LIBRARIES, str(tmp_path / "none"))
    with pytest.raises(UserError, match="which is no folder; give the one with libnvinfer"):
        tensorrt_library.tensorrt()


def rtx_missing() -> str:
    try:
        tensorrt_library.tensorrt_rtx()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(rtx_missing()), reason="TensorRT-RTX is not installed: pip install 'ovavss[rtx]'")
class TestTensorRTRTX:
    """The real parser and builder, with no GPU."""

    @pytest.mark.parametrize("graph", [name for name in GRAPHS if name != "usslm"])
    def test_small_graphs(self, tiny_engines: Path, tmp_path: Path, graph: str) -> None:
        for middle in ("", ".fp16"):
            plan, options = tmp_path / f"{graph}{middle}.plan", PlanOptions(("8.6",))
            spec = graph_specs(PRESETS["tiny"])[graph]
            build_plan(spec, tiny_engines / f"{graph}{middle}.onnx", plan, options, rtx=True)
            assert plan.stat().st_size > 100_000
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("body", list(FallbackBody))
    @pytest.mark.parametrize("precision", FLOATS)
    def test_localizer_through_both_bodies(
        self,
        localizers: dict[tuple[FallbackBody, Precision], Path],
        tmp_path: Path,
        body: FallbackBody,
        precision: Precision,
    ) -> None:
        spec = graph_specs(PRESETS["tiny"])["usslm"]
        build_plan(spec, localizers[body, precision], tmp_path / "usslm.plan", PlanOptions(("8.9",)), True, body)
        assert (tmp_path / "usslm.plan").stat().st_size > 1_000_000

    def test_a_plan_needs_a_gpu_to_run(self, tiny_engines: Path, tmp_path: Path) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
        from ovavss.runtime.tensorrt_runner import TensorRTRunner

        with pytest.raises(UserError, match="needs an NVIDIA GPU, and this machine has none; use --runner onnxruntime"):
            TensorRTRunner(graph_specs(PRESETS["tiny"])["usslm"], tmp_path / "usslm.rtx.plan", rtx=True)

    def test_what_it_cannot_parse(self, tmp_path: Path) -> None:
        (tmp_path / "usslm.onnx").write_bytes(b"this is not ONNX")
        spec = graph_specs(PRESETS["tiny"])["usslm"]
        with pytest.raises(UserError, match=r"TensorRT-RTX .* cannot parse .*usslm\.onnx"):
            build_plan(spec, tmp_path / "usslm.onnx", tmp_path / "usslm.plan", PlanOptions(), rtx=True)
        assert not (tmp_path / "usslm.plan").exists()


@pytest.fixture(scope="session")
def localizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[FallbackBody, Precision], Path]:
    """The tiny localizer in ONNX: one export, each body in each precision."""
    from ovavss.checkpoints.weights import build_models
    from ovavss.export.onnx_export import export_graph, write_model
    from ovavss.export.precision import to_half
    from ovavss.export.verify import example_inputs
    from ovavss.models.ov_avss.graphs import graph_modules
    from ovavss.models.ov_avss.pixel_decoder import LEVELS

    folder, models = tmp_path_factory.mktemp("localizers"), build_models(PRESETS["tiny"])
    spec, module = graph_specs(models.preset)["usslm"], graph_modules(models)["usslm"]
    exported = export_graph(spec, module, example_inputs("usslm", models.preset, (96, 128)))
    paths = {}
    for body in FallbackBody:
        del exported.functions[:]
        add_bodies(exported, len(LEVELS), body)
        for precision in FLOATS:
            paths[body, precision] = folder / f"{body}.{precision}.onnx"
            half = precision is not Precision.FP32
            model = to_half(exported, precision, spec.float32_modules) if half else exported
            write_model(model, paths[body, precision])
    return paths


def test_engines_without_the_plugin_sample_by_gather(
    localizers: dict[tuple[FallbackBody, Precision], Path], tmp_path: Path
) -> None:
    plugin = PlanOptions(plugin=tmp_path / "plugin.so")
    chosen = {form: (BuildSpec().body_of(form), BuildSpec(plan=plugin).body_of(form)) for form in Format}
    assert chosen[Format.TENSORRT_RTX] == (FallbackBody.GATHER, FallbackBody.GATHER)
    assert chosen[Format.TENSORRT] == (FallbackBody.GATHER, FallbackBody.GRID_SAMPLE)
    assert chosen[Format.ONNX] == (FallbackBody.GRID_SAMPLE, FallbackBody.GRID_SAMPLE)
    for precision in FLOATS:
        path = localizers[FallbackBody.GRID_SAMPLE, precision]
        assert b"GridSample" in model_content(path, FallbackBody.GRID_SAMPLE)
        content = model_content(path, FallbackBody.GATHER)
        assert b"GridSample" not in content
        onnx.checker.check_model(content)
