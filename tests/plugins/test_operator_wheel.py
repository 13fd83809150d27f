"""The wheel ovavss-msda as a stranger uses it: an environment with ONNX Runtime and NumPy alone, and CMake."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import reference
from building import PLUGIN
from cases import SMALL, random_case
from one_node import feeds, model

FIVE_LINES = """
import numpy, onnxruntime, ovavss_msda
options = ovavss_msda.register()
session = onnxruntime.InferenceSession("rewritten.onnx", options, providers=["CPUExecutionProvider"])
numpy.save("output.npy", session.run(None, dict(numpy.load("inputs.npz")))[0])
"""

C_PROGRAM = """
#include <ovavss_msdeform_attn.h>
#include <stdio.h>
int main(void) {
  ovavss_msda_sizes sizes = {1, 4, 2, 7, 1, 3, 4, 1, 1, OVAVSS_FLOAT32, OVAVSS_FLOAT32, 0};
  puts(ovavss_msda_check(&sizes));
  return 0;
}
"""

CMAKE_PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(stranger LANGUAGES C)
find_package(ovavss_msda 0.2 REQUIRED)
add_executable(stranger main.c)
target_link_libraries(stranger PRIVATE ovavss_msda::msdeform_attn)
"""


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the CUDA kernels, which take minutes to compile."""
    if not shutil.which("cmake") or not importlib.util.find_spec("scikit_build_core"):
        pytest.skip("the operator's wheel needs CMake and scikit-build-core: pip install cmake scikit-build-core")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--offline", "--python"]
    options = ["-C", "cmake.define.OVAVSS_CUDA=OFF", "-C", f"cmake.define.OVAVSS_PYTHON={sys.executable}"]
    run([*command, sys.executable, "--out-dir", folder, *options, PLUGIN], folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, ONNX Runtime and NumPy, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    install = [
        "uv",
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        folder / "bin" / "python",
        wheel,
    ]
    run([sys.executable, "-m", *install], folder)
    site, ours = next((folder / "lib").glob("python*/site-packages")), Path(sysconfig.get_path("purelib"))
    for name in ("onnxruntime", "numpy", "numpy.libs"):
        if (ours / name).exists():
            (site / name).symlink_to(ours / name)
    return folder


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert wheel.name.startswith("ovavss_msda-0.2.0-py3-none-")
    held = zipfile.ZipFile(wheel).namelist()
    assert {"ovavss_msda/lib/libovavss_msdeform_attn.so", "ovavss_msda/include/ovavss_msdeform_attn.h"} <= set(held)
    # Wheels of manylinux may ask the system for these libraries' versioned symbols and for nothing else.
    said = run([sys.executable, "-m", "auditwheel", "show", wheel], wheel.parent).replace("\n", " ")
    assert 'constrains the platform tag to "manylinux_2_' in said or 'following platform tag: "manylinux_2_' in said


def test_five_lines_run_the_kernel(environment: Path, wheel: Path, tmp_path: Path) -> None:
    if not any(name.endswith("_ort.so") for name in zipfile.ZipFile(wheel).namelist()):
        pytest.skip("no onnxruntime_c_api.h: set ONNXRUNTIME_ROOT to an unpacked ONNX Runtime release")
    case = random_case(SMALL, queries=40)
    (tmp_path / "rewritten.onnx").write_bytes(model("fused", function=True))  # the function alone would give 42
    np.savez(tmp_path / "inputs.npz", **feeds("fused", case))
    run([environment / "bin" / "python", "-c", FIVE_LINES], tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), reference.fused(*case.fused()), atol=1e-5)


def test_cmake_finds_the_c_interface(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(C_PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE_PROJECT)
    python = environment / "bin" / "python"
    root = run([python, "-c", "import ovavss_msda; print(ovavss_msda.cmake_root())"], tmp_path).strip()
    run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-Dovavss_msda_ROOT={root}"], tmp_path)
    run(["cmake", "--build", tmp_path / "build"], tmp_path)
    assert "channels" in run([tmp_path / "build" / "stranger"], tmp_path)
