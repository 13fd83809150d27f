"""`ovavss segment` as users call it: what it writes, and one sentence for each mistake."""

import json
import pickle
import shutil
from pathlib import Path

import media_files
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.commands.class_names import parse_classes
from ovavss.commands.demo import SCENE, WORLD_SEED
from ovavss.datasets.sounding_shapes.disk import write_mp4
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.errors import UserError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["segment", *arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def refused(*arguments: str) -> str:
    """The one sentence; nothing else may go wrong."""
    result = CliRunner().invoke(app, ["segment", *arguments])
    assert result.exit_code == 2, f"{result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return media_files.write(path, seconds=6.6, size=(90, 120), rate=44_100)


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the world that the shipped weights know."""
    return write_mp4(sample_scene(WORLD_SEED, SCENE), tmp_path_factory.mktemp("sounding") / "clip.mp4", fps=25)


def test_open_avs_without_its_weights_and_offline_is_one_sentence(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = refused(str(video), "--offline", "--out", str(tmp_path / "out"))
    assert "could not be fetched" in message and "put it into" in message
    assert not list(tmp_path.iterdir())


def test_windows_and_files(video: Path, tiny_engines: Path, tmp_path: Path) -> None:
    printed = run(str(video), "--engines", str(tiny_engines), "--classes", "man,dog", "--out", str(tmp_path / "out"))
    assert "7 seconds in 2 windows" in printed
    assert len(json.loads((tmp_path / "out" / "result.json").read_text())["frames"]) == 7
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"result.json", "label_maps", "overlay.mp4", "overlay.png"}


@pytest.mark.parametrize("runner", ["onnxruntime", "openvino"])
def test_runners_find_what_pytorch_finds(sounding: Path, tiny_engines: Path, tmp_path: Path, runner: str) -> None:
    if runner == "openvino":
        pytest.importorskip("openvino", reason="pip install 'ovavss[openvino]'")
    run(str(sounding), "--engines", str(tiny_engines), "--runner", runner, "--out", str(tmp_path / "built"))
    run(str(sounding), "--runner", "torch", "--preset", "tiny", "--out", str(tmp_path / "torch"))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("built", "torch")]
    assert [len(r["frames"]) for r in results] == [5, 5]
    objects = 0
    for a, b in zip(results[0]["frames"], results[1]["frames"]):
        assert a["time"] == b["time"]
        assert [(o["query"], o["name"]) for o in a["objects"]] == [(o["query"], o["name"]) for o in b["objects"]]
        for one, two in zip(a["objects"], b["objects"]):
            assert one["score"] == pytest.approx(two["score"], abs=1e-3)
            masks = [coco_mask.decode(o["segmentation"]) for o in (one, two)]
            assert (masks[0] != masks[1]).sum() <= 2 < masks[0].sum()
            objects += 1
    assert objects >= 4
    for number in range(5):
        maps = [np.asarray(Image.open(tmp_path / r / "label_maps" / f"{number:06}.png")) for r in ("built", "torch")]
        assert (maps[0] != maps[1]).sum() <= 4


def test_looking_until_sure(sounding: Path, tmp_path: Path) -> None:
    common = [str(sounding), "--preset", "tiny"]
    crops = {}
    for limit in ("0", "1"):
        printed = run(*common, "--confidence-threshold", limit, "--out", str(tmp_path / limit))
        crops[limit] = int(printed.split(" crops")[0].split()[-1])
    assert 0 < crops["0"] < crops["1"]
    assert json.loads((tmp_path / "0" / "result.json").read_text())["settings"]["confidence_threshold"] == 0


def test_a_thousand_names(video: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing number {i}" for i in range(1000)), encoding="utf-8")
    run(str(video), "--preset", "tiny", "--classes", f"@{names}", "--out", str(tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(result["classes"]) == 1000
    assert Image.open(tmp_path / "out" / "label_maps" / "000000.png").mode.startswith("I")


def test_sounding_proposals_only(video: Path, tmp_path: Path) -> None:
    arguments = [str(video), "--preset", "tiny", "--classes", "a,b", "--proposals", "sounding"]
    run(*arguments, "--sound-threshold", "1", "--out", str(tmp_path / "out"))
    frames = json.loads((tmp_path / "out" / "result.json").read_text())["frames"]
    assert len(frames) == 7 and not any(frame["objects"] for frame in frames)


def test_names_are_stripped() -> None:
    assert parse_classes(" man , piano ") == ["man", "piano"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "the list of classes is empty"),
        ("man,,dog", "class name 2 of 3 is empty"),
        ("man,dog,man", "class name 'man' is there twice"),
        ("@missing.txt", r"the class list missing\.txt cannot be read"),
    ],
)
def test_bad_class_lists(classes: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_classes(classes)


def test_bad_input(video: Path, tiny_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    torch_runner = ["--runner", "torch", "--preset", "tiny", "--out", str(out)]
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    silent = media_files.write(tmp_path / "silent.mp4", sounds=None)
    cut = media_files.write(tmp_path / "cut.mp4", seconds=8, fps=25, size=(120, 160))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert "there is no file" in refused(str(tmp_path / "none.mp4"), *torch_runner)
    assert "notes.mp4 is not a video that can be read" in refused(str(text), *torch_runner)
    assert "silent.mp4 has no sound track; pass --silent" in refused(str(silent), *torch_runner)
    assert "cut.mp4 is truncated" in refused(str(cut), *torch_runner)
    assert "the list of classes is empty" in refused(str(video), "--classes", "", *torch_runner)
    assert "is empty; remove the extra comma" in refused(str(video), "--classes", "a,,b", *torch_runner)
    assert "'a' is there twice" in refused(str(video), "--classes", "a,b,a", *torch_runner)
    assert "needs --engines DIR" in refused(str(video), "--runner", "onnxruntime", "--out", str(out))
    engines = ["--engines", str(tiny_engines), "--out", str(out)]
    assert "hold their own preset and weights: leave --preset out" in refused(
        str(video), "--preset", "open_avs", *engines
    )
    assert "exclude each other" in refused(str(video), "--runner", "torch", *engines)
    assert "there is no engines folder" in refused(str(video), "--engines", str(tmp_path / "x"), "--out", str(out))
    lacking = tmp_path / "lacking"
    shutil.copytree(tiny_engines, lacking)
    (lacking / "clip_image_encoder.onnx").unlink()
    message = refused(str(video), "--engines", str(lacking), "--out", str(out))
    assert "lacks the graph 'clip_image_encoder'" in message
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(str(video), "--runner", "torch", "--out", str(tmp_path / "file" / "out"))
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_bad_weights(video: Path, tmp_path: Path) -> None:
    out, touched = tmp_path / "out", tmp_path / "touched"
    arguments = [str(video), "--runner", "torch", "--preset", "tiny", "--out", str(out), "--weights"]
    harmful = tmp_path / "harmful.pth"
    torch.save({"model": _Harm(touched)}, harmful)
    assert "harmful.pth holds pickled code" in refused(*arguments, str(harmful))
    harmful_pickle = tmp_path / "harmful.pkl"
    harmful_pickle.write_bytes(pickle.dumps({"model": _Harm(touched)}))
    assert "harmful.pkl holds pickled code" in refused(*arguments, str(harmful_pickle))
    assert not touched.exists() and not out.exists()


def test_a_silent_video_can_be_segmented(tmp_path: Path) -> None:
    silent = media_files.write(tmp_path / "silent.mp4", sounds=None)
    run(str(silent), "--preset", "tiny", "--classes", "a,b", "--silent", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            "--url grpc://localhost:9 --preset r50",
            "--url takes the model and the runtime of its server: leave --preset",
        ),
        ("--url grpc://localhost:9 --runner torch --seed 0", "leave --seed, --runner out"),
        ("--url grpc://localhost:9 --precision fp32 --partial", "leave --precision, --partial out"),
        (
            "--url grpc://localhost:9 --clip-weights hub --weights a.pth --engines E",
            "leave --engines, --weights, --clip-weights",
        ),
        ("--deadline 5", "without --url nothing has a deadline: leave --deadline out"),
        ("--weights a.pth", "preset 'open_avs' brings its own weights: leave --weights out"),
        ("--set min_hear=.1", "there is no threshold 'min_hear'; choose from min_loudness, min_heard"),
        ("--set tiles=1.5", "'1.5' is not an integer of at least 0"),
        ("--set zoom=nan", "'nan' is not a number of at least 0"),
        ("--set zoom=1 --set zoom=2", "--set gives 'zoom' twice"),
        ("--preset tiny --set zoom=1", "only preset 'open_avs' has such thresholds: leave --set out"),
        ("--proposals sounding", "only the presets of OV-AVSS have such a switch: leave --proposals out"),
        (
            "--preset open_avs --seed 3",
            "preset 'open_avs' brings its own weights: leave --seed out",
        ),
    ],
)
def test_options_without_a_meaning_are_refused(video: Path, tmp_path: Path, options: str, says: str) -> None:
    refusal = refused(str(video), "--out", str(tmp_path / "out"), *options.split())
    assert says in refusal
    assert not (tmp_path / "out").exists()
