"""The CMake project: what it says."""

import json
from pathlib import Path

from building import ROOT, run


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
