"""What was found in a whole video: tracks, label maps, and the folder that the command writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ovavss.media.video import ReadOptions, probe, read_windows
from ovavss.output.annotations import LINKING_IOU
from ovavss.output.results import ClipResult, Detection, ResultWriter, check_output_folder
from ovavss.output.writers import check_formats


@dataclass(frozen=True)
class Track:
    """One sounding object through the video.

    Attributes:
        name: Its name, of the classes that were given.
        label: The index of the name among the classes.
        score: The best score of its detections, in [0, 1].
        times: float64 [n], seconds: the frames in which it is outlined.
        masks: bool [n, H, W], its outline in these frames, at the video's own size.
    """

    name: str
    label: int
    score: float
    times: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class Result:
    """What was found in a video.

    Attributes:
        video: The file.
        classes: The names that could be answered.
        size: (height, width) of the frames in pixels.
        windows: The detections and label map of each window.
        preset, reading: How it was made.
    """

    video: Path
    classes: tuple[str, ...]
    size: tuple[int, int]
    windows: tuple[ClipResult, ...]
    preset: str
    reading: ReadOptions = ReadOptions()  # noqa: RUF009  it is immutable

    @cached_property
    def tracks(self) -> tuple[Track, ...]:
        """The sounding objects, best first.

        Detections of which more than half is in the label maps. Those of neighboring windows are one track where they
        have the same name and overlap across the border; within a window each detection is an object of its own.
        """
        finished: list[_Open] = []
        running: list[_Open] = []
        for window in self.windows:
            going_on: list[_Open] = []
            for found in window.detections:
                masks = found.masks[: window.snippets]
                labeled = masks & (window.label_map[: window.snippets] == found.label + 1)
                shown = np.asarray(masks.any((1, 2)))
                if 2 * labeled.sum() <= masks.sum():
                    continue
                part = (window.timestamps[: window.snippets][shown], masks[shown])
                before = next((track for track in running if track.continues_in(found.label, masks)), None)
                if before is None:
                    before = _Open(found)
                else:
                    running.remove(before)
                before.add(found.score, *part, bool(shown[-1]))
                going_on.append(before)
            finished += running
            running = going_on
        tracks = [track.closed() for track in (*finished, *running)]
        return tuple(sorted(tracks, key=lambda track: -track.score))

    @property
    def label_maps(self) -> np.ndarray:
        """uint8 or uint16 [frames, H, W]: 0 is the background, else the index of the class plus one."""
        maps = [window.label_map[: window.snippets] for window in self.windows]
        return np.concatenate(maps) if maps else np.zeros((0, *self.size), np.uint8)

    def save(self, folder: str | Path, formats: Sequence[str] = ()) -> Path:
        """Writes what `ovavss segment` writes: result.json, label maps, overlay video and picture.

        Args:
            folder: Made, or replaced if it holds an earlier result.
            formats: Further files: "coco", "youtube_vis", "vtt".

        Returns:
            The folder.

        Raises:
            UserError: The folder cannot be written, holds something else, the video is gone, or a format is unknown.
        """
        formats = check_formats(formats)
        out = check_output_folder(Path(folder))
        info = probe(self.video, self.reading)
        settings = {
            "preset": self.preset,
            "frame_position": self.reading.frame_position,
            "video_stream": info.video_stream,
            "audio_stream": info.audio_stream,
        }
        snippets = len(self.windows[0].timestamps) if self.windows else 5
        frames = read_windows(self.video, snippets, self.reading)
        with ResultWriter(out, self.video, self.classes, self.size, settings, formats) as writer:
            for found, window in zip(self.windows, frames):
                writer.add(found, window.frames, window.waveform)
        return out


@dataclass
class _Open:
    """A track that may go on in the next window."""

    first: Detection
    score: float = 0.0
    times: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    at_end: bool = False

    def continues_in(self, label: int, masks: np.ndarray) -> bool:
        if label != self.first.label or not self.at_end:
            return False
        last, next_ = self.masks[-1][-1], masks[0]
        union = int((last | next_).sum())
        return union > 0 and int((last & next_).sum()) >= LINKING_IOU * union

    def add(self, score: float, times: np.ndarray, masks: np.ndarray, at_end: bool) -> None:
        self.score, self.at_end = max(self.score, score), at_end
        self.times.append(times)
        self.masks.append(masks)

    def closed(self) -> Track:
        times, masks = np.concatenate(self.times), np.concatenate(self.masks)
        return Track(self.first.name, self.first.label, self.score, times, masks)
