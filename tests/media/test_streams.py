"""Which picture and sound of a file with several streams are read: a player's choice, or the caller's."""

import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from media_files import tone

from ovavss.errors import DataWarning, UserError
from ovavss.media.video import ReadOptions, probe, read_windows

# One picture or sound: codec, gray level or hertz (None: no packet), number of frames or seconds, mark, title.
Spec = tuple[str, float | None, int, Disposition | None, str]
FILM: Spec = ("libx264", 200, 10, None, "")
TONE: Spec = ("aac", 1000, 2, None, "")
NONE, DEFAULT = Disposition(0), Disposition.default


def write(path: Path, *specs: Spec) -> Path:
    """A file of these streams in their order; frames come at 5 a second."""
    with av.open(str(path), "w", options={"strict": "experimental"}) as container:
        packets = []
        for codec, content, count, mark, title in specs:
            if codec in ("aac", "flac", "pcm_s16le", "libopus"):
                stream = container.add_stream(codec, rate=48000, layout="mono")
                frames = _sounds(stream, content or 0, count if content else 0)
            else:
                stream = container.add_stream(codec, rate=5, width=64, height=48)
                stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
                frames = _pictures(stream, content or 0, count if content else 0)
            if mark is not None:
                stream.disposition = mark
            if title:
                stream.metadata["title"] = title
            packets += [packet for frame in frames for packet in stream.encode(frame)] + list(stream.encode())
        for packet in sorted((p for p in packets if p.pts is not None), key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


def _pictures(stream: av.VideoStream, gray: float, count: int) -> list[av.VideoFrame]:
    frames = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), gray, np.uint8), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, 5)
        frames.append(frame)
    return frames


def _sounds(stream: av.AudioStream, hertz: float, seconds: int) -> list[av.AudioFrame]:
    wave = tone(hertz)(np.arange(48000 * seconds) / 48000)
    frames, step = [], stream.codec_context.frame_size or 1024
    for start in range(0, len(wave), step):
        layout = stream.codec_context.format.name
        part = wave[start : start + step]
        samples = (part * 32767).astype(np.int16) if layout.startswith("s16") else part.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format=layout, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        frames.append(frame)
    return frames


def chosen(path: Path, **options: int) -> tuple[int, int | None, float, float]:
    """The indices, and what was read: gray level and hertz."""
    info = probe(path, ReadOptions(**options))  # type: ignore[arg-type]
    window = next(iter(read_windows(path, 2, ReadOptions(**options))))  # type: ignore[arg-type]
    spectrum = np.abs(np.fft.rfft(window.waveform))
    return (
        info.video_stream,
        info.audio_stream,
        float(window.frames[0].mean()),
        float(spectrum.argmax() * 16000 / len(window.waveform)),
    )


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("a.mp4", [("mjpeg", 20, 1, None, ""), FILM, TONE]),  # an unmarked cover
        ("a.mov", [("png", 20, 1, None, ""), FILM, TONE]),
        ("a.mkv", [("mjpeg", 20, 1, Disposition.timed_thumbnails, ""), FILM, TONE]),
        ("a.mkv", [("libx264", None, 0, None, ""), FILM, TONE]),  # a track without a packet
        ("a.mkv", [("libx264", 20, 10, NONE, ""), ("libx264", 200, 10, DEFAULT, ""), TONE]),
        ("a.mkv", [FILM, ("aac", 300, 2, NONE, ""), ("aac", 1000, 2, DEFAULT, "")]),
        ("a.mp4", [FILM, ("aac", 300, 2, NONE, ""), ("aac", 1000, 2, DEFAULT, "")]),
        ("a.mov", [FILM, ("pcm_s16le", 300, 2, NONE, ""), ("aac", 1000, 2, DEFAULT, "")]),
        ("a.mkv", [FILM, ("aac", 300, 2, Disposition.comment, ""), TONE]),
        ("a.mkv", [FILM, ("aac", 300, 2, Disposition.comment | DEFAULT, ""), ("aac", 1000, 2, NONE, "")]),
        ("a.mkv", [FILM, ("aac", 300, 2, Disposition.visual_impaired, ""), TONE]),
        ("a.mkv", [FILM, ("libopus", 300, 2, None, "Director's commentary"), TONE]),
        ("a.mkv", [FILM, ("aac", None, 0, None, ""), TONE]),
        ("a.mkv", [FILM, ("flac", None, 0, None, ""), TONE]),
        ("a.ts", [FILM, ("aac", 300, 2, Disposition.visual_impaired, ""), TONE]),
    ],
)
def test_what_a_player_takes(tmp_path: Path, name: str, specs: list[Spec]) -> None:
    path = write(tmp_path / name, *specs)
    with pytest.warns(DataWarning, match=r"has 2 (video|audio) streams: \d \(.*\) is used, not \d .*-stream takes"):
        video, audio, gray, hertz = chosen(path)
    assert abs(gray - 200) < 8 and abs(hertz - 1000) < 5
    assert specs[video][1] == 200 and audio is not None and specs[audio][1] == 1000


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_codec_that_is_not_known_hides_no_track(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, FILM, ("aac", 300, 2, None, ""), TONE)
    data = bytearray(path.read_bytes().replace(b"A_AAC", b"A_XYZ", 1).replace(b"mp4a", b"xyzw", 1))
    if name == "a.mp4":
        data[data.index(b"\x40\x15", data.index(b"esds"))] = 0xFE  # the codec is named twice
    path.write_bytes(data)
    with pytest.warns(DataWarning, match="1 .* cannot be decoded"):
        assert chosen(path)[1] == 2


def test_a_stream_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", ("libx264", 20, 10, None, ""), FILM, TONE, ("aac", 300, 2, None, "dub"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video, audio, gray, hertz = chosen(path, video_stream=1, audio_stream=3)
    assert (video, audio) == (1, 3) and abs(gray - 200) < 8 and abs(hertz - 300) < 5
    for options, sentence in (
        ({"video_stream": 2}, "has no video stream 2; its video streams: 0 .h264, 64 x 48.; 1 .h264"),
        ({"audio_stream": 9}, "has no audio stream 9; its audio streams: 2 .aac.; 3 .aac, dub."),
    ):
        with pytest.raises(UserError, match=sentence):
            probe(path, ReadOptions(**options))


def test_no_word_without_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", FILM, TONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(path)[:2] == (0, 1)


def test_a_sound_track_that_holds_nothing_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", FILM, ("aac", None, 0, None, ""))
    with pytest.warns(DataWarning, match=r"a\.mkv: the sound track is silent for as long as the picture lasts"):
        (window,) = read_windows(path, 2)
    assert not window.waveform.any()
