"""The CMake project: what it says, and what it installs."""

import json
from pathlib import Path

import pytest
from building import ROOT, run

from ovavss.msda import libraries as custom_op


def test_summary_names_every_part(build_folder: Path) -> None:
    lines = (build_folder / "summary.txt").read_text().splitlines()
    parts = dict(line.removeprefix("--   ").split(": ", 1) for line in lines if line.startswith("--   "))
    names = ["CPU kernels", "CUDA kernels", "ONNX Runtime operator", "OpenVINO operator", "TensorRT plugin"]
    assert list(parts) == names
    assert parts["CPU kernels"] == "built"
    assert parts["CUDA kernels"] == "not built, OVAVSS_CUDA is off"
    assert all(text == "built" or text.startswith("not built, ") for text in parts.values())


def test_presets() -> None:
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    assert [preset["name"] for preset in presets["configurePresets"]] == ["release", "asan"]
    assert "release" in run(["cmake", "-S", str(ROOT), "--list-presets"])


def test_installed_into_the_package(
    build_folder: Path, onnxruntime_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ovavss"
    for target in ("ovavss_msdeform_attn", "ovavss_msda_ort"):
        run(["cmake", "--build", str(build_folder), "--target", target])
    summary = (build_folder / "summary.txt").read_text()
    for part, target in (("TensorRT plugin", "ovavss_msda_trt"), ("OpenVINO operator", "ovavss_msda_openvino")):
        if f"{part}: built" in summary:
            run(["cmake", "--build", str(build_folder), "--target", target])
    run(["cmake", "--install", str(build_folder), "--component", "libraries", "--prefix", str(package)])
    monkeypatch.delenv("OVAVSS_PLUGIN_DIR", raising=False)
    monkeypatch.setattr(custom_op, "_PACKAGE", package)
    assert custom_op.custom_op_library() == package / "lib" / custom_op.LIBRARY
