"""The GPU day rehearsed on the CPU, what it says of a failed step, and the pieces that are carried to a card."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import gpu, gpu_steps
from bench.gpu_steps import STEPS, Candidate, Inputs, Place
from bench.pack_gpu import write_pieces

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rehearsal(tiny_engines: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "bench" / "gpu.py", "--rehearse", "--out", tmp_path, "--engines", tiny_engines]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [step["step"] for step in found["steps"]] == list(STEPS)
    results = {step["step"]: step["result"] for step in found["steps"]}
    assert results.pop("tensorrt") == results.pop("compiled_clip") == "skipped"
    assert results.pop("tensorrt_rtx") in ("passed", "skipped")
    assert results.pop("triton") in ("passed", "skipped") and set(results.values()) == {"passed"}
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# Rehearsal: ") and "| kernels | passed |" in page and "## whole_clip" in page


def test_a_wrong_kernel_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def attention(place: Place, inputs: Inputs) -> dict[str, Candidate]:
        exact = inputs.exact("plain", inputs.value, inputs.weights, inputs.offsets)
        return {"kernel, plain, float16": Candidate(lambda: exact.float() * 1.01, exact)}

    monkeypatch.setattr(gpu_steps, "_attention", attention)
    gpu.run_step("kernels", tmp_path, tmp_path, rehearse=True)
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert found["result"] == "failed" and len(found["rows"]) == 7  # every figure is there all the same
    assert re.match(r"kernel, plain, float16, D32 P4: error \S+ is over 4.88e-04; kernel", found["why"])


def test_a_step_that_cannot_run(tmp_path: Path) -> None:
    gpu.run_step("whole_clip", tmp_path / "nothing", tmp_path, rehearse=True)
    gpu.run_step("tensorrt", tmp_path / "nothing", tmp_path, rehearse=True)
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole_clip", "tensorrt")]
    assert [one["result"] for one in found] == ["failed", "skipped"]
    assert "there is no engines folder" in found[0]["why"] and "on a GPU only" in found[1]["why"]
    head: dict[str, Any] = {"machine": {"cpu": "a CPU"}, "versions": {}, "commit": "c", "rehearsal": True}
    text = gpu.page(head, [one | {"seconds": 1.0} for one in found])
    assert "| whole_clip | failed | 1 | there is no engines folder" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_card(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "pass --rehearse to run the steps on the CPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_pieces_arrive_one_by_one(tmp_path: Path) -> None:
    """They come in two visits, one of them damaged on the way, and are joined by a script that needs Python alone."""
    content, pack, visit, into = (tmp_path / name for name in ("content", "pack", "visit", "into"))
    (content / "site").mkdir(parents=True)
    random = np.random.default_rng(0).bytes(300_000)
    (content / "site" / "module.py").write_bytes(random)
    subprocess.run(
        ["git", "-C", str(ROOT), "archive", "-o", str(content / "source.tar"), "HEAD", "LICENSE"], check=True
    )
    write_pieces(content, pack, 100_000, {"commit": "c"})
    assert {path.name for path in pack.iterdir()} >= {"unpack.py", "pack.json", "piece.000", "piece.003"}
    assert all(path.stat().st_size <= 100_000 for path in pack.glob("piece.*"))

    def unpack(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(pack / "unpack.py"), str(into), str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    visit.mkdir()
    assert "has no pack.json" in unpack(visit).stderr
    for name in ("pack.json", "piece.001"):
        (visit / name).write_bytes((pack / name).read_bytes())
    assert "1 of 4 pieces are here; next: piece.000, piece.002" in unpack(visit).stdout
    (visit / "piece.000").write_bytes(b"damaged")
    assert "piece.000 was damaged on the way" in unpack(visit).stderr
    assert "all 4 pieces are here" in unpack(pack).stdout
    assert (into / "site" / "module.py").read_bytes() == random and (into / "source" / "LICENSE").is_file()
