"""Video and audio in: windows of T one-second snippets from any container, codec, channel layout and sample rate.

Second 0 is the first video frame. A snippet is one second: one frame and the sound of that second. A video has as many
snippets as whole seconds of picture, and one more if at least half a second remains (a shorter one has one). Sound that
ends early is followed by silence, sound beyond the picture is cut. Pixels are taken as square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soxr
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ovavss.errors import UserError

SAMPLE_RATE = 16_000
# Timestamps of many containers are rounded to milliseconds.
_TICK = 2e-3
_LARGEST_JUMP = 0.05
_TOLERATED_LOSS = 1.0

OnMissingAudio = Literal["error", "silence"]


class Instant(StrEnum):
    """Which frame of a second stands for it: the one shown at its start, its middle or its end.

    The middle is the default: it lies inside the audio patch of the same number (0.96 s each) for all of a clip.
    """

    START = "start"
    MIDDLE = "middle"
    END = "end"

    @property
    def offset(self) -> float:
        """Seconds from the start of the second."""
        return {"start": 0.0, "middle": 0.5, "end": 1.0 - 2 * _TICK}[self.value]


@dataclass(frozen=True)
class MediaInfo:
    """What a file promises: size as displayed (pixels), duration (s), and how many snippets that makes."""

    path: Path
    width: int
    height: int
    duration: float
    frame_rate: float
    sample_rate: int | None
    channels: int | None
    seconds: int


@dataclass(frozen=True)
class Window:
    """T snippets: frames uint8 [T, H, W, 3] RGB as displayed, waveform float32 [T * 16000] mono at 16 kHz, full scale
    1.0, the time of each frame in seconds float64 [T]. Beyond the first `snippets` the last frame is repeated and the
    sound is silence. `start` is in seconds."""

    index: int
    start: float
    frames: np.ndarray
    waveform: np.ndarray
    snippets: int
    timestamps: np.ndarray


def probe(path: Path, on_missing_audio: OnMissingAudio = "error") -> MediaInfo:
    """Read the header and the first frame. UserError where the file is missing, not a video, or has no sound."""
    with _open(path) as container:
        video = _video_stream(container, path)
        audio = _audio_stream(container, path, on_missing_audio)
        duration = _promised(video, container) or 0.0
        rate = float(video.average_rate or video.guessed_rate or 25)
        sample_rate, channels = (audio.rate, audio.channels) if audio else (None, None)
        try:
            height, width, _ = _rgb(next(_video_frames(container, video))[1]).shape
        except StopIteration:
            raise UserError(f"no frame of {path} can be decoded; convert it or give another video") from None
    return MediaInfo(path, width, height, duration, rate, sample_rate, channels, _snippets_in(duration))


def read_windows(
    path: Path, snippets: int = 5, instant: Instant = Instant.MIDDLE, on_missing_audio: OnMissingAudio = "error"
) -> Iterator[Window]:
    """The windows of a video, one at a time: memory does not grow with its length.

    Raises UserError as `probe` does, and where the file ends a second or more before its header says.
    """
    with _open(path) as container, _open(path) as sound_container:
        video = _video_stream(container, path)
        audio = _audio_stream(sound_container, path, on_missing_audio)
        frames = _chosen_frames(container, video, path, instant)
        first = next(frames)
        zero = first[2]
        sound = _Sound(sound_container, audio, zero)
        pending: list[tuple[float, np.ndarray, float]] = [first]
        index = 0
        while pending:
            pending += [frame for _, frame in zip(range(snippets - len(pending)), frames)]
            count = len(pending)
            waveform = np.zeros(snippets * SAMPLE_RATE, np.float32)
            waveform[: count * SAMPLE_RATE] = sound.read(count * SAMPLE_RATE)
            repeated = pending + [pending[-1]] * (snippets - count)
            times = np.array([time for time, _, _ in repeated])
            yield Window(index, float(index * snippets), np.stack([f for _, f, _ in repeated]), waveform, count, times)
            index += 1
            pending = [frame for _, frame in zip(range(1), frames)]


def _open(path: Path) -> InputContainer:
    if not path.exists():
        raise UserError(f"there is no file {path}; check the name")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a video file")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except FFmpegError as error:
        raise UserError(
            f"{path} is not a video that can be read ({_reason(error)}); give a video with sound"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if container.format.name == "tty":  # FFmpeg would play a text file as a terminal's screen
        container.close()
        raise UserError(f"{path} is not a video that can be read (it is text); give a video with sound")
    return container


def _reason(error: FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UserError(f"{path} has no picture; give a video file with sound")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _audio_stream(container: InputContainer, path: Path, on_missing: OnMissingAudio) -> AudioStream | None:
    if container.streams.audio:
        return container.streams.audio[0]
    if on_missing == "error":
        raise UserError(f"{path} has no sound track; pass --silent to segment it with silence")
    return None


def _promised(video: VideoStream, container: InputContainer) -> float | None:
    """Seconds that the header promises."""
    if video.duration and video.time_base:
        return float(video.duration * video.time_base)
    return container.duration / av.time_base if container.duration else None


def _snippets_in(duration: float) -> int:
    return max(1, int(duration + 0.5 + _TICK))


def _video_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their presentation times."""
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    time = -step
    for frame in _decoded(container, stream):
        time = frame.time if frame.time is not None else time + step
        yield time, frame


def _decoded(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The stream's frames; a packet that cannot be decoded is passed over."""
    packets = container.demux(stream)
    while True:
        try:
            frames = next(packets).decode()
        except StopIteration:
            return
        except FFmpegError:
            continue
        yield from frames


def _chosen_frames(
    container: InputContainer, stream: VideoStream, path: Path, instant: Instant
) -> Iterator[tuple[float, np.ndarray, float]]:
    """For each snippet: seconds since the first frame, pixels, and the first frame's own time stamp.

    The frame of an instant is the last one shown at or before it.
    """
    zero = end = 0.0
    last: VideoFrame | None = None
    chosen: tuple[float, VideoFrame] | None = None
    snippet = 0
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    for stamp, frame in _video_frames(container, stream):
        if last is None:
            zero, last, end = stamp, frame, 0.0
        time = stamp - zero
        while True:
            if chosen is None and time > snippet + instant.offset + _TICK:
                chosen = end, last
            # Whether the snippet exists is known half a second into it.
            if chosen is None or time <= snippet + 0.5 + _TICK:
                break
            yield chosen[0], _rgb(chosen[1]), zero
            chosen, snippet = None, snippet + 1
        last, end = frame, time
    if last is None:
        raise UserError(f"no frame of {path} can be decoded; convert it or give another video")
    _check_complete(container, stream, path, end + step)
    for number in range(snippet, max(_snippets_in(end + step), snippet if snippet else 1)):
        shown = chosen if chosen is not None and number == snippet else (end, last)
        yield shown[0], _rgb(shown[1]), zero


def _check_complete(container: InputContainer, stream: VideoStream, path: Path, end: float) -> None:
    promised = _promised(stream, container)
    if stream.duration is None and container.streams.audio:
        # The container's duration may be that of its sound.
        return _check_container(path, promised, end)
    _complain(path, promised, end)


def _check_container(path: Path, promised: float | None, end: float) -> None:
    with _open(path) as container:
        times = [p.pts * p.time_base for p in container.demux(audio=0) if p.pts is not None and p.time_base]
    _complain(path, promised, max(end, float(max(times, default=0))))


def _complain(path: Path, promised: float | None, end: float) -> None:
    if promised is not None and promised - end >= _TOLERATED_LOSS:
        raise UserError(
            f"{path} is truncated: {end:.1f} s of the promised {promised:.1f} s can be decoded; copy the file again"
        )


def _rgb(frame: VideoFrame) -> np.ndarray:
    """Pixels uint8 [H, W, 3], turned as the file asks."""
    turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


class _Sound:
    """The sound track as a stream of 16 kHz mono samples that begins with the picture.

    Channels are averaged with equal weights, as the published code does, not mixed down as a player would.
    """

    def __init__(self, container: InputContainer, stream: AudioStream | None, zero: float) -> None:
        self._chunks = self._resampled(container, stream, zero) if stream is not None else iter(())
        self._rest = np.zeros(0, np.float32)

    def read(self, count: int) -> np.ndarray:
        """The next samples, silence after the end: float32 [count]."""
        parts, have = [self._rest], len(self._rest)
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                chunk = np.zeros(count - have, np.float32)
            parts.append(chunk)
            have += len(chunk)
        samples = np.concatenate(parts)
        self._rest = samples[count:]
        return samples[:count]

    def _resampled(self, container: InputContainer, stream: AudioStream, zero: float) -> Iterator[np.ndarray]:
        rate = 0
        resampler: soxr.ResampleStream | None = None
        for rate, samples in self._mono(container, stream, zero):
            if rate == SAMPLE_RATE:
                yield samples
                continue
            if resampler is None:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            yield resampler.resample_chunk(samples)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mono(self, container: InputContainer, stream: AudioStream, zero: float) -> Iterator[tuple[int, np.ndarray]]:
        """Chunks at the file's own rate, silence where time stamps leave a gap; starts at `zero`."""
        to_float = AudioResampler(format="fltp")
        position = 0  # samples since zero
        for frame in (f for coded in _decoded(container, stream) for f in to_float.resample(coded)):
            rate = frame.sample_rate
            samples = frame.to_ndarray().mean(0, dtype=np.float32)
            start = position if frame.time is None else round((frame.time - zero) * rate)
            if position == 0 or abs(start - position) > _LARGEST_JUMP * rate:
                if start > position:
                    yield rate, np.zeros(start - position, np.float32)
                    position = start
                samples = samples[max(0, position - start) :]
            position += len(samples)
            if len(samples):
                yield rate, samples
