"""The overlays: what is drawn where, and whether the film plays."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ovavss.output import overlay
from ovavss.output.overlay import ContactSheet, OverlayVideo, Shown

NAMES = ["man", "piano", "a name that is far too long for any label that one could wish to read", "猫"]


def shown(height: int, width: int, second: float = 0.0, labels: tuple[int, ...] = (0, 1)) -> Shown:
    """A gray frame with one disc for each label, and a tone of 440 Hz."""
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros((height, width), np.uint16)
    for place, label in enumerate(labels):
        center = (place + 0.5) / len(labels) * width
        label_map[(x - center) ** 2 + (y - height / 2) ** 2 < (min(height, width) / (2 * len(labels))) ** 2] = label + 1
    sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    frame = np.full((height, width, 3), 100, np.uint8)
    return Shown(frame, label_map, {label: 0.876 for label in labels}, sound, second)


def has_color(picture: np.ndarray, label: int) -> bool:
    return bool((picture == overlay.class_color(label)).all(axis=-1).any())


def test_colors_are_distinct_bright_and_stable() -> None:
    colors = [overlay.class_color(index) for index in range(1000)]
    assert len(set(colors)) == 1000
    assert all(max(color) > 150 for color in colors)
    assert colors[:2] == [(255, 77, 94), (54, 197, 240)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 96), (384, 384)),
        ((480, 854), (480, 854)),
        ((1080, 1920), (720, 1280)),
        ((1920, 1080), (1280, 720)),
        ((100, 1000), (100, 1000)),
        ((240, 321), (480, 642)),
        ((4, 5000), (2, 1280)),
    ],
)
def test_display_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert overlay.display_size(*size) == expected


def test_regions_change_and_the_rest_does_not() -> None:
    snippet = shown(480, 854)
    before = snippet.frame.copy()
    picture = overlay.draw_regions(snippet, NAMES, 20)
    assert np.array_equal(snippet.frame, before)
    inside = snippet.label_map > 0
    # Only the labels' plates lie over the fill, so each pixel inside differs from the frame.
    assert (picture[inside] != before[inside]).any(axis=-1).all()
    assert np.array_equal(picture[:60], before[:60]) and np.array_equal(picture[:, -40:], before[:, -40:])
    assert has_color(picture, 0) and has_color(picture, 1) and not has_color(picture, 2)
    fill = picture[330, 213].astype(int) - 100
    assert np.sign(fill).tolist() == [1, -1, -1]  # towards red


@pytest.mark.parametrize("size", [(96, 96), (8, 600), (600, 8), (1, 1), (720, 1280)])
def test_any_size_is_drawn(size: tuple[int, int], tmp_path: Path) -> None:
    for labels in [(0,), (0, 1, 2, 3)]:
        picture = overlay.draw_regions(shown(*size, labels=labels), NAMES, 14)
        assert picture.shape == (*size, 3)
    sheet = ContactSheet(NAMES)
    sheet.add(shown(*size))
    sheet.save(tmp_path / "sheet.png")


def test_scattered_pixels_are_drawn() -> None:
    """What a model with random weights finds."""
    noise = np.random.default_rng(0).integers(0, 5, (200, 700)).astype(np.uint8)
    noise[::2], noise[:, ::2] = 0, 0
    picture = overlay.draw_regions(Shown(np.zeros((200, 700, 3), np.uint8), noise, {}, np.zeros(0), 0), NAMES, 14)
    assert all(has_color(picture, label) for label in range(4))


def test_resizing_keeps_the_regions() -> None:
    for size in [(384, 384), (48, 48), (96, 96)]:
        snippet = overlay.resize(shown(96, 96), size)
        assert snippet.frame.shape == (*size, 3) and snippet.label_map.shape == size
        area = [(snippet.label_map == value).mean() for value in (1, 2)]
        assert area == pytest.approx([np.pi * 24**2 / 96**2] * 2, rel=0.05)


def test_legend_shows_the_names_that_are_there() -> None:
    empty = np.asarray(overlay.draw_legend([], NAMES, 640, 16, 2))
    two = np.asarray(overlay.draw_legend([0, 3], NAMES, 640, 16, 2))
    assert empty.shape == two.shape  # a film's legend must not change its height
    assert [has_color(two, label) for label in range(4)] == [True, False, False, True]
    assert not any(has_color(empty, label) for label in range(4))
    assert (empty != overlay.PANEL).any()  # it says that nothing sounds
    many = np.asarray(overlay.draw_legend(range(40), [f"name {i}" for i in range(40)], 320, 16, 2))
    assert has_color(many, 0) and not has_color(many, 39)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grand  piano", "grand piano"),
        ("a\nb", "a b"),
        ("größe Ärger", "gro?e Arger"),
        ("cat 猫", "cat ?"),
        ("猫", "class 7"),
        ("\ud800", "class 7"),
        ("\u0301", "class 7"),
    ],
)
def test_names_become_something_that_can_be_read(name: str, expected: str) -> None:
    assert overlay.readable(name, 7) == expected


@pytest.mark.parametrize("size", [(96, 97), (120, 214)])
@pytest.mark.parametrize("h264", [True, False])
def test_the_film_plays(tmp_path: Path, size: tuple[int, int], h264: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "H264", h264 and overlay.H264)
    film = OverlayVideo(tmp_path / "film.mp4", NAMES, size)
    for second in range(3):
        snippet = shown(*size, second=second, labels=(0,) if second == 1 else ())
        film.add(Shown(snippet.frame, snippet.label_map, {}, snippet.sound * (second == 1), second))
    film.close()
    with av.open(str(tmp_path / "film.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.codec_context.name == ("h264" if overlay.H264 else "mpeg4") and audio.codec_context.name == "aac"
        assert video.width % 2 == video.height % 2 == 0 and video.pix_fmt == "yuv420p"
        for stream in (video, audio):
            assert float(stream.duration * stream.time_base) == pytest.approx(3, abs=0.2)
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video)]
    assert len(frames) == 15 and [round(5 * time) for time, _ in frames] == list(range(15))
    # The disc is there in the second second, and so is the sound.
    height, width = overlay.display_size(*size)
    middle = [np.ptp(picture[height * 3 // 4, width // 2].astype(int)) > 20 for _, picture in frames]
    assert middle == [False] * 5 + [True] * 5 + [False] * 5
    assert frames[0][1][10, 10].tolist() == pytest.approx([100] * 3, abs=4)
    with av.open(str(tmp_path / "film.mp4")) as container:
        chunks = list(container.decode(audio=0))
    start = round(chunks[0].time * 16000)
    sound = np.concatenate([chunk.to_ndarray()[0] for chunk in chunks])
    loud = np.flatnonzero(np.abs(sound) > 0.25) + start
    assert loud.min() / 16000 == pytest.approx(1, abs=0.1) and loud.max() / 16000 == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("count", [1, 3, 10, 11, 47])
def test_the_sheet_spreads_at_most_ten_snippets_evenly(tmp_path: Path, count: int) -> None:
    sheet = ContactSheet(NAMES)
    for second in range(count):
        sheet.add(shown(24, 32, second, labels=()))
    assert len(sheet._kept) <= 20
    seconds = [snippet.second for snippet in sheet.chosen()]
    assert min(count, 6) <= len(seconds) <= 10
    assert seconds[0] == 0 and len(set(np.diff(seconds))) <= 1
    assert count - seconds[-1] <= max(1, seconds[-1] / (len(seconds) - 1) if count > 1 else 1)
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width < 1700


def test_the_sheet_shows_regions_and_legend(tmp_path: Path) -> None:
    sheet = ContactSheet(NAMES)
    for second in range(5):
        sheet.add(shown(96, 96, second, labels=(second % 2,)))
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        legend = np.asarray(image)[-45:]
    assert [has_color(legend, label) for label in range(4)] == [True, True, False, False]
