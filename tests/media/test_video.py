"""Decoding: the right frame and the right sound of every second, whatever the file."""

from pathlib import Path

import media_files
import numpy as np
import pytest
from media_files import frame_number, tone, write

from ovavss.errors import UserError
from ovavss.media.video import SAMPLE_RATE, FramePosition, ReadOptions, probe, read_windows


def one(path: Path, **options: object) -> object:
    windows = list(read_windows(path, options=ReadOptions(**options)))  # type: ignore[arg-type]
    assert len(windows) == 1
    return windows[0]


def loudest_hertz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(waveform))


@pytest.mark.parametrize(
    ("frame_position", "numbers"),
    [
        (FramePosition.START, [0, 10, 20, 30, 40]),
        (FramePosition.MIDDLE, [5, 15, 25, 35, 45]),
        (FramePosition.END, [9, 19, 29, 39, 49]),
    ],
)
def test_which_frame_stands_for_a_second(tmp_path: Path, frame_position: FramePosition, numbers: list[int]) -> None:
    window = one(write(tmp_path / "a.mkv", seconds=5), frame_position=frame_position)
    assert [frame_number(frame) for frame in window.frames] == numbers
    np.testing.assert_allclose(window.timestamps, np.array(numbers) / 10, atol=2e-3)


def test_windows_of_a_longer_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", seconds=7.6)
    assert probe(path).seconds == 8
    first, last = read_windows(path)
    assert [frame_number(f) for f in first.frames] == [5, 15, 25, 35, 45] and first.snippets == 5
    # 7.6 s are eight snippets; what is missing is the last frame and silence.
    assert [frame_number(f) for f in last.frames] == [55, 65, 75 - 75, 75 - 75, 75 - 75] and last.snippets == 3
    assert (last.index, last.start) == (1, 5.0)
    assert np.abs(last.waveform[: 2 * SAMPLE_RATE]).max() > 0.3
    assert not last.waveform[3 * SAMPLE_RATE :].any()


@pytest.mark.parametrize(("seconds", "snippets"), [(0.3, 1), (1.4, 1), (1.6, 2), (3.0, 3)])
def test_shorter_than_a_window(tmp_path: Path, seconds: float, snippets: int) -> None:
    path = write(tmp_path / "a.mkv", seconds=seconds)
    window = one(path)
    assert window.snippets == snippets == probe(path).seconds
    assert window.frames.shape == (5, 48, 64, 3) and window.waveform.shape == (5 * SAMPLE_RATE,)
    assert (window.frames[snippets:] == window.frames[snippets - 1]).all()


@pytest.mark.parametrize(
    ("suffix", "rate", "layout", "channels"),
    [
        (".mkv", 8_000, "mono", 1),
        (".mkv", 16_000, "stereo", 2),
        (".mp4", 44_100, "stereo", 2),
        (".mp4", 48_000, "5.1", 6),
        (".avi", 48_000, "mono", 1),
    ],
)
def test_any_rate_and_layout_becomes_16_khz_mono(
    tmp_path: Path, suffix: str, rate: int, layout: str, channels: int
) -> None:
    path = write(tmp_path / f"a{suffix}", seconds=3, sounds=(tone(1000),) * channels, rate=rate, layout=layout)
    info = probe(path)
    assert (info.sample_rate, info.channels) == (rate, channels)
    waveform = one(path).waveform
    middle = waveform[SAMPLE_RATE : 2 * SAMPLE_RATE]
    assert loudest_hertz(middle) == pytest.approx(1000, abs=2)
    expected = tone(1000)(np.arange(SAMPLE_RATE, 2 * SAMPLE_RATE) / SAMPLE_RATE)
    # A shift of one sample would make this about 0.2.
    assert np.abs(middle - expected).max() < (0.02 if suffix != ".mp4" else 0.12)


def test_channels_are_averaged_with_equal_weights(tmp_path: Path) -> None:
    constant = [lambda time, level=level: np.full(len(time), level) for level in (0.6, 0.0, 0.3, 0.0, 0.0, 0.0)]
    path = write(tmp_path / "a.mkv", seconds=2, sounds=tuple(constant), layout="5.1")
    assert one(path).waveform[SAMPLE_RATE] == pytest.approx(0.15, abs=1e-3)


def test_a_click_stays_where_it_was(tmp_path: Path) -> None:
    def click(time: np.ndarray) -> np.ndarray:
        return np.where(np.abs(time - 1.25) < 0.002, 0.9, 0.0)

    for suffix in (".mp4", ".mkv"):
        waveform = one(write(tmp_path / f"a{suffix}", seconds=3, sounds=(click,), rate=44_100)).waveform
        assert np.abs(waveform).argmax() / SAMPLE_RATE == pytest.approx(1.25, abs=0.004)


def test_picture_that_starts_late(tmp_path: Path) -> None:
    # Frames from second 1 on: second 0 of the windows is the first frame, and the sound moves with it.
    path = write(
        tmp_path / "a.mkv",
        seconds=2,
        first_frame=10,
        sounds=(lambda t: np.where(t < 1, 0.0, tone(500)(t)),),
        sound_seconds=3,
    )
    window = one(path)
    assert [frame_number(f) for f in window.frames[:2]] == [5, 15]
    assert np.abs(window.waveform[: SAMPLE_RATE // 2]).max() > 0.4


def test_silence(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", sounds=(lambda time: np.zeros(len(time)),))
    assert np.abs(one(silent).waveform).max() < 1e-4
    none = write(tmp_path / "none.mp4", sounds=None)
    assert not one(none, on_missing_audio="silence").waveform.any()
    for function in (probe, lambda path: list(read_windows(path))):
        with pytest.raises(UserError, match=r"none\.mp4 has no sound track; pass --silent"):
            function(none)


def test_sound_shorter_than_the_picture(tmp_path: Path) -> None:
    waveform = one(write(tmp_path / "a.mkv", seconds=4, sound_seconds=1.5)).waveform
    assert np.abs(waveform[SAMPLE_RATE : SAMPLE_RATE + 8000]).max() > 0.4
    assert not waveform[int(1.6 * SAMPLE_RATE) :].any()


def test_rotated_and_odd_sized(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.mkv", size=(75, 101))
    assert one(odd).frames.shape == (5, 75, 101, 3)
    upright = media_files.rotate(write(tmp_path / "upright.mp4", size=(48, 64)))
    assert one(upright).frames.shape == (5, 64, 48, 3)
    assert (probe(upright).width, probe(upright).height) == (48, 64)


def test_rotation_turns_the_right_way(tmp_path: Path) -> None:
    import av

    path = tmp_path / "corner.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:8, :8] = 255  # top left
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    frame = one(media_files.rotate(path), on_missing_audio="silence").frames[0]
    # The matrix (0, 1, -1, 0) turns clockwise: the top left corner comes to the top right.
    assert frame.shape == (64, 32, 3)
    assert frame[:4, -4:].mean() > 200 and frame[:4, :4].mean() < 50


def test_truncated(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        path = write(tmp_path / f"cut{suffix}", seconds=6, fps=25, size=(120, 160), rate=44_100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(
            UserError, match=rf"cut\{suffix} is truncated: [0-9.]+ s of the promised 6\.\d s can be decoded"
        ):
            list(read_windows(path))


def test_what_is_not_a_video(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a video\n" * 100)
    sound = tmp_path / "sound.wav"
    import wave

    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(32_000))
    for path, message in {
        tmp_path / "missing.mp4": r"there is no file .*missing\.mp4; check the name",
        tmp_path: r"is a folder; give a video file",
        text: r"notes\.txt is not a video that can be read",
        sound: r"sound\.wav has no picture; give a video file with sound",
    }.items():
        with pytest.raises(UserError, match=message):
            probe(path)
