"""Shared by all tests: helper modules of this folder are importable; engines are built once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]


@pytest.fixture(scope="session")
def tiny_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's ONNX graphs, built by the command that users call."""
    out = tmp_path_factory.mktemp("engines") / "tiny"
    command = [sys.executable, str(ROOT / "export" / "build_engines.py"), "--preset", "tiny", "--out", str(out),
               "--formats", "onnx,torchscript", "--precision", "fp32,fp16", "--layers"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    (out.parent / "printed.txt").write_text(done.stdout)
    return out
