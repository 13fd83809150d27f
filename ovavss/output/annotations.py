"""A result folder read back frame by frame, each object with the track that it belongs to."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

LINKING_IOU = 0.1
"""Masks of one name on either side of a window's border that overlap this much are one object."""


@dataclass(frozen=True)
class Annotation:
    """One object in one frame.

    Attributes:
        track: Its number in the video, from 1.
        label: Index of its name among the classes.
        score: In [0, 1].
        box: x0, y0, x1, y1 in pixels; the last two are one past the last pixel.
        area: Pixels.
        segmentation: COCO's compressed RLE.
    """

    track: int
    label: int
    score: float
    box: tuple[int, int, int, int]
    area: int
    segmentation: dict[str, Any]


@dataclass(frozen=True)
class AnnotatedFrame:
    """One frame: its number, its time in seconds, and its objects, best first."""

    index: int
    time: float
    objects: tuple[Annotation, ...]


@dataclass(frozen=True)
class AnnotatedVideo:
    """What `result.json` says of the video as a whole, and its frames.

    Attributes:
        folder: The result folder.
        video: The file's name as it was given.
        classes: All names, by label.
        size: (height, width) in pixels.
    """

    folder: Path
    video: str
    classes: tuple[str, ...]
    size: tuple[int, int]

    @classmethod
    def open(cls, folder: Path) -> "AnnotatedVideo":
        """Reads the head of a result folder."""
        with (folder / "result.json").open(encoding="utf-8") as file:
            head = json.loads(file.readline().rstrip().rstrip("[") + "[]}")
        return cls(folder, head["video"], tuple(head["classes"]), (head["height"], head["width"]))

    def frames(self) -> Iterator[AnnotatedFrame]:
        """The frames in order; one window is in memory at a time.

        An object is one of which more than half lies in the label maps, as in `Result.tracks`. Objects of neighboring
        windows are one track where they have the same name and overlap across the border.
        """
        linker = _Linker()
        window: list[dict[str, Any]] = []
        with (self.folder / "result.json").open(encoding="utf-8") as file:
            file.readline()
            for line in file:
                text = line.rstrip().rstrip(",")
                if not text.startswith('{"index"'):
                    continue
                frame = json.loads(text)
                if window and frame["window"] != window[0]["window"]:
                    yield from linker.link(window, self.folder)
                    window = []
                window.append(frame)
        if window:
            yield from linker.link(window, self.folder)


@dataclass
class _Linker:
    """Gives tracks their numbers, window by window."""

    count: int = 0
    at_border: dict[int, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # track: label, mask

    def link(self, window: list[dict[str, Any]], folder: Path) -> Iterator[AnnotatedFrame]:
        """The frames of a window with tracks."""
        shown = _shown_objects(window, folder)
        tracks: dict[tuple[int, int], int] = {}
        for key in shown:
            first = next((found for found in window[0]["objects"] if _key(found) == key), None)
            before = self._continued(key[1], first) if first is not None else None
            if before is None:
                self.count += 1
                before = self.count
            else:
                del self.at_border[before]
            tracks[key] = before
        self.at_border = {
            tracks[_key(found)]: (found["label"], found["segmentation"])
            for found in window[-1]["objects"]
            if _key(found) in tracks
        }
        for frame in window:
            objects = tuple(
                Annotation(
                    tracks[_key(found)], found["label"], found["score"], tuple(found["box"]), found["area"],
                    found["segmentation"],
                )
                for found in frame["objects"]
                if _key(found) in tracks
            )  # fmt: skip
            yield AnnotatedFrame(frame["index"], frame["time"], objects)

    def _continued(self, label: int, found: dict[str, Any]) -> int | None:
        for track, (name, segmentation) in self.at_border.items():
            if (
                name == label
                and float(coco_mask.iou([segmentation], [found["segmentation"]], [0])[0, 0]) >= LINKING_IOU
            ):
                return track
        return None


def _key(found: dict[str, Any]) -> tuple[int, int]:
    return found["query"], found["label"]


def _shown_objects(window: list[dict[str, Any]], folder: Path) -> list[tuple[int, int]]:
    """The objects of a window of which more than half is in the label maps, in order of appearance."""
    pixels: dict[tuple[int, int], list[int]] = {}
    for frame in window:
        label_map = np.asarray(Image.open(folder / "label_maps" / f"{frame['index']:06d}.png"))
        for found in frame["objects"]:
            inside = coco_mask.decode(found["segmentation"]).astype(bool) & (label_map == found["label"] + 1)
            counted = pixels.setdefault(_key(found), [0, 0])
            counted[0] += int(inside.sum())
            counted[1] += found["area"]
    return [key for key, (labeled, all_) in pixels.items() if 2 * labeled > all_]
