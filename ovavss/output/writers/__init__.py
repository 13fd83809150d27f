"""Other formats of a result, one file each; each reads the finished result folder frame by frame."""

from collections.abc import Callable, Iterable
from pathlib import Path

from ovavss.errors import UserError
from ovavss.output.annotations import AnnotatedVideo
from ovavss.output.writers.coco import write_coco
from ovavss.output.writers.webvtt import write_webvtt
from ovavss.output.writers.youtube_vis import write_youtube_vis

Writer = Callable[[AnnotatedVideo, Path], None]
WRITERS: dict[str, tuple[str, Writer]] = {
    "coco": ("coco.json", write_coco),
    "youtube_vis": ("youtube_vis.json", write_youtube_vis),
    "vtt": ("names.vtt", write_webvtt),
}
"""By the name that `--write` takes: the file in the result folder, and what writes it."""


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Returns the formats, each once.

    Raises:
        UserError: One is unknown.
    """
    chosen = tuple(dict.fromkeys(name.strip() for each in formats for name in each.split(",") if name.strip()))
    for name in chosen:
        if name not in WRITERS:
            raise UserError(f"format '{name}' is unknown; choose of {', '.join(WRITERS)}")
    return chosen


def write_formats(folder: Path, formats: Iterable[str]) -> None:
    """Writes each format into a finished result folder."""
    video = AnnotatedVideo.open(folder)
    for name in formats:
        file, write = WRITERS[name]
        write(video, folder / file)
