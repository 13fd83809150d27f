"""`ovavss evaluate`: the same clips from memory, from disk, and from saved predictions give the same figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovavss.checkpoints.fetched import is_fetched, packages
from ovavss.commands.app import app
from ovavss.datasets.sounding_shapes.disk import write_avsbench
from ovavss.datasets.sounding_shapes.scenes import CATEGORIES, sample_scene
from ovavss.evaluation.evaluate import WORLD as TABLE
from ovavss.evaluation.evaluate import Prediction, evaluate, evaluate_world, world_clips

CLIPS, SEED = 4, 77


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def avsbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("avsbench")
    write_avsbench(root, [sample_scene(SEED, index) for index in range(CLIPS)], subset="v1m", split="test")
    return root


def test_the_truth_scores_a_hundred() -> None:
    # At the metric's own size: at others the published resizes of truth and prediction differ, and 100 is out of reach.
    clips = list(world_clips(SEED, 8, size=(224, 224)))
    result = evaluate(lambda clip: Prediction(clip.label_map, (clip.label_map > 0).astype(float)), clips, TABLE)
    assert result.scores.mean == result.scores.base == result.foreground == result.binary_miou == 1.0
    assert result.binary_f == pytest.approx(1.0)
    nothing = evaluate(lambda clip: Prediction(np.zeros_like(clip.label_map)), clips, TABLE)
    assert nothing.scores.base == 0.0 and nothing.empty == 1.0 and np.isnan(nothing.binary_miou)


def test_what_the_model_hears() -> None:
    heard: dict[str, list[np.ndarray]] = {}
    for sound in ("own", "silent", "swapped"):
        heard[sound] = []

        def listen(frames: np.ndarray, waveform: np.ndarray, sound: str = sound) -> np.ndarray:
            heard[sound].append(waveform)
            return np.zeros(frames.shape[:3], np.uint8)

        evaluate_world(listen, SEED, 3, sound=sound)  # type: ignore[arg-type]
    assert not any(w.any() for w in heard["silent"])
    for index in range(3):
        np.testing.assert_array_equal(heard["swapped"][index], heard["own"][(index + 1) % 3])


def test_predictions_on_disk_score_as_the_model(tmp_path: Path) -> None:
    saved, figures = tmp_path / "predictions", [tmp_path / "a.json", tmp_path / "b.json"]
    common = ["--num-clips", str(CLIPS), "--seed", str(SEED)]
    printed = run(
        *common,
        "--proposals",
        "all",
        "--save-predictions",
        str(saved),
        "--json",
        str(figures[0]),
        "--picture",
        str(tmp_path / "c.png"),
    )
    assert f"{CLIPS} clips: base" in printed and "background" in printed
    assert Image.open(tmp_path / "c.png").size[0] > 300
    run(*common, "--predictions", str(saved), "--json", str(figures[1]))
    first, second = (json.loads(path.read_text()) for path in figures)
    assert first["class_iou"] == second["class_iou"] and first["mean"] == second["mean"]
    assert first["binary_miou"] is not None and second["binary_miou"] is None
    assert len(first["class_iou"]) == 37 and first["classes"] == list(CATEGORIES)

    missing = next(saved.glob("*/00002.png"))
    content = missing.read_bytes()
    missing.unlink()
    assert "00002.png is missing; write one PNG for each frame" in refused(*common, "--predictions", str(saved))
    missing.write_bytes(b"no picture")
    assert "00002.png cannot be read" in refused(*common, "--predictions", str(saved))
    Image.fromarray(np.full((96, 96), 99, np.uint8)).save(missing)
    assert "holds id 99, above the 36 classes" in refused(*common, "--predictions", str(saved))
    Image.fromarray(np.zeros((9, 96), np.uint8)).save(missing)
    assert "must be an 8-bit label map" in refused(*common, "--predictions", str(saved))
    missing.write_bytes(content)
    assert "there is no folder of predictions" in refused(*common, "--predictions", str(tmp_path / "none"))


def test_a_folder_in_the_avsbench_layout(avsbench: Path, tmp_path: Path) -> None:
    printed = run("--data", str(avsbench), "--json", str(tmp_path / "a.json"))
    assert f"{CLIPS} clips: base" in printed
    broken = tmp_path / "broken"
    shutil.copytree(avsbench, broken)
    frame = sorted(broken.glob("AVSBench-openvoc/test/JPEGImages/*/*.jpg"))[0]
    frame.write_bytes(b"")
    message = refused("--data", str(broken))
    assert frame.name in message
    assert "is missing: give a folder in the AVSBench-OV layout" in refused("--data", str(tmp_path / "nothing"))


def test_json_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("--num-clips", "1", "--json", str(tmp_path / "file" / "a.json"))


def test_sounding_stamps_that_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = refused("--data", "sounding_stamps", "--offline", "--json", str(tmp_path / "a.json"))
    assert "could not be fetched" in message and "put it into" in message
    assert not list(tmp_path.iterdir())


def test_options_that_need_sounding_stamps() -> None:
    assert "--parts goes with --preset open_avs" in refused("--parts", "--data", "sounding_stamps")
    assert "need --data sounding_stamps" in refused("--sound", "noise10", "--num-clips", "1")
    assert "need --data sounding_stamps" in refused("--several", "0.5", "--num-clips", "1")
    assert "do not go with" in refused("--data", "sounding_stamps", "--picture", "a.png")


def test_a_checkpoint_on_sounding_stamps(tmp_path: Path) -> None:
    if not all(is_fetched(package) for package in packages().values() if package.registry == "debian"):
        pytest.skip("Sounding Stamps are not in the cache; run ovavss evaluate --data sounding_stamps once")
    path = tmp_path / "a.json"
    printed = run("--data", "sounding_stamps", "--num-clips", "2", "--offline", "--json", str(path))
    figures = json.loads(path.read_text())
    assert printed.startswith("2 clips, ") and figures["clips"] == 2 and figures["settings"]["seed"] == 1
