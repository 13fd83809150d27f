"""Files that are odd but good must be read; files that are damaged must say where."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import tone, write

from ovavss.errors import UserError
from ovavss.media.video import ReadOptions, Window, probe, read_windows

SILENT = ReadOptions(on_missing_audio="silence")


def windows(path: Path) -> list[Window]:
    return list(read_windows(path, options=SILENT))


def pictures(
    path: Path,
    times: list[float],
    size: tuple[int, int] = (48, 64),
    last_shown: float | None = None,
    turn: tuple[int, bool, bool] | None = None,
) -> Path:
    """A video without sound, white in its top left corner, one key frame a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"tune": "zerolatency", "g": "10", "crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        picture = np.random.default_rng(0).integers(0, 90, (*size, 3), dtype=np.uint8)
        picture[: size[0] // 4, : size[1] // 4] = 255
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, 1), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                if last_shown and number == len(times) - 1:
                    packet.duration = int(last_shown / packet.time_base)
                container.mux(packet)
        container.mux(stream.encode())
    return path


TENTHS = [number / 10 for number in range(60)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_slides_whose_last_one_stays_long(tmp_path: Path, suffix: str) -> None:
    first, second = windows(pictures(tmp_path / f"a{suffix}", [0, 1, 2], last_shown=8))
    assert (first.snippets, second.snippets) == (5, 5)
    np.testing.assert_allclose(first.timestamps, [0, 1, 2, 2, 2], atol=2e-3)


def test_clock_that_does_not_begin_at_zero(tmp_path: Path) -> None:
    assert sum(w.snippets for w in windows(pictures(tmp_path / "a.mkv", [2 + time for time in TENTHS]))) == 6


def test_sound_longer_than_the_picture_is_no_truncation(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        path = write(tmp_path / f"a{suffix}", seconds=2, sound_seconds=6)
        assert [w.snippets for w in windows(path)] == [2]


@pytest.mark.parametrize(
    ("turn", "corner"),
    [
        ((90, False, False), (-1, 0)),
        ((-90, False, False), (0, -1)),
        ((180, False, False), (-1, -1)),
        ((0, True, False), (0, -1)),
        ((0, False, True), (-1, 0)),
        ((90, True, False), (-1, -1)),
    ],
)
def test_turned_and_mirrored(tmp_path: Path, turn: tuple[int, bool, bool], corner: tuple[int, int]) -> None:
    path = pictures(tmp_path / "a.mp4", [0], size=(32, 64), turn=turn)
    frame = windows(path)[0].frames[0]
    assert frame.shape == ((64, 32, 3) if abs(turn[0]) == 90 else (32, 64, 3))
    assert (probe(path, SILENT).height, probe(path, SILENT).width) == frame.shape[:2]
    corners = {
        (y, x): frame[y * 4 : y * 4 + 4 or None, x * 4 : x * 4 + 4 or None].mean() for y in (0, -1) for x in (0, -1)
    }
    assert max(corners, key=lambda at: corners[at]) == corner


def test_joined_recordings(tmp_path: Path) -> None:
    """The clock starts over and the size changes half way, as where two .ts files are put one after the other."""
    parts = [pictures(tmp_path / f"{n}.ts", TENTHS[:30], size) for n, size in enumerate([(48, 64), (96, 128)])]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    first, second = windows(path)
    assert (first.snippets, second.snippets) == (5, 1) and second.frames.shape == (5, 48, 64, 3)


def test_colon_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mkv").rename(tmp_path / "take:1.mkv")
    assert probe(Path("take:1.mkv")).seconds == 2


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = pictures(tmp_path / "a.mp4", TENTHS, size=(120, 160))
    data = bytearray(path.read_bytes())
    start, stop = int(len(data) * 0.3), int(len(data) * 0.7)
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"the video of .* cannot be decoded from [12]\.\d s to 4\.\d s; copy"):
        windows(path)


def test_damaged_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", seconds=4, sounds=(tone(440),), rate=44_100)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.pos and packet.size:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"the audio of .*a\.mp4 cannot be decoded from 0\.0 s to 4\.\d s"):
        windows(path)


@pytest.mark.parametrize(
    ("name", "known", "unknown", "kind"),
    [("a.mp4", b"avc1", b"zz9z", "video"), ("a.mkv", b"A_PCM/INT/LIT", b"A_PCX/INT/LIT", "audio")],
)
def test_unknown_codec(tmp_path: Path, name: str, known: bytes, unknown: bytes, kind: str) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes().replace(known, unknown))
    with pytest.raises(UserError, match=rf"the codec of the {kind} of .* is not known here; convert the file"):
        probe(path)
