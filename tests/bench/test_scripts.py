"""Each script at its smallest settings writes what it promises and refuses bad input in one sentence."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from click.testing import Result
from numpy.typing import NDArray
from onnx import numpy_helper
from typer.testing import CliRunner

from bench.backends import Source, backends
from bench.parity import changes, compare
from ovavss.commands.process import command
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, world_clips
from ovavss.files import sha256
from ovavss.msda.libraries import custom_op_library
from ovavss.runtime.engines import read_manifest


def run(script: str, *arguments: object) -> Result:
    """The command as users call it, in this process: to import torch for each takes longer than most of them."""
    app = typer.Typer()
    app.command()(command(importlib.import_module(f"bench.{script}").main))
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(script: str, path: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    """What it wrote with --json."""
    done = run(script, *arguments, "--json", path)
    assert done.exit_code == status, done.stderr
    found: dict[str, Any] = json.loads(path.read_text())
    assert {"machine", "versions", "commit"} <= set(found)
    return found


def test_speedups(tiny_engines: Path, tmp_path: Path) -> None:
    rows = "select,few crops,fused op,overlap,clip batch,onnx,onnx-cuda,together"
    out = tmp_path / "speedups.json"
    found = written("speedups", out, "--engines", tiny_engines, "--num-clips", 6, "--group", 3, "--rows", rows)
    of_name = {row["name"]: row for row in found["rows"]}
    plain = of_name.pop("plain")
    assert plain["crops_per_clip"] > 0 and plain["miou"]["mean"] > 0 and plain["speed_up"] == 1
    for name in ("select", "fused op", "overlap", "clip batch", "onnx"):
        row = of_name[name]
        if not row["missing"]:
            assert row["agreement"] > 99.9 and row["crops_per_clip"] == plain["crops_per_clip"], name
    assert of_name["few crops"]["fewer_crops"] > 1 and of_name["together"]["fewer_crops"] > 1


def test_latency(tiny_engines: Path, tmp_path: Path) -> None:
    options = ["--runners", "onnx,tensorrt", "--rounds", 2, "--no-sweeps", "--no-memory"]
    found = written("latency", tmp_path / "latency.json", "--engines", tiny_engines, *options)
    assert {row["runner"] for row in found["clips"]} >= {"torch", "onnx"} and len(found["graphs"]) >= 8
    for row in found["clips"]:
        assert set(row["steps_ms"]) == {"audio_encoder", "usslm", "find_regions", "crop_regions", "clip_image_encoder",
                                        "classify"}  # fmt: skip
        assert sum(row["steps_ms"].values()) == pytest.approx(row["mean_ms"], rel=0.2)
    assert "tensorrt" in found["missing"] or any(row["runner"] == "tensorrt" for row in found["clips"])


def test_parity_passes(tiny_engines: Path, tmp_path: Path) -> None:
    found = written(
        "parity", tmp_path / "parity.json", "--engines", tiny_engines, "--num-clips", 4, "--runners", "onnx"
    )
    row = {row["name"]: row for row in found["rows"]}["onnx"]
    assert row["passed"] and row["agreement"] > 99.9 and row["share"]["mean"] >= 99.9


def test_parity_fails_for_a_damaged_graph(tiny_engines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_engines, folder)
    path = folder / "usslm.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.zeros_like(values), weight.name))
    onnx.save(model, path)
    manifest = read_manifest(folder)  # the hash must fit, so that only the numbers can tell
    graphs = {name: dict(artifacts) for name, artifacts in manifest.graphs.items()}
    graphs["usslm"]["onnx"] = replace(graphs["usslm"]["onnx"], sha256=sha256(path), size=path.stat().st_size)
    replace(manifest, graphs=graphs).write(folder)
    out = tmp_path / "parity.json"
    found = written("parity", out, "--engines", folder, "--num-clips", 6, "--runners", "onnx", status=1)
    assert [row["passed"] for row in found["rows"] if not row["missing"]] == [True, False]


def test_any_predictor_takes_part() -> None:
    predictors = {"truth": lambda clip: clip.label_map, "nothing": lambda clip: np.zeros_like(clip.label_map)}
    truth, nothing = compare(predictors, world_clips(2000, 3), WORLD, random=False)
    assert truth["passed"] and not nothing["passed"] and nothing["share"]["base"] == 0
    assert truth["agreement"] == 100 > nothing["agreement"]


def test_a_class_that_only_one_names_is_told() -> None:
    clips = list(world_clips(2000, 2))
    absent = next(i for i in WORLD.base_ids if all(i not in clip.labels for clip in clips))

    def one_pixel(clip: EvaluationClip) -> NDArray[np.integer]:
        found = clip.label_map.copy()
        found[0, :1, :1] = absent
        return found

    predictors = {"truth": lambda clip: clip.label_map, "one pixel": one_pixel}
    _, row = compare(predictors, clips, WORLD, random=False)
    assert not row["passed"] and row["agreement"] > 99.99
    assert changes(row, 0) == f"{WORLD.names[absent - 1]}: in no clip, named by one of both"


def test_capacity_reads_latency(tiny_engines: Path, tmp_path: Path) -> None:
    steps = {"usslm": 60.0, "clip_image_encoder": 40.0}
    row = {"runner": "onnx", "mean_ms": 100.0, "p50_ms": 100.0, "p99_ms": 110.0, "steps_ms": steps}
    (tmp_path / "latency.json").write_text(json.dumps({"clips": [row]}))
    options = ["--latency", tmp_path / "latency.json", "--rate", 40, "--p99-ms", 300, "--engines", tiny_engines]
    found = written("studies.capacity", tmp_path / "capacity.json", *options, "--check", "--requests", 30)
    assert found["plan"]["servers"] >= 4 and found["plan"]["step"] == "usslm"
    for measure in ("mean_ms", "p99_ms"):  # threads take the line's time and what they wait for each other besides
        assert found["check"][measure]["measured"] >= 0.999 * found["check"][measure]["replayed"] > 0
    assert found["check"]["p99_ms"]["measured"] > 0 and 0.2 < found["check"]["busy"]["during"] < 1.5


def test_what_cannot_run_says_why(tiny_engines: Path) -> None:
    found = backends(Source(tiny_engines))
    assert found["onnx-bf16"].missing == "not in the engines folder" and not found["onnx"].missing


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("latency", ["--engines", "nowhere"], "error: there is no engines folder nowhere; build it with"),
        ("parity", ["--engines", "ENGINES", "--runners", "onx"], "error: --runners 'onx' is unknown; choose of"),
        ("parity", ["--engines", "ENGINES", "--data", "nowhere"], "error: "),
        ("speedups", ["--engines", "ENGINES", "--rows", "magic"], "error: --rows 'magic' is unknown; choose"),
        ("studies.capacity", [], "error: there is nothing to do: give --latency FILE"),
        ("studies.capacity", ["--check"], "error: --check needs --engines DIR"),
        ("studies.capacity", ["--latency", "ENGINES/manifest.json"], "is not a file of bench/latency.py"),
        ("report", ["--engines", "ENGINES", "--out", "OUT", "--serving", "nowhere.json"], "error: --serving nowhere"),
    ],
)
def test_bad_input(script: str, arguments: list[str], sentence: str, tiny_engines: Path, tmp_path: Path) -> None:
    given = [part.replace("ENGINES", str(tiny_engines)).replace("OUT", str(tmp_path / "out")) for part in arguments]
    done = run(script, *given)
    assert done.exit_code == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0 and not list(tmp_path.glob("**/*.html"))


def test_compare_says_which_ratio_moved(tmp_path: Path) -> None:
    for name, together, small in (("before", 4.0, 2.0), ("after", 5.0, 2.1)):
        about = {"preset": "tiny", "machine": {"cpu": "a"}, "versions": {}, "commit": name}
        rows = [
            {"name": "together", "speed_up": together, "fewer_crops": 5.1, "share": {"mean": 99.9}},
            {"name": "cuda", "missing": "no GPU"},
        ]
        points = [{"size": 1, "p50_ms": together}, {"size": 4, "p50_ms": 4 * together}]
        clip = {"graph": "whole clip", "runner": "onnx", "speed_up": small}
        latency = {"clips": [clip], "graphs": [], "sweeps": [{"sweep": "clips", "points": points}]}
        parity = {"rows": [{"name": "onnx", "share": {"mean": 100.0, "novel": None}}]}
        (tmp_path / name).mkdir()
        for part, content in (("speedups", {"rows": rows}), ("latency", latency), ("parity", parity)):
            (tmp_path / name / f"{part}.json").write_text(json.dumps(about | content))
    folders = (tmp_path / "before", tmp_path / "after")
    found = run("compare", *folders)
    assert found.exit_code == 1 and "5 of 6 ratios within 10 %" in found.stdout
    assert "together" in found.stdout and "+25.0" in found.stdout and "whole clip" not in found.stdout
    assert run("compare", *folders, "--within", 30).exit_code == 0
    alone = run("compare", folders[0], tmp_path)
    assert alone.exit_code == 2 and f"error: {tmp_path}/speedups.json cannot be read" in alone.stderr


@pytest.mark.slow
def test_report(tiny_engines: Path, tmp_path: Path) -> None:
    serving = tmp_path / "serving.json"
    serving.write_text(json.dumps({"clips": 5, "ensemble": {"Offline": {"samples_per_second": 2.5}, "mean_iou": 61.2}}))
    done = run("report", "--engines", tiny_engines, "--out", tmp_path / "report", "--quick", "--serving", serving)
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "report" / "pictures").iterdir())) >= 7
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)  # whose letters may spell anything
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text  # nothing is fetched
    assert "samples_per_second" in page and "61.2" in page
    assert "mIoU parity" in (tmp_path / "report" / "report.md").read_text()
    same = run("compare", tmp_path / "report", tmp_path / "report")
    assert same.exit_code == 0 and " ratios within 10 %" in same.stdout


def test_msda(tmp_path: Path) -> None:
    options = ["--frames", 1, "--height", 64, "--width", 96, "--rounds", 1, "--threads", 1]
    if custom_op_library() is None:
        pytest.skip("the operator is not built: `make plugins`")
    found = written("msda", tmp_path / "msda.json", *options)
    rows = {row["name"]: row for row in found["cpu"]}
    assert {"eager PyTorch", "kernel, fused, 1 thread", "ONNX Runtime, our operator, plain"} <= set(rows)
    for row in rows.values():
        assert row["max_error"] < 1e-4 and 0 < row["best_ms"] <= row["median_ms"]
    assert rows["eager PyTorch"]["x eager"] == 1


@pytest.mark.server
def test_serving(tiny_engines: Path, tmp_path: Path) -> None:
    options = ["share", "--engines", str(tiny_engines), "--out", str(tmp_path), "--rounds", "1", "--requests", "4"]
    done = CliRunner().invoke(importlib.import_module("bench.serving").app, options)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "share.json").read_text())
    rates = found["clips_per_second"]
    assert set(rates) == {"ensemble", "audio_encoder", "usslm", "clip_image_encoder"}
    assert found["slowest"] == min(set(rates) - {"ensemble"}, key=lambda name: rates[name]) and found["share"] > 0


@pytest.mark.parametrize("script", ["report.py", "studies/msda_roofline.py"])
def test_scripts_run_by_their_path(script: str) -> None:
    command = [sys.executable, f"bench/{script}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and "--help" in done.stdout, done.stderr
