"""The ONNX graphs: built by one command, equal to PyTorch at sizes that were not traced; errors in one sentence."""

import json
import os
import re
import shutil
from pathlib import Path

import golden_model
import onnx
import onnxruntime
import pytest
import torch
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from ovavss.checkpoints.loader import save_checkpoint
from ovavss.checkpoints.weights import WeightsSource, build_models, load_models
from ovavss.commands import export as build_engines
from ovavss.errors import UserError
from ovavss.export import graph_builder
from ovavss.export.onnx_export import export_graph, write_model
from ovavss.export.verify import VerificationError, compare, example_inputs
from ovavss.files import sha256
from ovavss.models.ov_avss.graphs import UsslmGraph, graph_modules, graph_specs
from ovavss.models.ov_avss.presets import GRAPHS, PRESETS
from ovavss.runtime.engines import Precision, open_engines, read_manifest
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner
from ovavss.runtime.runner import Runner
from ovavss.runtime.torch_runner import TorchRunner

app = typer.Typer()
app.command()(build_engines.export)


def refused(*arguments: str) -> str:
    """The one sentence that the command prints."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in result.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def tiny() -> dict[str, Runner]:
    models = load_models(PRESETS["tiny"], WeightsSource()).models
    specs, modules = graph_specs(models.preset), graph_modules(models)
    return {name: TorchRunner(specs[name], modules[name]) for name in GRAPHS}


@pytest.mark.parametrize("option", ["--formats", "--precision"])
def test_every_one_of_a_repeated_option_counts(tmp_path: Path, option: str) -> None:
    valid = {"--formats": "onnx", "--precision": "fp32"}[option]
    for values in (("unheard", valid), (valid, "unheard")):
        given = [part for value in values for part in (option, value)]
        assert f"{option} 'unheard' is unknown" in refused("--preset", "tiny", "--out", str(tmp_path / "out"), *given)


def test_what_was_written(tiny_engines: Path) -> None:
    manifest = read_manifest(tiny_engines)
    assert set(manifest.graphs) == set(GRAPHS) and manifest.preset == "tiny" and manifest.request
    printed = (tiny_engines.parent / "printed.txt").read_text()
    for artifacts in manifest.graphs.values():
        for artifact in artifacts.values():
            path = tiny_engines / artifact.file
            assert sha256(path) == artifact.sha256 and path.stat().st_size == artifact.size
            assert artifact.difference and artifact.file[:14] in printed
    for path in tiny_engines.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert not any(node.metadata_props for node in model.graph.node), path
    assert not [path for path in tiny_engines.iterdir() if path.name.startswith(".")]


def test_layers_are_compared(tiny_engines: Path) -> None:
    for graph in GRAPHS:
        exact, half = (json.loads((tiny_engines / f"{graph}{kind}.layers.json").read_text()) for kind in ("", ".fp16"))
        assert exact.keys() == half.keys() and len(exact) > 15
        assert max(exact.values()) < 1e-5 < max(half.values()) < 1e-2


def test_signal_processing_belongs_to_the_graphs(tiny_engines: Path) -> None:
    inputs = {
        name: [(i.name, i.type) for i in onnxruntime.InferenceSession(tiny_engines / f"{name}.onnx").get_inputs()]
        for name in ("audio_encoder", "usslm")
    }
    assert inputs["audio_encoder"] == [("waveform", "tensor(float)")]
    assert inputs["usslm"] == [("frames", "tensor(uint8)"), ("audio", "tensor(float)")]


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 96, 128), (3, 96, 128), (1, 480, 640), (2, 150, 97), (1, 64, 300), (1, 20, 20)]
)
def test_localizer_at_any_size(
    tiny_engines: Path, tiny: dict[str, Runner], batch: int, height: int, width: int
) -> None:
    _, runners = open_engines(tiny_engines)
    inputs = example_inputs("usslm", PRESETS["tiny"], (height, width), batch)
    compare(tiny["usslm"].spec, tiny["usslm"], runners["usslm"], inputs)


@pytest.mark.parametrize("name", ["audio_encoder", "clip_image_encoder", "clip_text_encoder"])
@pytest.mark.parametrize("batch", [1, 5])
def test_other_graphs_at_any_batch(tiny_engines: Path, tiny: dict[str, Runner], name: str, batch: int) -> None:
    _, runners = open_engines(tiny_engines)
    compare(tiny[name].spec, tiny[name], runners[name], example_inputs(name, PRESETS["tiny"], (96, 96), batch))


@pytest.mark.slow
def test_fixed_size(tmp_path: Path) -> None:
    models, size = build_models(PRESETS["tiny"]), (64, 96)
    spec, module = graph_specs(models.preset, size)["usslm"], graph_modules(models, size)["usslm"]
    write_model(export_graph(spec, module, example_inputs("usslm", models.preset, size)), tmp_path / "usslm.onnx")
    runner = OnnxRuntimeRunner(spec, tmp_path / "usslm.onnx")
    for frame_size in ((64, 96), (200, 300), (90, 50)):
        inputs = example_inputs("usslm", models.preset, frame_size, batch=1)
        compare(spec, TorchRunner(spec, module), runner, inputs)
        assert runner(**inputs)["mask_logits"].shape == (1, 10, 5, 16, 24)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "frame_size"), [("r50", (360, 640)), ("swin_b", (192, 256))])
def test_full_size_localizer(preset: str, frame_size: tuple[int, int], tmp_path: Path) -> None:
    chosen = PRESETS[preset]
    graph = UsslmGraph(golden_model.usslm(preset), chosen).eval()
    if preset == "swin_b":
        graph.prepare.short_side = frame_size[0]
    spec = graph_specs(chosen)["usslm"]
    write_model(export_graph(spec, graph, example_inputs("usslm", chosen, (96, 128))), tmp_path / "usslm.onnx")
    runner = OnnxRuntimeRunner(spec, tmp_path / "usslm.onnx")
    inputs = example_inputs("usslm", chosen, frame_size, batch=1)
    compare(spec, TorchRunner(spec, graph), runner, inputs)
    height, width = (-(-side // 32) * 8 for side in frame_size)
    assert runner(**inputs)["mask_logits"].shape == (1, 100, 5, height, width)


def test_a_wrong_graph_does_not_pass(tiny: dict[str, Runner]) -> None:
    other = build_models(PRESETS["tiny"], seed=7)
    specs, modules = graph_specs(other.preset), graph_modules(other)
    for name in GRAPHS:
        inputs = example_inputs(name, PRESETS["tiny"], (96, 128))
        with pytest.raises(VerificationError, match=f"{name}: '.*' differs from PyTorch by"):
            compare(specs[name], tiny[name], TorchRunner(specs[name], modules[name]), inputs)


def test_the_first_layer_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_damaged(model: onnx.ModelProto, path: Path) -> None:
        weight = next(w for w in model.graph.initializer if w.name.endswith("features.6.weight"))
        weight.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(weight), weight.name))
        write_model(model, path)

    monkeypatch.setattr(graph_builder, "write_model", write_damaged)
    message = refused("--preset", "tiny", "--out", str(tmp_path), "--formats", "onnx")
    assert re.search(
        r"audio_encoder: 'audio' differs from PyTorch by .*first layer that differs is '.*features\.6'", message
    )
    assert not list(tmp_path.glob("*.onnx"))


def test_bad_arguments(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    message = refused("--preset", "tiny", "--out", out, "--size", "380x640")
    assert "both sides must be multiples of 32; the nearest is --size 384x640" in message
    assert "is not HEIGHTxWIDTH" in refused("--preset", "tiny", "--out", out, "--size", "big")
    assert "there is no checkpoint" in refused(
        "--preset", "tiny", "--out", out, "--weights", str(tmp_path / "none.pth")
    )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("--preset", "tiny", "--out", str(tmp_path / "file" / "out"))
    assert not Path(out).exists() or not list(Path(out).iterdir())


def test_checkpoint_of_another_preset(tmp_path: Path) -> None:
    with torch.device("meta"):
        swin = golden_model.USSLM(PRESETS["swin_b"])
    swin.to_empty(device="cpu")
    save_checkpoint(tmp_path / "swin.safetensors", {"usslm": swin}, "swin_b")
    message = refused(
        "--preset", "r50", "--out", str(tmp_path / "out"), "--weights", str(tmp_path / "swin.safetensors")
    )
    assert "holds the weights of preset 'swin_b', but the preset here is 'r50'; pass --preset swin_b" in message
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_was_tampered_with_is_built_again(tiny_engines: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_engines, tmp_path / "copy"))
    arguments = [
        "--preset",
        "tiny",
        "--out",
        str(out),
        "--formats",
        "onnx,torchscript",
        "--precision",
        "fp32,fp16",
        "--layers",
    ]
    path = out / "clip_image_encoder.fp16.onnx"
    whole, before = path.read_bytes(), path.stat()
    assert "is up to date" in CliRunner().invoke(app, arguments).output

    def tamper() -> None:
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert path.stat().st_size == before.st_size

    for restore in False, True:
        tamper()
        if restore:  # the time of its last change too
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(UserError, match=r"fp16\.onnx is not the file that was built"):
            open_engines(out, precision=Precision.FP16)
        printed = CliRunner().invoke(app, arguments).output
        assert printed.count("kept") == 11 and path.read_bytes() == whole
        open_engines(out, precision=Precision.FP16)
        assert "is up to date" in CliRunner().invoke(app, arguments).output


def test_loading_checks_the_folder(tiny_engines: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no engines folder"):
        open_engines(tmp_path / "none")
    with pytest.raises(UserError, match=r"it has no manifest\.json; build it with"):
        open_engines(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_engines, copy)
    (copy / "usslm.onnx").unlink()
    with pytest.raises(UserError, match=r"lacks the graph 'usslm' \(usslm\.onnx\)"):
        open_engines(copy)
    (copy / "usslm.onnx").write_bytes((copy / "audio_encoder.onnx").read_bytes())
    with pytest.raises(UserError, match="is not the file that was built"):
        open_engines(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["graphs"]["usslm"]["onnx"]["sha256"] = sha256(copy / "usslm.onnx")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not 'usslm' of this preset"):
        open_engines(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not a manifest of this version"):
        open_engines(copy)
