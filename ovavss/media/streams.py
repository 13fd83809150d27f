"""Which picture and which sound of a file are meant, where it has several: what a player would take.

Covers and other stills are no picture, a track that holds nothing or cannot be decoded is none. Of the rest, tracks
marked as a commentary, a dub or a description come last, those with the file's default mark first.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ovavss.errors import DataWarning, UserError

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_SECONDARY = (
    *(Disposition.comment, Disposition.dub, Disposition.lyrics, Disposition.karaoke, Disposition.clean_effects),
    *(Disposition.hearing_impaired, Disposition.visual_impaired, Disposition.descriptions, Disposition.captions),
)
_SECONDARY_TITLES = ("comment", "descri")
# How far a file is read to see what its tracks hold.
_EXAMINED_SECONDS = 60.0
_EXAMINED_PACKETS = 20_000
# Two frames make a picture that moves; a sound needs one.
_ENOUGH = {"video": 2, "audio": 1}


@dataclass(frozen=True)
class StreamChoice:
    """Indices of streams as ffprobe counts them, over all kinds; `audio` is None where the file has no sound."""

    video: int
    audio: int | None


def choose_streams(
    container: InputContainer, path: Path, video_stream: int | None = None, audio_stream: int | None = None
) -> StreamChoice:
    """Chooses among the streams of an opened file, and warns where there was a choice.

    Args:
        container: The opened file.
        path: Its path, for messages; it is opened again where the streams have to be examined.
        video_stream: The index of the stream whose picture is wanted, in place of the choice.
        audio_stream: The same for the sound.

    Raises:
        UserError: The file has no picture, or no such stream.
    """
    video = _given(container, path, "video", video_stream)
    audio = _given(container, path, "audio", audio_stream)
    videos = [stream for stream in container.streams.video if not stream.disposition & _STILLS]
    if not videos and video is None:
        raise UserError(f"{path} has no picture; give a video file with sound")
    status = path.stat()
    key = str(path), status.st_size, status.st_mtime_ns
    if video is None:
        video = _best(container, path, tuple(stream.index for stream in videos), key)
    if audio is None and container.streams.audio:
        audio = _best(container, path, tuple(stream.index for stream in container.streams.audio), key)
    return StreamChoice(video, audio)


def _given(container: InputContainer, path: Path, kind: str, index: int | None) -> int | None:
    if index is None:
        return None
    if any(stream.index == index and stream.type == kind for stream in container.streams):
        return index
    streams = [stream for stream in container.streams if stream.type == kind]
    holds = f"its {kind} streams: {'; '.join(map(_describe, streams))}" if streams else f"it has no {kind} stream"
    raise UserError(f"{path} has no {kind} stream {index}; {holds}")


def _best(container: InputContainer, path: Path, candidates: tuple[int, ...], key: tuple[str, int, int]) -> int:
    streams = [container.streams[index] for index in candidates]
    if len(streams) == 1:
        return streams[0].index
    frames = _decoded_frames(key, candidates)

    def rank(stream: Any) -> tuple[int, bool, bool, int]:
        default = bool(stream.disposition & Disposition.default)
        return frames[stream.index], not _is_secondary(stream), default, -stream.index

    best = max(streams, key=rank)
    passed = "; ".join(
        _describe(stream) + ("" if frames[stream.index] == _ENOUGH[stream.type] else f", {_lack(frames[stream.index])}")
        for stream in streams
        if stream is not best
    )
    warnings.warn(
        f"{path} has {len(streams)} {best.type} streams: {_describe(best)} is used, not {passed}; "
        f"--{best.type}-stream takes another",
        DataWarning,
        stacklevel=2,
    )
    return best.index


def _lack(frames: int) -> str:
    return "a still" if frames else "which cannot be decoded or is empty"


def _is_secondary(stream: Any) -> bool:
    title = stream.metadata.get("title", "").lower()
    marked = any(stream.disposition & mark for mark in _SECONDARY)
    return marked or any(word in title for word in _SECONDARY_TITLES)


def _describe(stream: Any) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown codec"
    details = [codec]
    if stream.type == "video" and stream.codec_context is not None:
        details.append(f"{stream.codec_context.width} x {stream.codec_context.height}")
    details += [stream.metadata[name] for name in ("language", "title") if stream.metadata.get(name, "und") != "und"]
    return f"{stream.index} ({', '.join(details)})"


@lru_cache(maxsize=64)
def _decoded_frames(key: tuple[str, int, int], candidates: Sequence[int]) -> dict[int, int]:
    """How many frames of each stream can be decoded, up to what is enough; the file's beginning is read."""
    frames = dict.fromkeys(candidates, 0)
    with av.open(f"file:{key[0]}", metadata_errors="replace") as container:
        streams = {index: container.streams[index] for index in candidates}
        waiting = {index for index, stream in streams.items() if stream.codec_context is not None}
        packets = container.demux([streams[index] for index in candidates])
        for _ in range(_EXAMINED_PACKETS):
            if not waiting:
                break
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                index = packet.stream.index
                if index in waiting:
                    frames[index] += len(packet.decode())
                    if frames[index] >= _ENOUGH[packet.stream.type]:
                        frames[index] = _ENOUGH[packet.stream.type]
                        waiting.discard(index)
                elif _begins_after(packet, _EXAMINED_SECONDS):
                    break
            except FFmpegError:
                continue
    return frames


def _begins_after(packet: Any, seconds: float) -> bool:
    if packet.pts is None or packet.time_base is None:
        return False
    return float((packet.pts - (packet.stream.start_time or 0)) * packet.time_base) > seconds
