"""Video and audio in: windows of T one-second snippets from any container, codec, channel layout and sample rate.

Second 0 is the first video frame. A snippet is one second: one frame and the sound of that second. A video has as many
snippets as whole seconds of picture, and one more if at least half a second remains (a shorter one has one). Sound that
ends early is followed by silence, sound beyond the picture is cut. Pixels are taken as square, fields are not
deinterlaced, and a picture that changes its size is scaled to its first one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ovavss.errors import UserError
from ovavss.files import check_regular_file
from ovavss.media.clock import Clock
from ovavss.media.sound import SAMPLE_RATE, Sound
from ovavss.media.streams import choose_streams

# Timestamps of many containers are rounded to milliseconds.
_TICK = 2e-3
_TOLERATED_LOSS = 1.0

OnMissingAudio = Literal["error", "silence"]


class FramePosition(StrEnum):
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
class ReadOptions:
    """How a video is read.

    Attributes:
        frame_position: Which frame of a second stands for it.
        on_missing_audio: "silence" takes silence where there is no sound track; "error" refuses the file.
        video_stream: The index of the stream with the picture, as ffprobe counts. Default: what a player would take.
        audio_stream: The same for the sound.
    """

    frame_position: FramePosition = FramePosition.MIDDLE
    on_missing_audio: OnMissingAudio = "error"
    video_stream: int | None = None
    audio_stream: int | None = None


@dataclass(frozen=True)
class MediaInfo:
    """What a file promises.

    Size as displayed (pixels), duration (s), and how many snippets that makes; and the indices of the streams that are
    read.
    """

    path: Path
    width: int
    height: int
    duration: float
    frame_rate: float
    sample_rate: int | None
    channels: int | None
    seconds: int
    video_stream: int
    audio_stream: int | None


@dataclass(frozen=True)
class Window:
    """T snippets of a video. Behind the real ones the last frame is repeated and the sound is silence.

    Attributes:
        index: Of the window in the video.
        start: Where it begins, in seconds.
        snippets: How many of the T are real.
        frames: uint8 [T, H, W, 3] RGB as displayed.
        waveform: float32 [T * 16000], 16 kHz mono, full scale 1.0.
        timestamps: float64 [T], the time of each frame in seconds.
    """

    index: int
    start: float
    frames: np.ndarray
    waveform: np.ndarray
    snippets: int
    timestamps: np.ndarray


def probe(path: Path, options: ReadOptions = ReadOptions()) -> MediaInfo:
    """Read the header and the first frame. UserError where the file is missing, not a video, or has no sound."""
    with _open(path) as container:
        video, audio = _streams(container, path, options)
        duration = _promised(video, container) or 0.0
        rate = float(video.average_rate or video.guessed_rate or 25)
        sample_rate, channels = (audio.rate, audio.channels) if audio else (None, None)
        streams = video.index, audio.index if audio else None
        try:
            frame = next(_decoded(container, video, path, Clock(path, (video, audio))))[2]
            height, width, _ = _Picture(frame).rgb(frame).shape
        except StopIteration:
            raise UserError(f"no frame of {path} can be decoded; convert it or give another video") from None
    return MediaInfo(path, width, height, duration, rate, sample_rate, channels, _snippets_in(duration), *streams)


def read_windows(
    path: Path,
    snippets: int = 5,
    options: ReadOptions = ReadOptions(),
) -> Iterator[Window]:
    """The windows of a video, one at a time: memory does not grow with its length.

    Raises UserError as `probe` does, and on reaching it where a second or more is missing or cannot be decoded.
    """
    with _open(path) as container, _open(path) as sound_container:
        video, audio = _streams(container, path, options)
        clock = Clock(path, (video, audio))
        frames = _chosen_frames(container, video, path, options.frame_position, clock)
        first = next(frames)
        zero = first[2]
        sound_frames = None
        if audio is not None:
            track = sound_container.streams[audio.index]
            sound_frames = _decoded(sound_container, track, path, Clock(path, (video, audio)))
        sound = Sound(sound_frames, zero, str(path))
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
        sound.warn_of_silence()


def _open(path: Path) -> InputContainer:
    if not path.exists():
        raise UserError(f"there is no file {path}; check the name")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a video file")
    check_regular_file(path)
    try:
        # The name itself may hold a colon; titles may be written in any encoding.
        container = av.open(f"file:{path}", metadata_errors="replace")
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


def _streams(container: InputContainer, path: Path, options: ReadOptions) -> tuple[VideoStream, AudioStream | None]:
    chosen = choose_streams(container, path, options.video_stream, options.audio_stream)
    video: Any = container.streams[chosen.video]
    audio: Any = container.streams[chosen.audio] if chosen.audio is not None else None
    if audio is None and options.on_missing_audio == "error":
        raise UserError(f"{path} has no sound track; pass --silent to segment it with silence")
    for stream in filter(None, (video, audio)):
        if stream.codec_context is None:
            raise UserError(f"the codec of the {stream.type} of {path} is not known here; convert the file")
    video.thread_type = "AUTO"
    return video, audio


def _promised(video: VideoStream, container: InputContainer) -> float | None:
    """Seconds that the header promises."""
    if video.duration and video.time_base:
        return float(video.duration * video.time_base)
    return container.duration / av.time_base if container.duration else None


def _snippets_in(duration: float) -> int:
    return max(1, int(duration + 0.5 + _TICK))


def _decoded(container: InputContainer, stream: Any, path: Path, clock: Clock) -> Iterator[tuple[float, float, Any]]:
    """Frames with the seconds at which they begin and end. UserError where a second or more cannot be decoded."""
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25) if stream.type == "video" else 0.0
    base, end, failed = stream.time_base, None, None
    for packet in _packets(container, stream, clock):
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            if packet is not None and packet.pts is not None:
                failed = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end = float(packet.pts * packet.time_base) if end is None else end
            continue
        for frame in frames:
            time = float(frame.pts * base) if frame.pts is not None else end or 0.0
            _check_damage(stream, path, end, failed)
            end, failed = time + (float(frame.duration * base) if frame.duration else step), None
            yield time, end, frame
    _check_damage(stream, path, end, failed)


def _packets(container: InputContainer, stream: Any, clock: Clock) -> "Iterator[Packet[Any] | None]":
    """The stream's packets with corrected time stamps, and None, which makes the decoder give all that it holds."""
    try:
        for packet in container.demux():  # all streams: the clock needs their order
            clock.correct(packet)
            if packet.stream_index == stream.index and packet.size:
                yield packet
    except FFmpegError:  # what is missing then is judged by the header
        pass
    yield None


def _check_damage(stream: Any, path: Path, end: float | None, failed: float | None) -> None:
    if end is not None and failed is not None and failed - end >= _TOLERATED_LOSS:
        raise UserError(
            f"the {stream.type} of {path} cannot be decoded from {max(end, 0.0):.1f} s to {failed:.1f} s; "
            "copy the file again"
        )


def _chosen_frames(
    container: InputContainer, stream: VideoStream, path: Path, frame_position: FramePosition, clock: Clock
) -> Iterator[tuple[float, np.ndarray, float]]:
    """For each snippet: seconds since the first frame, pixels, and the first frame's own time stamp.

    The frame of an frame_position is the last one shown at or before it.
    """
    zero = shown_at = until = 0.0
    picture: _Picture | None = None
    last: VideoFrame | None = None
    chosen: tuple[float, VideoFrame] | None = None
    snippet = 0
    for stamp, end, frame in _decoded(container, stream, path, clock):
        if picture is None or last is None:
            zero, picture, last = stamp, _Picture(frame), frame
        time = stamp - zero
        while True:
            if chosen is None and time > snippet + frame_position.offset + _TICK:
                chosen = shown_at, last
            # Whether the snippet exists is known half a second into it.
            if chosen is None or time <= snippet + 0.5 + _TICK:
                break
            yield chosen[0], picture.rgb(chosen[1]), zero
            chosen, snippet = None, snippet + 1
        last, shown_at, until = frame, time, end
    if picture is None or last is None:
        raise UserError(f"no frame of {path} can be decoded; convert it or give another video")
    clock.warn()
    _check_complete(container, stream, path, clock.original(stream, until), clock.end)
    for number in range(snippet, max(_snippets_in(until - zero), snippet if snippet else 1)):
        shown = chosen if chosen is not None and number == snippet else (shown_at, last)
        yield shown[0], picture.rgb(shown[1]), zero


def _check_complete(container: InputContainer, stream: VideoStream, path: Path, end: float, last: float) -> None:
    """Compares the header's duration with the end of the picture and with the last packet, on the file's own clock."""
    promised = _promised(stream, container)
    if promised is None or container.format.name in ("mpeg", "mpegts"):  # which have no header that promises anything
        return
    if "mp4" in container.format.name:  # counts from the first frame
        promised += float((stream.start_time or 0) * (stream.time_base or 0))
    else:  # elsewhere the promise may be that of the sound
        end = max(end, last)
    if promised - end >= _TOLERATED_LOSS:
        raise UserError(
            f"{path} is truncated: {end:.1f} s of the promised {promised:.1f} s can be decoded; copy the file again"
        )


class _Picture:
    """Turns frames into pixels uint8 [H, W, 3] at the first frame's size, turned and mirrored as the file asks."""

    def __init__(self, first: VideoFrame) -> None:
        self._size = first.width, first.height
        # Read once: PyAV keeps every frame whose side data was read. Not `rotation`, which is wrong where mirrored.
        side_data: Any = first.side_data  # iterates over keys or values, as the version of PyAV has it
        matrix = side_data.get(SideDataType.DISPLAYMATRIX)
        a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        self._turned = abs(b) > abs(a)
        across, down = (c, b) if self._turned else (a, d)
        self._flip = slice(None, None, -1 if down < 0 else 1), slice(None, None, -1 if across < 0 else 1)

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
        return np.ascontiguousarray((pixels.swapaxes(0, 1) if self._turned else pixels)[self._flip])
