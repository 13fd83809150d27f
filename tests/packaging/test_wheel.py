"""The wheel as a stranger installs it: what it holds, what it asks for, and what it does from an empty folder.

The environment is fresh; the packages that ovavss depends on are those of the environment that runs the tests, which
saves a download of gigabytes. install_wheel.sh beside this file does it with downloads.
"""

import email
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a Linux user is not asked for: packages for GPUs.
GPU_WORDS = ("nvidia", "cuda", "-gpu", "tensorrt", "cupy")

PYTHON_API = """
import ovavss
segmenter = ovavss.load("E")
result = segmenter.segment("clip.mp4")
print(sorted({track.name for track in result.tracks}))
result.save("saved")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that has the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python"]
    subprocess.run([*command, str(python), str(wheel)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # A line of a .pth file only adds a folder: the checkout's editable install is not followed from there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(command: list[str], folder: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=kept, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_wheel_holds_what_the_package_reads(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "ovavss", "triton_repo"], cwd=ROOT, capture_output=True, text=True)
    expected = {name if name.startswith("ovavss/") else f"ovavss/{name}" for name in tracked.stdout.split()}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert len(expected) > 100
    assert not expected - held
    assert {"ovavss/py.typed", "ovavss/triton_repo/ov_avss/config.pbtxt"} <= held


def test_bare_package_asks_for_no_gpu_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith("METADATA"))
        metadata = email.message_from_bytes(packed.read(name))
    bare = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert any(line.startswith("onnxruntime>") for line in bare)
    assert not [line for line in bare if any(word in line for word in GPU_WORDS)]
    assert set(metadata.get_all("Provides-Extra") or []) == {
        "all", "export", "gpu", "hub", "openvino", "rtx", "serve", "tensorrt", "train",
    }  # fmt: skip


@pytest.mark.slow
def test_wheel_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = run([str(installed / "python"), "-c", "import ovavss; print(ovavss.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)
    run([str(installed / "ovavss"), "export", "--preset", "tiny", "--out", "E"], tmp_path)
    clip = (
        "from pathlib import Path; from ovavss.datasets.sounding_shapes.disk import write_mp4; "
        "from ovavss.datasets.sounding_shapes.scenes import sample_scene; "
        "write_mp4(sample_scene(1000, 10), Path('clip.mp4'), fps=25)"
    )
    run([str(installed / "python"), "-c", clip], tmp_path)
    run([str(installed / "ovavss"), "segment", "clip.mp4", "--engines", "E", "--out", "out"], tmp_path)
    assert "magenta star" in (tmp_path / "out" / "result.json").read_text()
    if (ROOT / "ovavss" / "segmenter.py").exists():
        names = run([str(installed / "python"), "-c", PYTHON_API], tmp_path)
        assert "magenta star" in names
        assert (tmp_path / "saved" / "result.json").is_file()
    run([str(installed / "ovavss"), "repo", "--engines", "E", "--out", "repo", "--target", "onnxruntime"], tmp_path)
    assert (tmp_path / "repo" / "ov_avss" / "config.pbtxt").is_file()
