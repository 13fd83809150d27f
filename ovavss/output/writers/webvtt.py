"""WebVTT: a cue for each name and run of seconds, for players that show subtitles beside the video."""

from collections.abc import Iterator
from pathlib import Path

from ovavss.output.annotations import AnnotatedVideo

_SECOND = 1.0  # a frame stands for a second


def write_webvtt(video: AnnotatedVideo, path: Path) -> None:
    """Writes the file; cues are in order of their beginning, and say the name and its best score."""
    with path.open("w", encoding="utf-8") as file:
        file.write("WEBVTT\n")
        for start, end, name, score in sorted(_cues(video)):
            file.write(f"\n{_clock(start)} --> {_clock(end)}\n{_escaped(name)} ({score:.2f})\n")


def _cues(video: AnnotatedVideo) -> Iterator[tuple[float, float, str, float]]:
    running: dict[int, tuple[int, float]] = {}  # label: first second, best score
    last = -1
    for frame in video.frames():
        last = frame.index
        scores: dict[int, float] = {}
        for found in frame.objects:
            scores[found.label] = max(found.score, scores.get(found.label, 0.0))
        for label in [label for label in running if label not in scores]:
            start, score = running.pop(label)
            yield start * _SECOND, frame.index * _SECOND, video.classes[label], score
        for label, score in scores.items():
            start, best = running.get(label, (frame.index, 0.0))
            running[label] = start, max(best, score)
    for label, (start, score) in running.items():
        yield start * _SECOND, (last + 1) * _SECOND, video.classes[label], score


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{rest:06.3f}"


def _escaped(text: str) -> str:
    """A cue's text: neither markup nor the arrow of a time line, and one line."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
