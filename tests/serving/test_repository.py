"""Repositories for the vendor's container and for the local server, as far as no container is needed."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import GRAPHS
from ovavss.runtime.engines import Format, Precision, read_manifest
from ovavss.serving.repository import MODELS, STEPS, check_repository, read_config, write_repository
from ovavss.serving.targets import Target

TYPES = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.INT64: "INT64"}


def boundary(tensor: object, batched: bool) -> tuple[str, str, list[int]]:
    """Name, type and shape of a tensor of a configuration as the back end sees it."""
    shape = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)  # type: ignore[attr-defined]
    kind = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name  # type: ignore[attr-defined]
    return tensor.name, kind.removeprefix("TYPE_"), [-1] * batched + shape  # type: ignore[attr-defined]


@pytest.fixture
def with_plans(tiny_engines: Path, tmp_path: Path) -> Path:
    """Engines whose manifest tells of TensorRT plans too (no GPU builds them here; their content does not matter)."""
    folder = Path(shutil.copytree(tiny_engines, tmp_path / "engines"))
    content = json.loads((folder / "manifest.json").read_text())
    for name in GRAPHS:
        shutil.copyfile(folder / f"{name}.onnx", folder / f"{name}.plan")
        content["graphs"][name]["tensorrt"] = content["graphs"][name]["onnx"] | {"file": f"{name}.plan"}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("target", list(Target))
def test_every_configuration_fits_its_artifact(with_plans: Path, tmp_path: Path, target: Target) -> None:
    out = tmp_path / "models"
    write_repository(with_plans, out, target, operator="/opt/op.so" if target is Target.ONNXRUNTIME else None)
    assert sorted(path.name for path in out.iterdir()) == sorted(MODELS)
    check_repository(out, read_manifest(with_plans))
    for name in MODELS:
        config = read_config(out / name / "config.pbtxt")
        assert config.name == name
        if name == "ov_avss":
            assert config.platform == "ensemble" and (out / name / "1").is_dir()
            continue
        assert (out / name / "1" / (config.default_model_filename or "model.py")).is_file()
        assert config.model_warmup or name == "open_vocabulary"
        assert config.backend == ("python" if name in STEPS else target.value)
    for name in GRAPHS:
        config, graph = read_config(out / name / "config.pbtxt"), onnx.load(with_plans / f"{name}.onnx").graph
        for mine, theirs in ((config.input, graph.input), (config.output, graph.output)):
            assert len(mine) == len(theirs)
            for tensor, value in zip(mine, theirs):
                sizes = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
                have = boundary(tensor, config.max_batch_size > 0)
                assert have[:2] == (value.name, TYPES[value.type.tensor_type.elem_type])
                assert len(have[2]) == len(sizes)
                assert all(-1 in (a, b) or a == b for a, b in zip(have[2], sizes)), (have, sizes)
    operators = list(read_config(out / "usslm" / "config.pbtxt").model_operations.op_library_filename)
    assert operators == (["/opt/op.so"] if target is Target.ONNXRUNTIME else [])


def test_what_does_not_fit_is_told(tiny_engines: Path, tmp_path: Path) -> None:
    out, manifest = tmp_path / "models", read_manifest(tiny_engines)

    def spoiled(model: str, old: str, new: str) -> str:
        write_repository(tiny_engines, out)
        path = out / model / "config.pbtxt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(UserError) as caught:
            check_repository(out, manifest)
        return str(caught.value)

    assert "the configuration has ['wave']" in spoiled("audio_encoder", '"waveform"', '"wave"')
    assert "disagree about usslm.frames" in spoiled("usslm", "TYPE_UINT8", "TYPE_FP32")
    assert "disagree about clip_crops into clip_image_encoder.crops" in spoiled("mask_crop", "3, 32, 32", "3, 16, 16")
    assert "is given" in spoiled("ov_avss", 'input_map { key: "sound_scores" value: "sound_scores" }', "")
    assert "is not a model configuration" in spoiled("mask_crop", "max_batch_size", "largest_batch")


def test_the_command(tiny_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    arguments = ["repo", "--engines", str(tiny_engines), "--out", str(out), "--target"]

    def refused(*more: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert not list(tmp_path.glob(".*"))
        return result.stderr

    assert "lacks the graph 'audio_encoder' (audio_encoder.plan)" in refused("tensorrt")
    assert "serves onnx files; leave --format out" in refused("onnxruntime", "--format", "torchscript")
    assert "--operator is for --target onnxruntime" in refused("python", "--operator", "x.so")
    assert not out.exists()
    for precision in Precision.FP32, Precision.FP16:
        result = CliRunner().invoke(app, [*arguments, "onnxruntime", "--precision", precision.value])
        assert result.exit_code == 0, result.output
        suffix = "onnx" if precision is Precision.FP32 else "fp16.onnx"
        assert (out / "usslm" / "1" / "model.onnx").read_bytes() == (tiny_engines / f"usslm.{suffix}").read_bytes()
    write_repository(tiny_engines, out, Target.PYTHON, artifact_format=Format.TORCHSCRIPT)
    assert (out / "usslm" / "1" / "usslm.torchscript.pt").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    arguments[4] = str(tmp_path / "mine")
    assert "is not a repository of ours; give another --out" in refused("python")
    assert (tmp_path / "mine" / "letter.txt").exists()
