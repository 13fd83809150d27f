"""A build that SIGTERM ends leaves what was finished and nothing else; the next run goes on from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovavss.runtime.engines import read_manifest

ROOT = Path(__file__).parents[2]
# SIGTERM comes while half of the named file is written, or before the next graph, whose export would take longer.
BUILD = """
import os, runpy, signal, sys
from ovavss.export import graph_builder, onnx_export
from ovavss.files import written_whole

out, interrupted = sys.argv[1:]
export_graph = graph_builder.export_graph

def end():
    os.kill(os.getpid(), signal.SIGTERM)

def write_in_halves(path, content):
    with written_whole(path) as partial:
        partial.write_bytes(content[: len(content) // 2])
        if path.name == interrupted:
            assert list(path.parent.glob(f".{interrupted}.partial-*"))
            end()
        partial.write_bytes(content)

onnx_export.write_bytes = write_in_halves
graph_builder.export_graph = lambda spec, *rest: end() if spec.name == "usslm" else export_graph(spec, *rest)
sys.argv = ["build_engines.py", "--preset", "tiny", "--out", out, "--precision", "fp32,fp16"]
runpy.run_path("export/build_engines.py", run_name="__main__")
"""


def build_until(interrupted: str, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out), interrupted], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 143 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "ended by SIGTERM: no unfinished file is left"


@pytest.mark.slow
def test_sigterm_ends_a_build_and_the_next_run_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "audio_encoder.onnx", tmp_path / "audio_encoder.fp16.onnx"
    build_until(second.name, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, "manifest.json"]
    finished = first.stat().st_mtime_ns
    build_until("none", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [second.name, first.name, "manifest.json"]
    assert first.stat().st_mtime_ns == finished
    assert sorted(read_manifest(tmp_path).graphs["audio_encoder"]) == ["onnx", "onnx-fp16"]
