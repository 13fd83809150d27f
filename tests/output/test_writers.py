"""Each format is read back by a library of its own, and holds what the result holds."""

import html
import json
from pathlib import Path

import numpy as np
import pytest
import webvtt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ovavss.errors import UserError
from ovavss.media.video import ReadOptions
from ovavss.output.annotations import AnnotatedVideo
from ovavss.output.results import ClipResult, Detection, ResultWriter
from ovavss.output.tracks import Result
from ovavss.output.writers import WRITERS

NAMES = ("dog", "cat & <b>mouse</b> -->", "bird")
SIZE = (12, 16)


def window(index: int, found: list[tuple[int, float, list[slice | None]]], snippets: int = 3) -> ClipResult:
    """Three frames of 12 x 16; each detection has a label, a score and the columns that it covers in each frame."""
    label_map, detections = np.zeros((3, *SIZE), np.uint8), []
    for query, (label, score, columns) in enumerate(found):
        masks = np.zeros((3, *SIZE), bool)
        for second, where in enumerate(columns):
            if where is not None:
                masks[second, 2:10, where] = True
        label_map[masks & (label_map == 0)] = label + 1
        detections.append(Detection(query, label, NAMES[label], score, masks))
    times = 3.0 * index + np.arange(3) + 0.5
    return ClipResult(index, 3.0 * index, snippets, times, detections, label_map)


left, middle, right = slice(0, 5), slice(4, 9), slice(11, 16)
WINDOWS = (
    window(0, [(0, 0.9, [left, left, left]), (1, 0.8, [None, right, None]), (2, 0.1, [left, left, left])]),
    window(1, [(0, 0.7, [middle, None, middle]), (1, 0.5, [right, right, right])]),
    window(2, [(0, 0.6, [right, right, right]), (1, 0.4, [left, None, None])], snippets=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with every format; the third name is hidden by the first."""
    out = tmp_path_factory.mktemp("writers") / "found"
    with ResultWriter(out, Path("clip.mp4"), NAMES, SIZE, {}, ["coco,vtt", "youtube_vis", "coco"]) as writer:
        for each in WINDOWS:
            writer.add(each, np.zeros((3, *SIZE, 3), np.uint8), np.zeros(3 * 16_000, np.float32))
    assert {path.name for path in out.iterdir()} >= {file for file, _ in WRITERS.values()}
    return out


def test_tracks_are_those_of_the_result(folder: Path) -> None:
    expected = Result(Path("clip.mp4"), NAMES, SIZE, WINDOWS, "tiny", ReadOptions()).tracks
    found: dict[int, list[tuple[str, float, np.ndarray]]] = {}
    video = AnnotatedVideo.open(folder)
    for frame in video.frames():
        for each in frame.objects:
            mask = coco_mask.decode(each.segmentation).astype(bool)
            found.setdefault(each.track, []).append((NAMES[each.label], frame.time, mask))
    assert sorted(found) == list(range(1, len(expected) + 1)) and len(expected) == 5
    wanted = sorted((t.name, t.times.tolist(), t.masks.tolist()) for t in expected)
    assert wanted == sorted(
        (parts[0][0], [time for _, time, _ in parts], [mask.tolist() for _, _, mask in parts])
        for parts in found.values()
    )


def test_coco(folder: Path) -> None:
    coco = COCO(folder / "coco.json")
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(NAMES)
    assert [image["time"] for image in coco.loadImgs(coco.getImgIds())] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == 12 and {each["track_id"] for each in annotations} == {1, 2, 3, 4, 5}
    for each in annotations:
        mask = coco.annToMask(each).astype(bool)
        second, label = each["image_id"] - 1, each["category_id"] - 1
        window = WINDOWS[second // 3]
        assert any((found.masks[second % 3] == mask).all() for found in window.detections if found.label == label)
        x, y, width, height = each["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum() == each["area"]


def test_youtube_vis(folder: Path) -> None:
    content = json.loads((folder / "youtube_vis.json").read_text())
    (video,) = content["videos"]
    assert (video["length"], video["height"], video["width"]) == (8, *SIZE)
    dog = content["annotations"][0]
    assert (dog["category_id"], dog["score"]) == (1, 0.9)
    shown = [mask is not None for mask in dog["segmentations"]]
    assert shown == [True, True, True, True, False, True, False, False]
    assert [box is not None for box in dog["bboxes"]] == [area is not None for area in dog["areas"]] == shown
    np.testing.assert_array_equal(coco_mask.decode(dog["segmentations"][3]), WINDOWS[1].detections[0].masks[0])


def test_webvtt(folder: Path) -> None:
    cues = [(cue.start, cue.end, html.unescape(cue.text)) for cue in webvtt.read(str(folder / "names.vtt"))]
    assert cues[0] == ("00:00:00.000", "00:00:04.000", "dog (0.90)")
    assert ("00:00:03.000", "00:00:07.000", "cat & <b>mouse</b> --> (0.50)") in cues
    assert [text for _, _, text in cues].count("dog (0.70)") == 1 and len(cues) == 4


def test_no_frame_at_all(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "found", Path("clip.mp4"), NAMES, SIZE, {}, WRITERS):
        pass
    assert COCO(tmp_path / "found" / "coco.json").getAnnIds() == []
    assert json.loads((tmp_path / "found" / "youtube_vis.json").read_text())["annotations"] == []
    assert not list(webvtt.read(str(tmp_path / "found" / "names.vtt")))


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format 'cocoa' is unknown; choose of coco, youtube_vis, vtt"):
        ResultWriter(tmp_path / "found", Path("clip.mp4"), NAMES, SIZE, {}, ["vtt,cocoa"])
    assert not list(tmp_path.iterdir())
