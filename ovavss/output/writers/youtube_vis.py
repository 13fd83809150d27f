"""YouTube-VIS: one video, one annotation a track, with a mask or null for each frame."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovavss.output.annotations import AnnotatedVideo, Annotation


@dataclass
class _Track:
    """What is kept of a track: its masks are compressed, so that hours fit into memory."""

    label: int
    score: float = 0.0
    found: dict[int, Annotation] = field(default_factory=dict)


def write_youtube_vis(video: AnnotatedVideo, path: Path) -> None:
    """Writes the file; categories are the classes, numbered from 1, and a track's score is its best."""
    tracks: dict[int, _Track] = {}
    names: list[str] = []
    for frame in video.frames():
        for found in frame.objects:
            track = tracks.setdefault(found.track, _Track(found.label))
            track.score = max(track.score, found.score)
            track.found[len(names)] = found
        names.append(f"{frame.index:06d}.jpg")
    height, width = video.size
    about = {"id": 1, "width": width, "height": height, "length": len(names), "file_names": names}
    content = {
        "info": {"description": video.video},
        "videos": [about],
        "categories": [{"id": label, "name": name} for label, name in enumerate(video.classes, start=1)],
        "annotations": [_annotation(number, tracks[number], len(names), video.size) for number in sorted(tracks)],
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _annotation(number: int, track: _Track, length: int, size: tuple[int, int]) -> dict[str, Any]:
    found = [track.found.get(position) for position in range(length)]
    boxes = [
        None if one is None else [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]]
        for one in found
    ]
    return {
        "id": number,
        "video_id": 1,
        "category_id": track.label + 1,
        "score": track.score,
        "iscrowd": 0,
        "height": size[0],
        "width": size[1],
        "length": length,
        "segmentations": [None if one is None else one.segmentation for one in found],
        "bboxes": boxes,
        "areas": [None if one is None else one.area for one in found],
    }
