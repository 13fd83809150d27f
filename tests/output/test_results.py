"""The results folder: result.json, label maps, and what is left when something goes wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ovavss.errors import UserError
from ovavss.output.results import (
    ClipResult,
    Detection,
    ResultWriter,
    check_output_folder,
    encode_mask,
    voc_palette,
)

T, H, W = 5, 40, 64
NAMES = ["man", "piano", "Geige, größer"]


def window(index: int, names: list[str] = NAMES, snippets: int = T) -> tuple[ClipResult, np.ndarray, np.ndarray]:
    """A window with one query under two names, and a second object that is not there in frame 2."""
    random = np.random.default_rng(index)
    first, second = np.zeros((2, T, H, W), bool)
    first[:, 5:20, 10:30] = True
    second[:, 25:35, 40:64] = True
    second[2] = False
    last = len(names) - 1
    found = [
        Detection(7, 0, names[0], 0.9, first),
        Detection(3, last, names[last], 0.5, second),
        Detection(7, last, names[last], 0.2, first),
    ]
    label_map = np.where(first, 1, np.where(second, last + 1, 0)).astype(np.uint16 if len(names) > 255 else np.uint8)
    result = ClipResult(index, index * float(T), snippets, index * T + np.arange(T) + 0.5, found, label_map)
    frames = random.integers(0, 256, (T, H, W, 3), dtype=np.uint8)
    return result, frames, random.uniform(-0.1, 0.1, T * 16000).astype(np.float32)


def write(out: Path, windows: int = 1, names: list[str] = NAMES, last_snippets: int = T) -> dict[str, Any]:
    with ResultWriter(out, Path("clip.mp4"), names, (H, W), {"preset": "r50", "engines": Path("engines")}) as writer:
        for index in range(windows):
            writer.add(*window(index, names, last_snippets if index == windows - 1 else T))
    text = (out / "result.json").read_text(encoding="utf-8")
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(result, dict)
    return result


def left_beside(out: Path) -> list[str]:
    return sorted(entry.name for entry in out.parent.iterdir() if entry != out)


def test_box_area_and_rle_round_trip() -> None:
    mask = np.random.default_rng(0).random((31, 47)) > 0.7
    mask[:3], mask[:, :5], mask[29:], mask[:, 40:] = False, False, False, False
    mask[3, 20] = mask[28, 20] = mask[10, 5] = mask[10, 39] = True
    region = encode_mask(mask)
    assert region is not None and isinstance(region["segmentation"]["counts"], str)
    assert region["box"] == [5, 3, 40, 29]
    assert region["area"] == mask.sum()
    assert np.array_equal(coco_mask.decode(json.loads(json.dumps(region["segmentation"]))), mask)
    assert encode_mask(np.zeros((4, 4), bool)) is None
    full = encode_mask(np.ones((4, 6), bool))
    assert full is not None and full["box"] == [0, 0, 6, 4]


@pytest.mark.parametrize("windows", [0, 1, 4])
def test_result_json_is_valid_for_any_number_of_windows(tmp_path: Path, windows: int) -> None:
    result = write(tmp_path / "out", windows)
    assert {key: result[key] for key in ("format", "version", "video", "height", "width")} == {
        "format": "ovavss-result",
        "version": 1,
        "video": "clip.mp4",
        "height": H,
        "width": W,
    }
    assert result["classes"] == NAMES
    assert result["settings"] == {"preset": "r50", "engines": "engines"}
    assert [frame["index"] for frame in result["frames"]] == list(range(windows * T))
    assert [frame["time"] for frame in result["frames"]] == [index + 0.5 for index in range(windows * T)]
    assert [frame["window"] for frame in result["frames"]] == [index // T for index in range(windows * T)]
    maps = sorted(path.name for path in (tmp_path / "out/label_maps").iterdir())
    assert maps == [f"{index:06d}.png" for index in range(windows * T)]
    assert (tmp_path / "out/overlay.mp4").exists() == (tmp_path / "out/overlay.png").exists() == (windows > 0)
    assert left_beside(tmp_path / "out") == []


def test_objects_stand_best_first_and_empty_masks_are_left_out(tmp_path: Path) -> None:
    frames = write(tmp_path / "out")["frames"]
    found = [[(o["query"], o["name"], o["label"], o["score"]) for o in frame["objects"]] for frame in frames]
    everything = [(7, "man", 0, 0.9), (3, "Geige, größer", 2, 0.5), (7, "Geige, größer", 2, 0.2)]
    assert found[0] == everything
    assert found[2] == [everything[0], everything[2]]
    assert frames[0]["objects"][1]["box"] == [40, 25, 64, 35]
    assert frames[0]["objects"][1]["segmentation"]["size"] == [H, W]


def test_padding_snippets_are_not_written(tmp_path: Path) -> None:
    result = write(tmp_path / "out", windows=2, last_snippets=2)
    assert [frame["window"] for frame in result["frames"]] == [0] * 5 + [1] * 2
    assert len(list((tmp_path / "out/label_maps").iterdir())) == 7


def test_label_maps_have_the_voc_palette(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with Image.open(tmp_path / "out/label_maps/000000.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        assert np.array_equal(np.asarray(image), window(0)[0].label_map[0])
    assert len(np.unique(voc_palette(256), axis=0)) == 256


def test_more_than_255_classes_give_16_bit_label_maps(tmp_path: Path) -> None:
    names = [f"name {index}" for index in range(1000)]
    write(tmp_path / "out", names=names)
    with Image.open(tmp_path / "out/label_maps/000000.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), window(0, names)[0].label_map[0])
        assert np.asarray(image).max() == 1000


@pytest.mark.parametrize("existing", ["nothing", "an empty folder", "an earlier result"])
def test_a_failure_in_the_middle_changes_nothing(tmp_path: Path, existing: str) -> None:
    out = tmp_path / "new" / "out"
    if existing == "an empty folder":
        out.mkdir(parents=True)
    elif existing == "an earlier result":
        write(out)
    before = sorted(tmp_path.rglob("*"))
    content = (out / "result.json").read_bytes() if existing == "an earlier result" else b""
    with pytest.raises(KeyboardInterrupt), ResultWriter(out, Path("clip.mp4"), NAMES, (H, W), {}) as writer:
        writer.add(*window(0))
        assert len(left_beside(out)) == 1
        raise KeyboardInterrupt
    assert sorted(tmp_path.rglob("*")) == before
    assert not content or (out / "result.json").read_bytes() == content


def test_a_failure_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="holds no result"), ResultWriter(out, Path("v"), NAMES, (H, W), {}) as writer:
        writer.add(*window(0))
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "out"]


def test_a_full_disk_is_a_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", windows=3)
    write(tmp_path / "out", windows=1)
    assert len(list((tmp_path / "out/label_maps").iterdir())) == T
    assert left_beside(tmp_path / "out") == []


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_output_folder(out)
    (out / "result.json").write_text('{"format": "something else"}')
    with pytest.raises(UserError, match="holds no result"):
        check_output_folder(out)
    (out / "result.json").unlink()
    (out / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="holds no result"):
        ResultWriter(out, Path("clip.mp4"), NAMES, (H, W), {})
    assert [path.name for path in out.iterdir()] == ["photo.jpg"]


def test_a_file_beside_our_results_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write(tmp_path / "out")
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_places_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "a" / "out"):
        with pytest.raises(UserError, match="file"):
            check_output_folder(out)
    with pytest.raises(UserError, match="name too long"):
        check_output_folder(tmp_path / ("x" * 300))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="current folder"):
        check_output_folder(Path())
    # chmod does not stop root, so the question itself is answered.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=f"{tmp_path} is not writable"):
        check_output_folder(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "here"]


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    result, frames, sound = window(0)
    writer = ResultWriter(tmp_path / "out", Path("clip.mp4"), NAMES[:2], (H, W), {})
    with pytest.raises(RuntimeError):
        writer.add(result, frames, sound)
    with writer:
        with pytest.raises(ValueError, match="number of classes"):
            writer.add(result, frames, sound)
        with pytest.raises(ValueError, match="must be"):
            writer.add(result, frames[:, 1:], sound)
    assert json.loads((tmp_path / "out/result.json").read_text())["frames"] == []
