"""Finds the real TensorRT, builds the plugin and the host program against it, and talks with the host."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PLUGIN = ROOT / "plugins" / "msdeform_attn"
sys.path.append(str(PLUGIN / "tensorrt"))

from fetch_tensorrt import cache_folder  # noqa: E402
from tensorrt_host import unmodelled  # noqa: E402


class Missing(Exception):
    """One sentence: what is not on this machine, and how to get it."""


def listed(variable: str) -> list[Path]:
    return [Path(folder) for folder in os.environ.get(variable, "").split(os.pathsep) if folder]


def library_folder(major: int) -> Path:
    folders = [*listed("OVAVSS_TENSORRT_LIBS"), *sorted(cache_folder().glob("*"), reverse=True)]
    for folder in folders:
        if (folder / f"libnvinfer.so.{major}").exists():
            return folder
    raise Missing(
        f"no TensorRT {major} library here: run python plugins/msdeform_attn/tensorrt/fetch_tensorrt.py, "
        "or name the folder in OVAVSS_TENSORRT_LIBS"
    )


def header_folder(major: int) -> Path:
    beside = (ROOT.parent / "shared" / "third_party").glob("tensorrt-*")
    for folder in [*listed("OVAVSS_TENSORRT_INCLUDE"), *sorted(beside, reverse=True), Path("/usr/include")]:
        version = folder / "NvInferVersion.h"
        if not version.exists():
            continue
        found = re.search(
            r"^#define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) +(\d+)", version.read_text(), re.MULTILINE
        )
        if found and int(found.group(1)) == major:
            return folder
    raise Missing(f"no TensorRT {major} headers here: name their folder in OVAVSS_TENSORRT_INCLUDE")


def cuda_header_folder() -> Path:
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    for folder in [*listed("OVAVSS_CUDA_INCLUDE"), *packages.glob("*/include"), Path("/usr/local/cuda/include")]:
        if (folder / "cuda_runtime_api.h").exists() and (folder / "crt" / "host_defines.h").exists():
            return folder
    raise Missing("no CUDA headers here: pip install nvidia-cuda-runtime nvidia-cuda-crt, or set OVAVSS_CUDA_INCLUDE")


def why_not(major: int) -> str | None:
    """What is missing for this version, as a sentence; None: everything is here."""
    try:
        library_folder(major), header_folder(major), cuda_header_folder()
    except Missing as missing:
        return str(missing)
    return None if shutil.which("g++") else "no g++ here: install a C++ compiler"


def compile_(out: Path, flags: list[str], sources: list[Path], tail: list[str]) -> Path:
    command = ["g++", "-std=c++17", "-Wno-deprecated-declarations", *flags, *map(str, sources), "-o", str(out), *tail]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return out


@dataclass
class Host:
    """The host program and the plugin, as a library without CUDA and as one with the recording kernel."""

    program: Path
    plugin: Path
    plugin_with_kernel: Path

    def talk(self, *commands: str) -> list[dict]:
        return self.talk_and_hear(*commands)[0]

    def talk_and_hear(self, *commands: str) -> tuple[list[dict], str]:
        """The answers, and what was said on stderr, which is where the plugin logs when it knows no logger."""
        done = subprocess.run([self.program], input="\n".join(commands) + "\n", capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(commands)
        return answers, done.stderr


def include_flags(headers: Path) -> list[str]:
    return ["-I", str(PLUGIN / "include"), "-isystem", str(headers), "-isystem", str(cuda_header_folder())]


def compile_host(source: str, out: Path, major: int, flags: list[str]) -> Path:
    """A program or library of this folder, linked with the real TensorRT."""
    libraries, headers = library_folder(major), header_folder(major)
    (out.parent / "unmodelled.h").write_text(unmodelled.header(headers))
    needed = [f"-l:{name}.so.{major}" for name in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")]
    link = ["-L", str(libraries), *needed, f"-Wl,-rpath,{libraries}", "-ldl"]
    return compile_(out, ["-O1", "-I", str(out.parent), *include_flags(headers), *flags], [HERE / source], link)


def build_plugin(major: int, out: Path, kernel: bool = False) -> Path:
    """The plugin library without CUDA, or with the recording kernel in the place of CUDA's."""
    sources = [*sorted((PLUGIN / "tensorrt").glob("*.cpp")), PLUGIN / "msda_check.cpp"]
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]
    flags += include_flags(header_folder(major))
    if kernel:
        sources.append(HERE / "kernel_on_host.cpp")
        flags.append("-DOVAVSS_MSDA_WITH_CUDA")
    exports = PLUGIN / "tensorrt" / "exports.map"
    return compile_(out, flags, sources, ["-Wl,--no-undefined", f"-Wl,--version-script={exports}"])


def build(major: int, folder: Path) -> Host:
    program = compile_host("host.cpp", folder / "host", major, [])
    plugins = build_plugin(major, folder / "plain.so"), build_plugin(major, folder / "kernel.so", kernel=True)
    return Host(program, *plugins)


def interpreter(major: int) -> str:
    """A Python that has TensorRT's bindings of this version: one of OVAVSS_TENSORRT_PYTHON, or this one."""
    probe = r"""
import importlib.metadata as m, re
found = [d for d in m.distributions() if re.fullmatch(r"tensorrt([-_]cu\d+)?([-_]bindings)?", d.name)]
print(found[0].version)
"""
    for python in [*map(str, listed("OVAVSS_TENSORRT_PYTHON")), sys.executable]:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0 and done.stdout.startswith(f"{major}."):
            return python
    raise Missing(
        f"no Python bindings of TensorRT {major} here: pip install tensorrt-cu13-bindings of that version, or name an "
        "interpreter that has them in OVAVSS_TENSORRT_PYTHON"
    )


@dataclass
class PythonPlugins:
    """An interpreter with TensorRT's bindings, and the host library that asks its plugins."""

    python: str
    libraries: Path
    host: Path

    def ask(self, *questions: list[str]) -> tuple[list[dict], str]:
        """The answers (see aot_life.py) and stderr."""
        command = [self.python, HERE / "aot_life.py", self.libraries, self.host, PLUGIN / "tensorrt"]
        done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found = [line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        assert len(found) == len(questions), done.stderr
        return [json.loads(line) for line in found], done.stderr


def build_for_python(major: int, folder: Path) -> PythonPlugins:
    python, libraries = interpreter(major), library_folder(major)
    library = compile_host("aot_host.cpp", folder / "aot_host.so", major, ["-fPIC", "-shared"])
    return PythonPlugins(python, libraries, library)
