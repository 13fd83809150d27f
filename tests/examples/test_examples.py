"""Every example runs as its first lines say, and does what they promise."""

import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from ovavss.datasets.sounding_shapes.disk import write_mp4
from ovavss.datasets.sounding_shapes.scenes import sample_scene

Run = Callable[..., str]
FOLDER = Path(__file__).parents[2] / "examples"
sys.path.append(str(FOLDER.parent / "tests" / "msda" / "rewrite"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A magenta star sounds, then a yellow square."""
    return write_mp4(sample_scene(1000, 10), tmp_path_factory.mktemp("examples") / "clip.mp4", fps=25)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a script as from the command line; what it and its children print."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capfd.readouterr().out

    return run


def test_every_example_is_short_and_tested() -> None:
    tested = Path(__file__).read_text()
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name
        assert f'run("{path.name}"' in tested, path.name


def test_segment(run: Run, video: Path, tmp_path: Path) -> None:
    printed = run("segment.py", video, tmp_path / "out", "tiny")
    assert "magenta star: score" in printed and "yellow square: score" in printed
    assert (tmp_path / "out" / "result.json").is_file()


def test_stream(run: Run, video: Path) -> None:
    seconds = run("stream.py", video, "tiny").splitlines()
    assert [line.split(": ")[1] for line in seconds] == ["magenta star"] * 2 + ["yellow square"] * 2 + ["nothing"]


def test_rewrite_detector(run: Run, tmp_path: Path) -> None:
    from running import text_feeds
    from spellings import text_model

    onnx.save(text_model(), tmp_path / "in.onnx")
    np.savez(tmp_path / "inputs.npz", **text_feeds())
    printed = run("rewrite_detector.py", tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "inputs.npz")
    assert "1 deformable attention replaced" in printed
    assert float(printed.split("largest difference ")[1].split()[0]) < 1e-5


@pytest.mark.slow
def test_train(run: Run, tmp_path: Path) -> None:
    run("train.py", tmp_path, 2)
    assert (tmp_path / "run" / "tiny.safetensors").is_file()


@pytest.mark.slow
def test_export(run: Run, video: Path, tmp_path: Path) -> None:
    printed = run("export.py", video, tmp_path / "engines")
    assert float(printed.split(" % of the pixels")[0].split()[-1]) > 99.9
    assert (tmp_path / "engines" / "usslm.onnx").is_file()


@pytest.mark.slow
def test_measure(run: Run, tiny_engines: Path, video: Path) -> None:
    printed = run("measure.py", tiny_engines, video, 3)
    assert "'harmonic'" in printed and "onnxruntime: " in printed and "torchscript: " in printed


@pytest.mark.server
def test_serve(run: Run, tiny_engines: Path, video: Path, tmp_path: Path) -> None:
    if find_spec("pytriton") is None:
        pytest.skip("no Triton server in this environment: uv sync --group serve")
    printed = run("serve.py", tiny_engines, video, tmp_path / "out", 18401)
    assert "serving at grpc://127.0.0.1:18401" in printed
    assert (tmp_path / "out" / "result.json").is_file()
