"""Write what `ovavss segment` found: result.json, label maps, an overlay film and an overlay picture.

The folder holds:

    result.json             every frame's objects (below)
    label_maps/000000.png   one for each snippet; pixel = 0 for background, else class index + 1. Palette PNG (mode P,
                            the palette of Pascal VOC) up to 255 classes, 16-bit gray beyond
    overlay.mp4             the frames with the regions drawn in, one a second, with the clip's sound
    overlay.png             up to ten of these frames on one sheet, with the sound's wave form and one legend
                            (both overlays only if there is at least one frame)

result.json, one line for each frame so that a reader can stream it too:

    {"format": "ovavss-result", "version": 1,
     "video": str, "classes": [str, ...], "height": int, "width": int, "settings": {...},
     "frames": [{"index": int,      # of the snippet in the video, and the number in label_maps/
                 "time": float,     # seconds, the frame_position of the frame
                 "window": int,     # of T snippets, that the model saw together
                 "objects": [{"query": int, "name": str, "label": int (index into classes), "score": float,
                              "box": [x0, y0, x1, y1],  # pixels; x1 and y1 are one past the last pixel
                              "area": int,              # pixels
                              "segmentation": {"size": [H, W], "counts": str}}]}]}    # COCO's compressed RLE

Objects stand best first. One query may come back under several names. An object whose mask is empty in a frame is left
out of that frame.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovavss.datasets.palette import voc_palette
from ovavss.errors import UserError
from ovavss.files import partial_path, remove_leftovers
from ovavss.output.overlay import SAMPLE_RATE, ContactSheet, OverlayVideo, Shown
from ovavss.output.writers import WRITERS, check_formats, write_formats

FORMAT, VERSION = "ovavss-result", 1
OUTPUT_NAMES = ("result.json", "label_maps", "overlay.mp4", "overlay.png", *(file for file, _ in WRITERS.values()))


@dataclass(frozen=True)
class Detection:
    """One query under one name."""

    query: int  # index of the query
    label: int  # class index, from 0
    name: str
    score: float  # 0 to 1
    masks: np.ndarray  # bool [T, H, W] at the video's own size


@dataclass(frozen=True)
class ClipResult:
    """What the model says about one window of T one-second snippets."""

    window: int  # index in the video
    start: float  # seconds from the start of the video
    snippets: int  # how many of the T are real; the rest is padding and is not written
    timestamps: np.ndarray  # float64 [T], seconds, the instants of the frames
    detections: list[Detection]  # best first
    label_map: np.ndarray  # uint8 or uint16 [T, H, W]; 0 = background, else class index + 1


def encode_mask(mask: np.ndarray) -> dict[str, Any] | None:
    """Box, area and RLE of one bool [H, W] mask, as result.json has them; None if the mask is empty."""
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return None
    rows = np.flatnonzero(mask.any(axis=1))
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "box": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
        "area": int(np.count_nonzero(mask)),
        "segmentation": {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": rle["counts"].decode("ascii")},
    }


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one clear sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"output folder {out}: cannot write there: {error.strerror or error}") from error


def check_output_folder(out: Path) -> Path:
    """Make sure, before the long work, that the results can go to `out`; its absolute path. Touches nothing.

    Raises:
        UserError: `out` is a file, a place that cannot be written or made, the current folder, a mount point, or a
            folder with something in it that is not an earlier result of ours.
    """
    with _disk_errors(out):
        target = Path(out).resolve()
        if target.exists():
            _check_existing(out, target)
        parent = target.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise UserError(f"output folder {out} cannot be made: {parent} is not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"output folder {out} cannot be made: {parent} is not writable")
    return target


def _check_existing(out: Path, target: Path) -> None:
    if not target.is_dir():
        raise UserError(f"output folder {out} is a file: name a folder with --out")
    # The finished folder takes the place of `out` by a rename, which neither of these survives.
    if os.path.ismount(target) or Path.cwd().is_relative_to(target):
        raise UserError(f"output folder {out} is the current folder or a mount point: name a new folder below it")
    if not os.access(target, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"output folder {out} is not writable")
    names, start = sorted(entry.name for entry in target.iterdir()), ""
    if not names:
        return
    if (target / "result.json").is_file():
        with (target / "result.json").open(encoding="utf-8", errors="replace") as file:
            start = file.read(200)
    if not re.match(rf'\s*{{\s*"format"\s*:\s*"{FORMAT}"', start):
        raise UserError(f"output folder {out} is not empty and holds no result of ovavss: name another folder")
    # Replacing means deleting, so a file that someone put beside the results stops it.
    foreign = [name for name in names if name not in OUTPUT_NAMES]
    if foreign:
        raise UserError(f"output folder {out} holds {foreign[0]}, which ovavss did not write: move it away first")


class ResultWriter:
    """Write results window by window; memory does not grow with the length of the video.

    A context manager. Everything goes into a hidden folder beside `out` that takes the place of `out` when the block
    ends well; when it ends with an exception, nothing is left behind and an earlier result stays as it was.

    Args:
        out: the folder to write; missing parents are made, an earlier result of ours is replaced.
        video: the video's path, as result.json shall name it.
        class_names: all names, by class index.
        size: (H, W) of the video's frames.
        settings: whatever produced the result, as JSON can hold it (paths become strings).
        formats: Further files, of `ovavss.output.writers.WRITERS`.

    Raises:
        UserError: as `check_output_folder`; also from `add` and at the end, when the disk is full and the like.
    """

    def __init__(
        self,
        out: Path,
        video: Path,
        class_names: Sequence[str],
        size: tuple[int, int],
        settings: Mapping[str, Any],
        formats: Sequence[str] = (),
    ) -> None:
        self._out = Path(out)
        self._formats = check_formats(formats)
        self._target = check_output_folder(self._out)
        self._partial = partial_path(self._target)
        self._names, self._size = list(class_names), (int(size[0]), int(size[1]))
        head = {"format": FORMAT, "version": VERSION, "video": str(video), "classes": self._names}
        head |= {"height": self._size[0], "width": self._size[1], "settings": dict(settings)}
        self._head = json.dumps(head, ensure_ascii=False, allow_nan=False, default=str)
        self._made_parents: list[Path] = []
        self._json: TextIO | None = None
        self._video: OverlayVideo | None = None
        self._sheet = ContactSheet(self._names)
        self._frames = 0

    def __enter__(self) -> "ResultWriter":
        try:
            with _disk_errors(self._out):
                self._make_partial()
                self._json = (self._partial / "result.json").open("w", encoding="utf-8", errors="replace")
                self._json.write(self._head[:-1] + ', "frames": [')
        except BaseException:
            self._discard()
            raise
        return self

    def _make_partial(self) -> None:
        parent = self._target.parent
        for folder in reversed([folder for folder in (parent, *parent.parents) if not folder.exists()]):
            folder.mkdir()
            self._made_parents.append(folder)
        remove_leftovers(parent, self._target.name)
        if self._target.exists():  # else it is the only copy of an earlier result
            remove_leftovers(parent, self._target.name + ".old")
        # Left by a killed process that had our number: nobody else can be writing there.
        shutil.rmtree(self._partial, ignore_errors=True)
        (self._partial / "label_maps").mkdir(parents=True)

    def add(self, result: ClipResult, frames: np.ndarray, waveform: np.ndarray) -> None:
        """Write one window.

        Args:
            result: what the model found.
            frames: uint8 [T, H, W, 3], RGB, at the video's own size.
            waveform: float32 [S], 16 kHz mono, -1 to 1, from the window's start; cut or filled up to whole snippets.

        Raises:
            UserError: the disk is full and the like.
            ValueError: shapes that do not belong together, or a label outside the classes.
            RuntimeError: outside the `with` block.
        """
        if self._json is None:
            raise RuntimeError("ResultWriter.add is for inside the with block")
        self._check(result, frames)
        waveform = np.nan_to_num(np.asarray(waveform, np.float32))
        with _disk_errors(self._out):
            for t in range(result.snippets):
                self._add_snippet(result, t, frames[t], waveform[t * SAMPLE_RATE : (t + 1) * SAMPLE_RATE])

    def _check(self, result: ClipResult, frames: np.ndarray) -> None:
        count, shape = result.snippets, (len(result.label_map), *self._size)
        shapes = [frames.shape, result.label_map.shape, *(found.masks.shape for found in result.detections)]
        if shapes[0] != (*shape, 3) or any(other != shape for other in shapes[1:]):
            raise ValueError(f"frames, label map and masks must be [T, H, W] with H, W = {self._size}: {shapes}")
        if not 0 <= count <= min(shape[0], len(result.timestamps)):
            raise ValueError(f"{count} snippets in a window of {shape[0]} with {len(result.timestamps)} timestamps")
        if int(result.label_map[:count].max(initial=0)) > len(self._names):
            raise ValueError(f"the label map has a value above the number of classes, {len(self._names)}")

    def _add_snippet(self, result: ClipResult, t: int, frame: np.ndarray, sound: np.ndarray) -> None:
        assert self._json is not None
        if self._video is None:
            self._video = OverlayVideo(self._partial / "overlay.mp4", self._names, self._size)
        objects: list[dict[str, Any]] = []
        scores: dict[int, float] = {}
        for found in result.detections:
            region = encode_mask(found.masks[t])
            if region is not None:
                label, score = int(found.label), float(found.score)
                objects.append({"query": int(found.query), "name": found.name, "label": label, "score": score} | region)
                scores[label] = max(score, scores.get(label, 0.0))
        line = {"index": self._frames, "time": float(result.timestamps[t]), "window": int(result.window)}
        text = json.dumps(line | {"objects": objects}, ensure_ascii=False, allow_nan=False)
        self._json.write((",\n" if self._frames else "\n") + text)

        label_map, wide = result.label_map[t], len(self._names) > 255
        image = Image.fromarray(np.ascontiguousarray(label_map, dtype=np.uint16 if wide else np.uint8))
        if not wide:
            image.putpalette(voc_palette(256).tobytes())
        image.save(self._partial / "label_maps" / f"{self._frames:06d}.png")

        shown = Shown(frame, label_map, scores, sound, float(result.start) + t)
        self._video.add(shown)
        self._sheet.add(shown)
        self._frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with _disk_errors(self._out):
                    self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        assert self._json is not None
        self._json.write("\n]}\n")
        self._json.close()
        self._json = None
        write_formats(self._partial, self._formats)
        if self._video is not None:
            self._video.close()
            self._sheet.save(self._partial / "overlay.png")
        # Somebody may have put something there since the start.
        check_output_folder(self._out)
        if not self._target.exists() or not any(self._target.iterdir()):
            self._partial.rename(self._target)
            return
        old = partial_path(self._target.with_name(self._target.name + ".old"))
        self._target.rename(old)
        try:
            self._partial.rename(self._target)
        except BaseException:
            old.rename(self._target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _discard(self) -> None:
        """Clear away whatever there still is of the partial folder; after a good end, nothing."""
        if self._json is not None:
            with suppress(OSError):
                self._json.close()
        self._json = None
        if self._video is not None:
            self._video.discard()
        shutil.rmtree(self._partial, ignore_errors=True)
        for folder in reversed(self._made_parents):
            with suppress(OSError):  # not empty: the result is in it, or somebody else uses it
                folder.rmdir()
