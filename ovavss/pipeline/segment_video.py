"""From a video file to a result folder, a window at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ovavss.media.video import ReadOptions, Window, probe, read_windows
from ovavss.models.open_avs.presets import CLASS_MAPS, DETECTOR, LISTENER, MASK_IMAGE_ENCODER
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, USSLM_GRAPH
from ovavss.output.results import ClipResult, Detection, ResultWriter
from ovavss.output.summary import Summary
from ovavss.pipeline.pipeline import CLASSIFY, CROP_REGIONS, FIND_REGIONS, Clip, Segmentation

# What a person reads while a step runs.
_STEP_WORDS = {
    AUDIO_ENCODER: "listening", USSLM_GRAPH: "localizing", FIND_REGIONS: "localizing", CROP_REGIONS: "cropping",
    CLIP_IMAGE_ENCODER: "naming", CLASSIFY: "naming",
    LISTENER: "listening", DETECTOR: "finding", CLASS_MAPS: "finding", MASK_IMAGE_ENCODER: "outlining",
}  # fmt: skip
_LONGEST_WORD = max(map(len, _STEP_WORDS.values()))


class AnyPreset(Protocol):
    """What every preset has: a name, and how many seconds a window is long."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def snippets(self) -> int:
        """Seconds of a window."""


class AnyPipeline(Protocol):
    """The pipeline of either system, or one on a server; `vocabulary` is whatever its `embed_names` returns.

    Attributes:
        step: Entered around each step with its name, where the steps run in this process.
    """

    step: Callable[[str], AbstractContextManager[object]]

    @property
    def preset(self) -> AnyPreset:
        """The sizes of its model."""

    @property
    def options(self) -> Any:
        """Its thresholds and switches, a dataclass."""

    def embed_names(self, names: Sequence[str], progress: Callable[[int], object] | None = None) -> Any:
        """Reads class names; `progress` is called with how many are done."""

    def stream(self, clips: Iterable[Clip], vocabulary: Any) -> Iterator[Segmentation]:
        """Runs windows in order; each is frames and waveform."""


def segment_video(
    video: Path,
    out: Path,
    pipeline: AnyPipeline,
    names: Sequence[str],
    reading: ReadOptions,
    settings: Mapping[str, object],
    formats: Sequence[str] = (),
) -> tuple[str, Summary]:
    """Writes the result folder and shows which step is at work.

    Memory does not grow with the video's length.

    Args:
        video: The file.
        out: The folder.
        pipeline: Runs the windows.
        names: The classes.
        reading: How the video is read.
        settings: What the result says that it was made with.
        formats: Further files, of `ovavss.output.writers.WRITERS`.

    Returns:
        One sentence that counts, and when each name was found.

    Raises:
        UserError: The video cannot be read, the folder cannot be written, or names cannot be told apart.
    """
    snippets = pipeline.preset.snippets
    info = probe(video, reading)
    settings = {**settings, "video_stream": info.video_stream, "audio_stream": info.audio_stream}
    windows = seconds = crops = found = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    size = (info.height, info.width)
    with Progress(*columns) as progress, ResultWriter(out, video, names, size, settings, formats) as writer:
        task = progress.add_task("reading names", total=len(names))
        vocabulary = pipeline.embed_names(names, lambda done: progress.update(task, completed=done))
        segmenting = progress.add_task("reading".ljust(_LONGEST_WORD), total=-(-info.seconds // snippets))
        summary = Summary(names)
        waiting: deque[Window] = deque()

        def clips() -> Iterator[Clip]:
            for window in read_windows(video, snippets, reading):
                waiting.append(window)
                yield window.frames, window.waveform

        def show(step: str) -> AbstractContextManager[object]:
            progress.update(segmenting, description=_STEP_WORDS[step].ljust(_LONGEST_WORD))
            return nullcontext()

        pipeline.step = show
        for segmentation in pipeline.stream(clips(), vocabulary):
            window = waiting.popleft()
            result = to_clip_result(segmentation, window, names)
            writer.add(result, window.frames, window.waveform)
            summary.add(result)
            windows, seconds, crops = windows + 1, seconds + window.snippets, crops + segmentation.crops
            found += len(segmentation.label_map.unique()) - bool((segmentation.label_map == 0).any())
            progress.advance(segmenting)
    counted = f"{seconds} seconds in {windows} windows: {crops} crops classified, {found} names in the label maps"
    return counted, summary


def to_clip_result(segmentation: Segmentation, window: Window, names: Sequence[str]) -> ClipResult:
    """What the pipeline found in a window, as the writer takes it."""
    ranking = segmentation.ranking
    columns = (
        ranking.query.tolist(),
        ranking.label.tolist(),
        ranking.score.tolist(),
        segmentation.masks.numpy(force=True),
    )
    detections = [Detection(query, label, names[label], score, mask) for query, label, score, mask in zip(*columns)]
    dtype = np.uint8 if len(names) <= 255 else np.uint16
    label_map = segmentation.label_map.numpy(force=True).astype(dtype)
    return ClipResult(window.index, window.start, window.snippets, window.timestamps, detections, label_map)
