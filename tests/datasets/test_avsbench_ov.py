"""The AVSBench-OV reader, on a small data set written here and on one that the synthetic world writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_set import load
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import wavfile

from ovavss.datasets import avsbench_ov
from ovavss.datasets.avsbench_ov import AVSBENCH_OV, AvsbenchTest, AvsbenchTraining, CategoryTable, read_categories
from ovavss.datasets.sounding_shapes.disk import write_avsbench
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import BASE, CATEGORIES, NOVEL, sample_scene
from ovavss.errors import UserError

H, W = 24, 32
SQUARE = [4, 4, 12, 4, 12, 10, 4, 10]
JSON, CSV = "AVSBench-openvoc/avsbench_ov_train_base.json", "AVSBench-semantic/metadata.csv"
RNG = np.random.default_rng(0)


def rle(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def blob() -> np.ndarray:
    return np.random.default_rng(2).random((H, W)) < 0.4


def annotation(i: int, video: int, category: int, segmentations: list) -> dict[str, Any]:
    boxes = [[0, 0, 1, 1] if s else None for s in segmentations]
    return {"id": i, "video_id": video, "category_id": category, "iscrowd": 0, "bboxes": boxes,
            "segmentations": segmentations}  # fmt: skip


def edit_json(root: Path, change: Callable[[dict], Any]) -> None:
    data = json.loads((root / JSON).read_text())
    change(data)
    (root / JSON).write_text(json.dumps(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training videos a (v1s), b (v1m), c (v2), d (no annotation); test videos p (v1m) and q (v2)."""
    openvoc, semantic = tmp_path / "AVSBench-openvoc", tmp_path / "AVSBench-semantic"
    palette, rows, videos = avsbench_ov.voc_palette(71), ["vid,uid,s_min,s_sec,a_obj,split,label"], []
    subsets = {"a": "v1s", "b": "v1m", "c": "v2", "d": "v1m", "p": "v1m", "q": "v2"}
    for number, (name, subset) in enumerate(subsets.items()):
        length, split = (10 if subset == "v2" else 5), ("test" if name in "pq" else "train")
        images, folder = openvoc / split / "JPEGImages" / name, semantic / subset / name
        images.mkdir(parents=True)
        (folder / "labels_rgb").mkdir(parents=True)
        for t in range(length):
            Image.new("RGB", (W, H), (10 * t, number, 200)).save(images / f"{t}.png")
            labels = np.full((H, W), 9, np.uint8)
            labels[:, : t + 1] = 69
            Image.fromarray(palette[labels]).save(folder / "labels_rgb" / f"{t}.png")
        wavfile.write(folder / "audio.wav", 16000, np.full(16000 * length, 8192, np.int16))
        rows.append(f"x,{name},0,0,{'cat_wolf' if name == 'p' else 'wolf'},{split},{subset}")
        if split == "train":
            files = [f"{name}/{t}.png" for t in range(length)]
            videos.append({"id": number, "file_names": files, "height": H, "width": W, "length": length,
                           "label": subset})  # fmt: skip
    annotations = [
        annotation(1, 0, 9, [[SQUARE]]),
        annotation(2, 1, 12, [None, rle(blob(), True), rle(blob(), False), None, [[1, 2, 3], SQUARE, [0] * 7]]),
        annotation(3, 1, 9, [None] * 5),
        annotation(4, 2, 63, [[SQUARE]] * 3 + [None] * 7),
        annotation(5, 2, 12, [[SQUARE]] * 10) | {"iscrowd": 1},
    ]
    data = {"videos": videos, "annotations": annotations,
            "categories": [{"id": i, "name": AVSBENCH_OV.names[i - 1]} for i in AVSBENCH_OV.base_ids]}  # fmt: skip
    (tmp_path / JSON).write_text(json.dumps(data))
    (tmp_path / CSV).write_text("\n".join(rows))
    (semantic / "label2idx.json").write_text(
        json.dumps({"background": 0} | {name: i + 1 for i, name in enumerate(AVSBENCH_OV.names)})
    )
    return tmp_path


@pytest.mark.golden
def test_golden_palette_and_category_groups() -> None:
    palette = load("06_open_vocabulary")["palette_71"]
    assert (avsbench_ov.voc_palette(len(palette)) == palette).all()
    assert len(AVSBENCH_OV.names) == 70 and len(AVSBENCH_OV.base_ids) == 40
    assert list(AVSBENCH_OV.base_ids) == load("09_metric")["seen_ids"].tolist()
    assert list(AVSBENCH_OV.novel_ids) == load("09_metric")["unseen_ids"].tolist()


def test_colors_to_ids() -> None:
    palette = avsbench_ov.voc_palette(71)
    assert len(np.unique(avsbench_ov.voc_palette(256), axis=0)) == 256
    assert (avsbench_ov.rgb_to_ids(palette[None], palette) == np.arange(71)).all()
    unknown = np.array([[[1, 2, 3], [255, 255, 255], [128, 0, 0]]], np.uint8)
    with pytest.raises(UserError, match=r"0.png has 2 pixels of colors that the category table lacks.*\(1, 2, 3\)"):
        avsbench_ov.rgb_to_ids(unknown, palette, "0.png")


def _gray_ids(label: Image.Image) -> Image.Image:
    return Image.fromarray(np.full((H, W), 69, np.uint8))


def _smoothed(label: Image.Image) -> Image.Image:
    return label.resize((W // 2, H // 2), Image.Resampling.BILINEAR).resize((W, H), Image.Resampling.BILINEAR)


def _transparent(label: Image.Image) -> Image.Image:
    label.putalpha(Image.new("L", (W, H), 0))
    return label


def _recolored(label: Image.Image) -> Image.Image:
    indexed = label.convert("P", palette=Image.Palette.ADAPTIVE)
    indexed.putpalette([value // 2 for value in indexed.getpalette() or []])
    return indexed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_gray_ids, r"colors that the category table lacks, the first is \(69, 69, 69\)"),
        (_smoothed, "colors that the category table lacks"),
        (_transparent, r"768 transparent pixels, whose label is not known \(alpha 0"),
        (_recolored, "colors that the category table lacks"),
    ],
)
def test_damaged_label_images_are_refused(root: Path, damage: Callable[..., Image.Image], message: str) -> None:
    path = root / LABEL
    damage(Image.open(path).convert("RGB")).save(path)
    with pytest.raises(UserError, match=rf"labels_rgb/0.png has .*{message}"):
        AvsbenchTest(root).item(0)


def test_category_tables(root: Path) -> None:
    assert read_categories(root) is AVSBENCH_OV
    labels = root / "AVSBench-semantic" / "label2idx.json"
    labels.write_text(json.dumps({"b": 2, "a": 1, "c": 3}))
    edit_json(root, lambda d: d.update(categories=[{"id": 2, "name": "b"}, {"id": 3, "name": "c"}]))
    assert read_categories(root) == CategoryTable(("a", "b", "c"), base_ids=(2, 3), novel_ids=(1,))
    other = CategoryTable(("a", "b", "c"), (1,), (2, 3))
    assert read_categories(root, known=(AVSBENCH_OV, other)) is other
    labels.write_text(json.dumps({"a": 1, "c": 3}))
    with pytest.raises(UserError, match=r"label2idx.json: category ids are not 1 to 2: number the classes"):
        read_categories(root)
    labels.unlink()  # then the names are those of the JSON, and base is what it annotates
    edit_json(root, lambda d: d.update(categories=[{"id": i, "name": f"n{i}"} for i in range(1, 65)]))
    assert read_categories(root).base_ids == (9, 12, 63)


def test_training_items(root: Path) -> None:
    data = AvsbenchTraining(root)
    assert [v.name for v in data.videos] == ["a", "b", "c"]  # d has no annotation
    assert [v.name for v in AvsbenchTraining(root, keep_empty=True).videos] == ["a", "b", "c", "d"]
    square = np.zeros((H, W), bool)
    square[4:10, 4:12] = True

    clip = data.item(0, RNG)  # v1s: entry [0] only
    assert clip.frames.shape == (5, H, W, 3) and clip.frames.dtype == np.uint8 and clip.subset == "v1s"
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40] and clip.patches.tolist() == [0, 1, 2, 3, 4]
    assert clip.waveform.dtype == np.float32 and clip.waveform.shape == (80000,) and clip.waveform[0] == 0.25
    assert clip.category_ids.tolist() == [9]
    assert (clip.masks[0] == [square, *[np.zeros_like(square)] * 4]).all()

    clip = data.item(1, RNG)  # annotation 3 is absent everywhere; odd and short polygons are dropped
    assert clip.category_ids.tolist() == [12] and clip.masks.shape == (1, 5, H, W)
    empty = np.zeros_like(square)
    assert (clip.masks[0] == [empty, blob(), blob(), empty, square]).all()
    clip = data.read(2, [5, 6, 7, 8, 9])
    assert clip.patches.tolist() == [5, 6, 7, 8, 9] and clip.frames[0, 0, 0, 0] == 50
    assert clip.category_ids.shape == (0,) and clip.masks.shape == (0, 5, H, W)  # crowd is skipped


def test_rasterise_after_resize_and_flip() -> None:
    size = (2 * H, 3 * W)
    polygon = avsbench_ov.rasterise([SQUARE], (H, W), size)
    expected = np.zeros(size, bool)
    expected[8:20, 12:36] = True
    assert (polygon == expected).all()
    assert (avsbench_ov.rasterise([SQUARE], (H, W), size, flip=True) == expected[:, ::-1]).all()
    mask = avsbench_ov.rasterise(rle(blob(), False), (H, W), (17, 40), flip=True)
    resized = Image.fromarray(blob().astype(np.uint8)).resize((40, 17), Image.Resampling.NEAREST)
    assert (mask == np.asarray(resized)[:, ::-1].astype(bool)).all()
    assert not avsbench_ov.rasterise(None, (H, W), size).any()


def test_frame_sampling() -> None:
    rng = np.random.default_rng(1)
    assert avsbench_ov.sample_frames(5, 5, rng) == [0, 1, 2, 3, 4]
    counts = np.zeros(100, int)
    for _ in range(500):
        chosen = avsbench_ov.sample_frames(100, 5, rng)
        assert chosen == sorted(set(chosen)) and len(chosen) == 5 and chosen[-1] - chosen[0] <= 40
        counts[chosen] += 1
    assert (counts > 0).all()
    with pytest.raises(ValueError):
        avsbench_ov.sample_frames(4, 5, rng)


def test_test_items(root: Path) -> None:
    data = AvsbenchTest(root)
    clips = [data.item(i) for i in range(len(data))]
    assert [(c.video, c.subset, c.patches.tolist()) for c in clips] == [
        ("p", "v1m", [0, 1, 2, 3, 4]), ("q", "v2", [0, 1, 2, 3, 4]), ("q", "v2", [5, 6, 7, 8, 9]),
    ]  # fmt: skip
    assert clips[0].clip_labels == (12, 69) and clips[2].clip_labels == (69,)
    assert clips[2].frames[0, 0, 0, 0] == 50 and len(clips[2].waveform) == 160000
    assert clips[2].label_map.dtype == np.uint8 and clips[2].label_map.shape == (5, H, W)
    assert (clips[2].label_map == 69).sum((1, 2)).tolist() == [H * n for n in range(6, 11)]


def test_reads_what_the_synthetic_world_writes(tmp_path: Path) -> None:
    five, ten = sample_scene(5, 0), sample_scene(5, 1, snippets=10)
    write_avsbench(tmp_path, [five], "v1m", "train")
    write_avsbench(tmp_path, [five], "v1s", "train")
    write_avsbench(tmp_path, [ten], "v2", "test")
    table = read_categories(tmp_path)
    assert table.names == CATEGORIES
    assert table.base_ids == tuple(i + 1 for i in BASE) and table.novel_ids == tuple(i + 1 for i in NOVEL)

    world = render(five, (96, 96))
    clip = AvsbenchTraining(tmp_path, keep_empty=True).item(0, RNG)
    wanted = [k for k in range(len(world.categories)) if (world.masks[k] & world.sounding[k][:, None, None]).any()]
    assert clip.category_ids.tolist() == [int(world.categories[k]) + 1 for k in wanted]
    assert (clip.masks == (world.masks & world.sounding[:, :, None, None])[wanted]).all()
    assert np.abs(clip.frames.astype(int) - world.frames).mean() < 6  # JPEG
    assert np.abs(clip.waveform - world.waveform).max() <= 0.6 / 32768
    first = AvsbenchTraining(tmp_path, keep_empty=True).item(1, RNG)
    assert first.subset == "v1s" and not first.masks[:, 1:].any()

    test = AvsbenchTest(tmp_path)
    label_map = np.concatenate([test.item(i).label_map for i in range(2)])
    assert len(test) == 2 and (label_map == render(ten, (96, 96)).label_map).all()
    assert set(np.unique(label_map)) - {0} <= set(test.item(0).clip_labels)


def test_wav(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    t = np.arange(5 * 44100) / 44100
    tone = 16384 * np.sin(2 * np.pi * 440 * t)
    wavfile.write(path, 44100, np.stack([tone, np.zeros_like(tone)], 1).astype(np.int16))
    wave = avsbench_ov.read_wav(path, 5)
    assert wave.shape == (80000,)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(80000) / 16000)
    np.testing.assert_allclose(wave[1000:-1000], expected[1000:-1000], atol=2e-4)
    assert avsbench_ov.samples_needed(5) == 77040
    wavfile.write(path, 16000, np.zeros(77040, np.int16))
    assert len(avsbench_ov.read_wav(path, 5)) == 77040  # exactly enough
    wavfile.write(path, 16000, np.zeros(77039, np.int16))
    assert len(avsbench_ov.read_wav(path)) == 77039
    with pytest.raises(UserError, match=r"audio.wav is too short: 4.815 s of sound where the clip's 5 frames need"):
        avsbench_ov.read_wav(path, 5)
    wavfile.write(path, 16000, np.zeros(80000, np.float32))
    with pytest.raises(UserError, match=r"audio.wav holds float32 samples: convert it to PCM 16-bit\."):
        avsbench_ov.read_wav(path)


FRAME, TEST_FRAME = "AVSBench-openvoc/train/JPEGImages/a/3.png", "AVSBench-openvoc/test/JPEGImages/p/3.png"
WAV, TEST_WAV = "AVSBench-semantic/v1s/a/audio.wav", "AVSBench-semantic/v1m/p/audio.wav"
LABEL = "AVSBench-semantic/v1m/p/labels_rgb/0.png"
Change = Callable[[Path], Any]


def remove(name: str) -> Change:
    return lambda root: (root / name).unlink()


def write(name: str, text: str) -> Change:
    return lambda root: (root / name).write_text(text)


def halve(name: str) -> Change:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size // 2])


def replace(name: str, old: str, new: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def shorten(name: str) -> Change:
    return lambda root: wavfile.write(root / name, 16000, np.zeros(60000, np.int16))


def edit(change: Callable[[list, list], Any]) -> Change:
    return lambda root: edit_json(root, lambda data: change(data["videos"], data["annotations"]))


TRAIN_CASES: list[tuple[Change, str]] = [
    (remove(FRAME), r"a/3.png is missing: restore the image or remove its video"),
    (halve(FRAME), r"a/3.png cannot be read as an image: copy it again"),
    (lambda r: Image.new("RGB", (9, 8)).save(r / FRAME), r"a/3.png is 9 x 8 pixels where its video is 32 x 24: rest"),
    (remove(WAV), r"a/audio.wav is missing: restore it"),
    (write(WAV, "no"), r"a/audio.wav cannot be read as a WAV file \("),
    (halve(WAV), r"a/audio.wav (is too short|cannot be read)"),
    (shorten(WAV), r"audio.wav is too short: 3.750 s of sound where the clip's 5 frames need 4.815 s: extract the"),
    (remove(JSON), r"avsbench_ov_train_base.json is missing: give a folder in the AVSBench-OV layout"),
    (halve(JSON), r"avsbench_ov_train_base.json cannot be read as JSON \("),
    (edit(lambda v, a: a[0].update(category_id=99)), r"base.json has category 99, which the category table lacks: cor"),
    (replace(JSON, "airplane", "kazoo"), r"has category 2 \('kazoo'\), which the category table lacks: correct it"),
    (edit(lambda v, a: v[0].pop("height")), r"base.json is malformed \(KeyError\('height'\)\): write it as AVSBench"),
    (edit(lambda v, a: a[0].update(segmentations=[])), r"base.json is malformed"),
    (edit(lambda v, a: a[1]["segmentations"][1].pop("counts")), r"base.json is malformed"),
    (edit(lambda v, a: a[1]["segmentations"][1].update(size=[W, H])), r"annotation 2 has an RLE of another size than"),
    (edit(lambda v, a: a[1]["segmentations"].pop()), r"annotation 2 has 4 segmentations and 5 boxes for 5 frames"),
    (edit(lambda v, a: v[0].update(label="v3")), r"video 0 has label 'v3': write one of v1s, v1m, v2"),
    (edit(lambda v, a: v[0]["file_names"].pop()), r"video 0 has 4 frames: give at least 5"),
    (replace(JSON, "a/0.png", "a/x.png"), r"a/x.png: a frame's name begins with the number of its second: rename it"),
]
TEST_CASES: list[tuple[Change, str]] = [
    (remove(LABEL), r"labels_rgb has 4 label images for 5 frames: restore them"),
    (halve(LABEL), r"labels_rgb/0.png cannot be read as an image: copy it again"),
    (remove(TEST_FRAME), r"p has 4 frames: restore it to a multiple of 5"),
    (remove(CSV), r"metadata.csv is missing: give a folder in the AVSBench-OV layout"),
    (replace(CSV, "x,p,", "x,z,"), r"metadata.csv has no row for video p: add it or remove the folder"),
    (replace(CSV, "cat_wolf", "cat_kazoo"), r"video p has class 'kazoo', which the category table lacks: correct the"),
    (replace(CSV, "test,v1m", "test,v9"), r"metadata.csv: video p has subset 'v9': write one of v1s, v1m, v2"),
    (shorten(TEST_WAV), r"p/audio.wav is too short: 3.750 s of sound"),
]
BAD_DATA = [(*case, False) for case in TRAIN_CASES] + [(*case, True) for case in TEST_CASES]


@pytest.mark.parametrize(("change", "message", "test"), BAD_DATA)
def test_bad_data(root: Path, change: Change, message: str, test: bool) -> None:
    change(root)
    with pytest.raises(UserError, match=message) as error:
        AvsbenchTest(root).item(0) if test else AvsbenchTraining(root).item(0, RNG)
    assert "\n" not in str(error.value)
