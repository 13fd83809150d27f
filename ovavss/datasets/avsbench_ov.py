"""Reader of the AVSBench-OV disk layout (spec section 10), for the real data set and for any other category table."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovavss.datasets.avsbench_ov_files import (
    AVSBENCH_OV,
    TRAIN_JSON,
    CategoryTable,
    Clip,
    TestClip,
    TrainingClip,
    is_system_file,
    rasterise,
    read_categories,
    read_image,
    read_json,
    read_wav,
    rgb_to_ids,
    samples_needed,
)
from ovavss.datasets.palette import voc_palette
from ovavss.errors import UserError

__all__ = [
    "AVSBENCH_OV", "AvsbenchTest", "AvsbenchTraining", "CategoryTable", "Clip", "TestClip", "TrainingClip", "rasterise",
    "read_categories", "read_wav", "rgb_to_ids", "sample_frames", "samples_needed", "voc_palette",
]  # fmt: skip

SUBSETS = ("v1s", "v1m", "v2")
_SPLIT_JSON = {"train": TRAIN_JSON, "val": "avsbench_ov_val_base_novel.json"}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_Row = tuple[int, list[list[Any] | dict[str, Any] | None]]  # category id, one segmentation a frame


def sample_frames(length: int, num_frames: int, rng: np.random.Generator, window: int = 20) -> list[int]:
    """Training sampling: a uniform reference frame and num_frames - 1 others within +-window of it, sorted.

    The others are drawn without replacement. Raises ValueError if the video or the window has too few frames.
    """
    reference = int(rng.integers(length))
    others = [i for i in range(max(0, reference - window), min(length, reference + window + 1)) if i != reference]
    return sorted([reference, *(int(i) for i in rng.choice(others, num_frames - 1, replace=False))])


def _patch(path: Path | str) -> int:
    name = Path(path).name
    if not ("0" <= name[0] <= "9"):
        raise UserError(f"{path}: a frame's name begins with the number of its second: rename it, for instance 0.png.")
    return int(name[0])


def _wav(root: Path, subset: str, video: str) -> Path:
    return root / "AVSBench-semantic" / subset / video / "audio.wav"


def _frames(paths: list[Path], size: tuple[int, int] | None = None, opaque: bool = False) -> NDArray[np.uint8]:
    """Stack images to uint8 [T, H, W, 3]; all have one size, and it is `size` (H, W) if given."""
    images = [read_image(path, opaque) for path in paths]
    height, width = size or images[0].shape[:2]
    for path, image in zip(paths, images):
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{path} is {image.shape[1]} x {image.shape[0]} pixels where its video is {width} x {height}: "
                "restore the original image."
            )
    return np.stack(images)


def _segmentation(entry: Any, box: Any) -> list[Any] | dict[str, Any] | None:
    """One frame of an annotation: valid polygons, an RLE, or None where the instance is absent."""
    if not entry or not box:
        return None
    if isinstance(entry, dict):
        if len(entry["size"]) != 2 or not isinstance(entry["counts"], list | str):
            raise TypeError("an RLE holds size (two numbers) and counts (a list or a string)")
        return entry
    return [polygon for polygon in entry if len(polygon) % 2 == 0 and len(polygon) >= 6] or None


@dataclass(frozen=True)
class _Video:
    name: str
    subset: str
    files: list[str]
    size: tuple[int, int]
    annotations: list[_Row]


class AvsbenchTraining:
    """The training (or validation) videos of the JSON.

    Annotations with `iscrowd` are skipped, as is usual for this format.

    Args:
        root: the folder that holds AVSBench-openvoc and AVSBench-semantic.
        split: "train" or "val".
        table: category table, default `read_categories(root)`.
        num_frames: T of a training item.
        keep_empty: keep the videos without an annotation, which the published training drops.

    Raises:
        UserError: the JSON is missing, malformed, disagrees with the table, or has a video with fewer than T frames.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        table: CategoryTable | None = None,
        num_frames: int = 5,
        keep_empty: bool = False,
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.keep_empty = keep_empty
        self.table = table or read_categories(self.root)
        self.num_frames = num_frames
        self.path = self.root / "AVSBench-openvoc" / _SPLIT_JSON[split]
        data = read_json(self.path)
        try:
            self._check_categories(data)
            self.videos = self._read_videos(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path} is malformed ({error!r}): write it as AVSBench-OV does.") from None

    def _check_categories(self, data: dict[str, Any]) -> None:
        names = self.table.names
        for c in [*data["categories"], *({"id": a["category_id"], "name": None} for a in data["annotations"])]:
            i, name = int(c["id"]), c["name"]
            if not 1 <= i <= len(names) or name not in (None, names[i - 1]):
                called = f" ({name!r})" if name else ""
                raise UserError(
                    f"{self.path} has category {i}{called}, which the category table lacks: correct it there or in "
                    "label2idx.json."
                )

    def _read_videos(self, data: dict[str, Any]) -> list[_Video]:
        annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in data["annotations"]:
            if not annotation.get("iscrowd", 0):
                annotations.setdefault(annotation["video_id"], []).append(annotation)
        videos = []
        for v in data["videos"]:
            if v["id"] not in annotations and not self.keep_empty:
                continue
            files, subset = [str(f) for f in v["file_names"]], str(v["label"])
            where = f"{self.path}: video {v['id']}"
            if subset not in SUBSETS:
                raise UserError(f"{where} has label {subset!r}: write one of {', '.join(SUBSETS)}.")
            if len(files) < self.num_frames:
                raise UserError(f"{where} has {len(files)} frames: give at least {self.num_frames} or remove it.")
            size = (int(v["height"]), int(v["width"]))
            rows = [self._row(a, len(files), subset, size) for a in annotations.get(v["id"], [])]
            videos.append(_Video(Path(files[0]).parts[0], subset, files, size, rows))
        return videos

    def _row(self, annotation: dict[str, Any], length: int, subset: str, size: tuple[int, int]) -> _Row:
        entries = annotation["segmentations"]
        boxes = annotation.get("bboxes") or [True] * len(entries)
        if subset == "v1s":
            row = [_segmentation(entries[0], boxes[0])] + [None] * (length - 1)
        elif len(entries) != length or len(boxes) != length:
            raise UserError(
                f"{self.path}: annotation {annotation['id']} has {len(entries)} segmentations and {len(boxes)} boxes "
                f"for {length} frames: give one a frame, null where the instance is absent."
            )
        else:
            row = [_segmentation(entry, box) for entry, box in zip(entries, boxes)]
        if any(isinstance(s, dict) and tuple(s["size"]) != size for s in row):
            raise UserError(
                f"{self.path}: annotation {annotation['id']} has an RLE of another size than its video: encode it at "
                f"{size[0]} x {size[1]} (height x width)."
            )
        return int(annotation["category_id"]), row

    def __len__(self) -> int:
        return len(self.videos)

    def item(self, index: int, rng: np.random.Generator) -> TrainingClip:
        """Video `index` with `num_frames` frames drawn by `sample_frames`.

        Raises:
            UserError: an image or the sound is missing, unreadable, of another size, or too short.
        """
        return self.read(index, sample_frames(len(self.videos[index].files), self.num_frames, rng))

    def read(self, index: int, chosen: list[int]) -> TrainingClip:
        """Video `index` with the given frame numbers. Raises as `item`."""
        video = self.videos[index]
        patches = np.array([_patch(file) for file in video.files], dtype=np.int64)
        folder = self.root / "AVSBench-openvoc" / self.split / "JPEGImages"
        rows = [(category, tuple(row[t] for t in chosen)) for category, row in video.annotations]
        rows = [(category, row) for category, row in rows if any(row)]
        return TrainingClip(
            video=video.name,
            subset=video.subset,
            frames=_frames([folder / video.files[t] for t in chosen], video.size),
            waveform=read_wav(_wav(self.root, video.subset, video.name), int(patches.max()) + 1),
            patches=patches[chosen],
            category_ids=np.array([category for category, _ in rows], dtype=np.int64),
            segmentations=tuple(row for _, row in rows),
        )


class AvsbenchTest:
    """Test clips from the folder and metadata.csv; a video of 10 frames gives two items of 5.

    Args:
        root: the folder that holds AVSBench-openvoc and AVSBench-semantic.
        split: the folder to list, "test".
        table: category table, default `read_categories(root)`.
        num_frames: frames an item.

    Raises:
        UserError: a folder or the CSV is missing, a video has no usable row in the CSV, the CSV names a class that the
            table lacks, or a video's number of frames is not a multiple of `num_frames`.
    """

    def __init__(
        self, root: Path, split: str = "test", table: CategoryTable | None = None, num_frames: int = 5
    ) -> None:
        self.root = Path(root)
        self.table = table or read_categories(self.root)
        self.num_frames = num_frames
        self.palette = voc_palette(len(self.table.names) + 1)
        self.csv = self.root / "AVSBench-semantic" / "metadata.csv"
        folder = self.root / "AVSBench-openvoc" / split / "JPEGImages"
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: give a folder in the AVSBench-OV layout.")
        rows = self._read_csv()
        self.clips: list[tuple[str, str, tuple[int, ...], list[Path], int]] = []
        for video in sorted(path for path in folder.iterdir() if path.is_dir() and not is_system_file(path)):
            if video.name not in rows:
                raise UserError(f"{self.csv} has no row for video {video.name}: add it or remove the folder {video}.")
            labels, subset = self._check_row(video.name, *rows[video.name])
            files = sorted(
                path for path in video.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES and not is_system_file(path)
            )
            if not files or len(files) % num_frames:
                raise UserError(f"{video} has {len(files)} frames: restore it to a multiple of {num_frames}.")
            self.clips += [(video.name, subset, labels, files, s) for s in range(0, len(files), num_frames)]

    def _read_csv(self) -> dict[str, tuple[str, str]]:
        try:
            with self.csv.open(newline="", encoding="utf-8-sig") as file:
                return {row[1]: (row[4], row[6]) for row in csv.reader(file) if len(row) > 6}
        except FileNotFoundError:
            raise UserError(f"{self.csv} is missing: give a folder in the AVSBench-OV layout.") from None
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{self.csv} cannot be read as CSV ({error}): copy it again.") from None

    def _check_row(self, video: str, classes: str, subset: str) -> tuple[tuple[int, ...], str]:
        if subset not in SUBSETS:
            raise UserError(f"{self.csv}: video {video} has subset {subset!r}: write one of {', '.join(SUBSETS)}.")
        names = [name for name in classes.split("_") if name]  # empty: a clip where nothing sounds
        for name in names:
            if name not in self.table.names:
                what = f"video {video} has class {name!r}, which the category table lacks"
                raise UserError(f"{self.csv}: {what}: correct the row or label2idx.json.")
        return tuple(sorted(self.table.names.index(name) + 1 for name in names)), subset

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int) -> TestClip:
        """Clip `index`; frames, patches and label map are of its chunk, the waveform of the whole video.

        Raises:
            UserError: an image, label or the sound is missing, unreadable, of another size, or too short.
        """
        video, subset, clip_labels, files, start = self.clips[index]
        chunk = slice(start, start + self.num_frames)
        patches = np.array([_patch(file) for file in files], dtype=np.int64)
        folder = self.root / "AVSBench-semantic" / subset / video / "labels_rgb"
        labels = sorted(path for path in folder.glob("*.png") if not is_system_file(path))
        if len(labels) != len(files):
            raise UserError(f"{folder} has {len(labels)} label images for {len(files)} frames: restore them.")
        return TestClip(
            video=video,
            subset=subset,
            frames=_frames(files[chunk]),
            waveform=read_wav(_wav(self.root, subset, video), int(patches.max()) + 1),
            patches=patches[chunk],
            label_map=np.stack(
                [
                    rgb_to_ids(image, self.palette, str(path))
                    for path, image in zip(labels[chunk], _frames(labels[chunk], opaque=True))
                ]
            ),
            clip_labels=clip_labels,
        )
