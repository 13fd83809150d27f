"""Builds the plugin's libraries once for all tests of this folder; nothing of it is left in the tree."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "plugins" / "msdeform_attn")]

from building import PLUGIN, ROOT, build, compiler, run  # noqa: E402  its folder has just become importable


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configured without CUDA: everything else that can be built here has its target."""
    if not shutil.which("cmake"):
        pytest.skip("the plugin's tests need CMake: install cmake 3.25 or newer")
    compiler()
    folder = tmp_path_factory.mktemp("plugin_build")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    python = f"-DOVAVSS_PYTHON={sys.executable}"
    (folder / "summary.txt").write_text(
        run(["cmake", "-S", str(ROOT), "-B", str(folder), *generator, python, "-DOVAVSS_CUDA=OFF"])
    )
    return folder


@pytest.fixture(scope="session")
def core_library(build_folder: Path) -> Path:
    """The C interface as a library, CPU part."""
    build(build_folder, "ovavss_msdeform_attn")
    return build_folder / "plugins" / "libovavss_msdeform_attn.so"


def operator(folder: Path, part: str, name: str, missing: str) -> Path:
    """The library of one runtime's operator, CPU part."""
    if f"{part} operator: built" not in (folder / "summary.txt").read_text():
        pytest.skip(missing)
    build(folder, f"ovavss_msda_{name}")
    return folder / "plugins" / f"libovavss_msdeform_attn_{name}.so"


@pytest.fixture(scope="session")
def onnxruntime_library(build_folder: Path) -> Path:
    missing = "no onnxruntime_c_api.h: set ONNXRUNTIME_ROOT to an unpacked ONNX Runtime release"
    return operator(build_folder, "ONNX Runtime", "ort", missing)


@pytest.fixture(scope="session")
def openvino_library(build_folder: Path) -> Path:
    return operator(build_folder, "OpenVINO", "openvino", "no OpenVINO: pip install openvino")


@pytest.fixture(scope="session")
def walked_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA source compiled as C++, launches walked on the CPU, with the index functions for their own test."""
    here = Path(__file__).parent
    library = tmp_path_factory.mktemp("cuda_walk") / "libwalk.so"
    includes = [f"-I{path}" for path in (here / "cuda_walk", PLUGIN, PLUGIN / "include")]
    flags = [
        "-std=c++17",
        "-O1",
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
    ]
    sources = [str(PLUGIN / "cuda" / "msda_cuda.cu"), str(PLUGIN / "msda_check.cpp"), str(here / "index_functions.cpp")]
    walk = str(here / "cuda_walk" / "walk.h")
    run([compiler(), *flags, *includes, "-include", walk, "-x", "c++", *sources, "-o", str(library)])
    return library
