"""COCO instances: one image a frame, one annotation an object, with the track's number and the score.

The images have the names 000000.jpg, 000001.jpg ... of the frames, which are not written; `time` says where each is in
the video. Memory does not grow with the video's length.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from ovavss.output.annotations import AnnotatedVideo


def write_coco(video: AnnotatedVideo, path: Path) -> None:
    """Writes the file; categories are the classes, numbered from 1."""
    height, width = video.size
    images = (
        {"id": frame.index + 1, "file_name": f"{frame.index:06d}.jpg", "height": height, "width": width,
         "time": frame.time}
        for frame in video.frames()
    )  # fmt: skip
    annotations = (
        {"image_id": frame.index + 1, "category_id": found.label + 1, "segmentation": found.segmentation,
         "bbox": [found.box[0], found.box[1], found.box[2] - found.box[0], found.box[3] - found.box[1]],
         "area": found.area, "iscrowd": 0, "score": found.score, "track_id": found.track}
        for frame in video.frames()
        for found in frame.objects
    )  # fmt: skip
    numbered = ({"id": number, **each} for number, each in enumerate(annotations, start=1))
    categories = [{"id": label, "name": name} for label, name in enumerate(video.classes, start=1)]
    info = {"description": video.video}
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(info)}, "categories": {json.dumps(categories)}, "images": [')
        _write_entries(file, images)
        file.write('], "annotations": [')
        _write_entries(file, numbered)
        file.write("]}\n")


def _write_entries(file: TextIO, entries: Iterable[dict[str, object]]) -> None:
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry))
