"""Time stamps that leap: what was recorded is read on without the gap, in step, and a line says so."""

import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import tone

from ovavss.errors import DataWarning
from ovavss.media.sound import SAMPLE_RATE
from ovavss.media.video import ReadOptions, Window, read_windows

# Where a packet of "video" or "audio" that belongs at this second is put instead.
Move = Callable[[str, float], float]
GRAY, HERTZ = (40, 80, 120, 160, 200), (500, 1000, 1500, 2000, 2500)


def write(path: Path, move: Move, sound: bool = True, b_frames: int = 0) -> Path:
    """Five seconds, each with its own gray level and tone."""
    audio_codec = {".flv": "aac", ".webm": "libopus", ".mp4": "aac", ".ts": "aac"}.get(path.suffix, "pcm_s16le")
    options = {} if path.suffix == ".webm" else {"bf": str(b_frames)}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=10, options=options)
        video.width, video.height, video.pix_fmt, video.codec_context.gop_size = 64, 48, "yuv420p", 5
        packets = []
        for number in range(50):
            pixels = np.full((48, 64, 3), GRAY[number // 10 % 5], np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += [(packet, "video") for packet in video.encode(frame)]
        packets += [(packet, "video") for packet in video.encode()]
        if sound:
            audio = container.add_stream(audio_codec, rate=48_000, layout="mono")
            step = audio.codec_context.frame_size or 960
            time = np.arange(5 * 48_000) / 48_000
            wave = np.select([time // 1 % 5 == second for second in range(5)], [tone(hz)(time) for hz in HERTZ])
            name = audio.codec_context.format.name
            coded = (wave * 32767).astype(np.int16) if name.startswith("s16") else wave.astype(np.float32)
            for start in range(0, len(wave), step):
                part = np.ascontiguousarray(coded[None, start : start + step])
                sounding = av.AudioFrame.from_ndarray(part, format=name, layout="mono")
                sounding.sample_rate, sounding.pts, sounding.time_base = 48_000, start, Fraction(1, 48_000)
                packets += [(packet, "audio") for packet in audio.encode(sounding)]
            packets += [(packet, "audio") for packet in audio.encode()]
        for packet, kind in sorted(packets, key=lambda item: float(item[0].dts * item[0].time_base)):
            time_at = float(packet.dts * packet.time_base)
            ticks = round((move(kind, time_at) - time_at) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            container.mux(packet)
    return path


def read(path: Path) -> list[Window]:
    return list(read_windows(path, 5, ReadOptions(on_missing_audio="silence")))


def check_content(window: Window, sound: bool = True) -> None:
    """Each second has its own gray level and its own tone."""
    assert window.snippets == 5
    np.testing.assert_allclose(window.frames.mean((1, 2, 3)), GRAY, atol=8)
    for second, hertz in enumerate(HERTZ if sound else ()):
        middle = window.waveform[second * SAMPLE_RATE :][4000:12000]
        assert np.abs(middle).max() > 0.3
        assert abs(float(np.abs(np.fft.rfft(middle)).argmax()) * 2 - hertz) < 5


def leap(at: float, seconds: float) -> Move:
    return lambda kind, time: time + seconds if time >= at else time


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".webm", ".flv", ".mp4"])
@pytest.mark.parametrize(("at", "b_frames"), [(0.05, 0), (3.0, 0), (2.8, 2)])
def test_leap_forward(tmp_path: Path, suffix: str, at: float, b_frames: int) -> None:
    path = write(tmp_path / f"a{suffix}", leap(at, 600), b_frames=b_frames)
    with pytest.warns(DataWarning, match=r"leap forward (599|600|601) s at [0-3]\.\d s; reading goes on") as told:
        (window,) = read(path)
    assert len(told) == 1
    check_content(window)


@pytest.mark.parametrize("at", [0.05, 3.0])
def test_leap_in_avi(tmp_path: Path, at: float) -> None:
    """AVI has no time stamps: the picture's gap is of empty frames, the sound has none."""
    path = write(tmp_path / "a.avi", leap(at, 600))
    with pytest.warns(DataWarning, match="leap forward 600 s"):
        (window,) = read(path)
    check_content(window)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4"])
def test_leap_without_sound(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", leap(3.0, 600), sound=False)
    if suffix == ".mp4":  # says that one frame is to be shown for ten minutes
        assert sum(window.snippets for window in read(path)) == 605
        return
    with pytest.warns(DataWarning, match="leap forward 600 s at 3.0 s"):
        (window,) = read(path)
    check_content(window, sound=False)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".flv"])
def test_leaps_again_and_again(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", lambda kind, time: time + 300 * int(time))
    with pytest.warns(DataWarning, match=r"leap forward 4 times, by 1200 s in all, first at 1\.0 s") as told:
        (window,) = read(path)
    assert len(told) == 1
    check_content(window)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("kind", ["audio", "video"])
def test_one_stream_alone_leaps(tmp_path: Path, suffix: str, kind: str) -> None:
    path = write(tmp_path / f"a{suffix}", lambda which, time: time + 400 * (which == kind and time >= 3))
    with pytest.warns(DataWarning, match="leap forward 400 s at 3.0 s"):
        (window,) = read(path)
    check_content(window)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("kind", ["audio", "video"])
def test_streams_that_begin_far_apart(tmp_path: Path, suffix: str, kind: str) -> None:
    path = write(tmp_path / f"a{suffix}", lambda which, time: time + 400 * (which == kind))
    with pytest.warns(DataWarning, match="leap forward 400 s at 0.0 s"):
        (window,) = read(path)
    check_content(window)


def test_leap_backward(tmp_path: Path) -> None:
    first = write(tmp_path / "a.ts", leap(-1, 1000))
    second = write(tmp_path / "b.ts", leap(-1, 10))
    (tmp_path / "c.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for window in read(tmp_path / "c.ts"):
            check_content(window)


@pytest.mark.parametrize("start", [100.0, 40_000.0, 2**33 / 90_000 - 3.0])
def test_start_far_from_zero(tmp_path: Path, start: float) -> None:
    """The last one wraps: the clock of MPEG-TS has 33 bits."""
    path = write(tmp_path / "a.ts", leap(-1, start))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (window,) = read(path)
    check_content(window)


def slides(path: Path, sound_seconds: int) -> Path:
    """Two pictures, the second after 100 s, and a tone meanwhile."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        packets = []
        for time in (0, 100, 101):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time + 50, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1)
            packets += video.encode(frame)
        packets += video.encode()
        for second in range(sound_seconds):
            wave = (tone(440)(np.arange(8000) / 8000) * 32767).astype(np.int16)
            sounding = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            sounding.sample_rate, sounding.pts, sounding.time_base = 8000, second * 8000, Fraction(1, 8000)
            packets += audio.encode(sounding)
        for packet in sorted((p for p in packets if p.pts is not None), key=lambda p: float(p.pts * p.time_base)):
            container.mux(packet)
    return path


def test_a_slide_that_is_spoken_about_for_long_is_no_leap(tmp_path: Path) -> None:
    path = slides(tmp_path / "a.mkv", sound_seconds=102)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows = read(path)
    assert sum(window.snippets for window in windows) == 102
    assert all(np.abs(window.waveform[: window.snippets * SAMPLE_RATE]).max() > 0.4 for window in windows)
