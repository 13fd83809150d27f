"""Draw what was found over the frames, with Pillow's own font: one picture, a film with sound, a contact sheet."""

import colorsys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from functools import lru_cache
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

SAMPLE_RATE, FILM_RATE = 16000, 5  # players stumble over one frame a second
H264 = "libx264" in av.codecs_available
PANEL, INK, QUIET = (20, 23, 28), (236, 239, 243), (139, 148, 158)
# Bright, far apart, and none the color of skin or wood; further classes go round the color wheel.
_FIRST = bytes.fromhex("ff4d5e 36c5f0 ffd23f 4ade80 c084fc ff8c2e 2dd4bf f472b6 5b8dff b4e61e e879f9 14b866")


@dataclass(frozen=True)
class Shown:
    """One snippet to draw."""

    frame: np.ndarray  # uint8 [H, W, 3], RGB
    label_map: np.ndarray  # uint8 or uint16 [H, W]; 0 = background, else class index + 1
    scores: Mapping[int, float]  # best score by class index; a class may be missing
    sound: np.ndarray  # float32 [at most 16000], -1 to 1: this second at 16 kHz
    second: float  # from the start of the video


def class_color(index: int) -> tuple[int, int, int]:
    """The RGB color of a class index, the same in every run; bright, and distinct for at least 1 000 classes."""
    wheel = colorsys.hsv_to_rgb(index * 0.618 % 1, (0.85, 0.55, 0.7)[index % 3], 1 - 0.1 * (index // 3 % 3))
    red, green, blue = _FIRST[3 * index : 3 * index + 3] or (round(255 * part) for part in wheel)
    return red, green, blue


def display_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) that a frame is shown at: short side at least 360 by an integer factor, long side at most 1280 pixels."""
    short, long = min(height, width), max(height, width)
    return _scaled((height, width), min(ceil(360 / short), 1280 // long) if long <= 1280 else 1280 / long)


def resize(shown: Shown, size: tuple[int, int]) -> Shown:
    """Frame and label map at (H, W); the regions' edges become smooth instead of blocky."""
    if shown.label_map.shape == size:
        return shown
    frame = np.asarray(Image.fromarray(shown.frame).resize(size[::-1], Image.Resampling.BICUBIC))
    # A region takes a pixel of which it covers more than half, and more than any other region.
    best, label_map = np.full(size, 127, np.uint8), np.zeros(size, shown.label_map.dtype)
    for label in _present([shown]):
        mask = Image.fromarray((shown.label_map == label + 1).astype(np.uint8) * 255)
        cover = np.asarray(mask.resize(size[::-1], Image.Resampling.BILINEAR))
        label_map[cover > best] = label + 1
        best = np.maximum(best, cover)
    return replace(shown, frame=frame, label_map=label_map)


def draw_regions(shown: Shown, names: Sequence[str], font_px: int) -> np.ndarray:
    """uint8 [H, W, 3]: the frame with each region filled, outlined and labeled; other pixels stay as they are."""
    picture, labels = shown.frame.copy(), shown.label_map
    line, slices = max(1, round(min(labels.shape) / 240)), ndimage.find_objects(labels.astype(np.int32))
    for label in _present([shown]):
        color = np.asarray(class_color(label), np.float32)
        rows, columns = slices[label]
        # One pixel more on each side, for the dark rim that sets the outline off from a bright background.
        window = (slice(max(0, rows.start - 1), rows.stop + 1), slice(max(0, columns.start - 1), columns.stop + 1))
        mask, view = labels[window] == label + 1, picture[window]
        inner = ndimage.binary_erosion(mask, iterations=line, border_value=1)
        rim = ndimage.binary_dilation(mask) & (labels[window] == 0)
        view[inner] = (0.6 * view[inner] + 0.4 * color).astype(np.uint8)
        view[mask & ~inner] = color.astype(np.uint8)
        view[rim] //= 2
    image, taken = Image.fromarray(picture), 0 + (labels > 0)  # taken: how bad it is to cover a pixel
    for label in _present([shown]):
        tail = f" {shown.scores[label]:.2f}" if label in shown.scores else ""
        tag = _Tag(label, names, font_px, min(image.width - 4, max(image.width * 3 // 5, 9 * font_px)), tail)
        x, y = _place(tag, labels == label + 1, taken)
        taken[y : y + tag.high, x : x + tag.width] = 4
        tag.draw(ImageDraw.Draw(image), x, y)
    return np.asarray(image)


def draw_legend(labels: Sequence[int], names: Sequence[str], width: int, font_px: int, rows: int) -> Image.Image:
    """The names of class indices `labels` as a panel `width` wide and just `rows` rows high; too many end in '+N'."""
    lines = _legend_rows(labels, names, width, font_px, rows)
    pad, high = font_px // 2, round(1.4 * font_px)
    image = Image.new("RGB", (width, rows * (high + pad) + pad), PANEL)
    draw, x, y = ImageDraw.Draw(image), pad, pad + (rows - max(1, len(lines))) * (high + pad) // 2
    for number, line in enumerate(lines):
        x, y = pad, y + (high + pad if number else 0)
        for tag in line:
            tag.draw(draw, x, y)
            x += tag.width + pad
    left_out = len(labels) - sum(map(len, lines))
    note = f"+{left_out}" if left_out else "" if labels else "nothing sounds"
    draw.text((x, y + high / 2), note, INK if labels else QUIET, _font(font_px), anchor="lm")
    return image


class OverlayVideo:
    """The overlay film: H.264 (MPEG-4 where that is missing) and AAC, one shown frame for each second of sound.

    `names` holds all names, by class index; `size` is the (H, W) of the frames that will come.
    """

    def __init__(self, path: Path, names: Sequence[str], size: tuple[int, int]) -> None:
        self._names, self._size = names, display_size(*size)
        self._font_px = min(26, max(14, round(min(self._size) / 24)))
        self._width = max(self._size[1], 320) // 2 * 2
        # The legend's height cannot change in a film. At most ten names are in a clip; take the longest.
        longest = sorted(range(len(names)), key=lambda index: -len(names[index]))[:10]
        self._seconds, self._rows = 0, max(1, len(_legend_rows(longest, names, self._width, self._font_px, 3)))
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"preset": "veryfast", "crf": "20"} if H264 else {"b": "4M"}
        self._video = self._container.add_stream("libx264" if H264 else "mpeg4", rate=FILM_RATE, options=options)
        legend = draw_legend([], names, self._width, self._font_px, self._rows)
        self._height = (self._size[0] + legend.height + 1) // 2 * 2
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = self._width, self._height, "yuv420p"
        context.gop_size, context.max_b_frames, context.thread_count = FILM_RATE, 0, 2
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = 1  # BT.709 too
        self._audio = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        self._audio.codec_context.bit_rate = 64000

    def add(self, shown: Shown) -> None:
        """Append one second: the frame with its regions, and its sound (cut, or filled with silence)."""
        shown = resize(shown, self._size)
        picture = Image.fromarray(draw_regions(shown, self._names, self._font_px))
        legend = draw_legend(_present([shown]), self._names, self._width, self._font_px, self._rows)
        canvas = Image.new("RGB", (self._width, self._height), PANEL)
        canvas.paste(picture, ((self._width - picture.width) // 2, 0))
        canvas.paste(legend, (0, picture.height))
        frame = av.VideoFrame.from_ndarray(np.asarray(canvas), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.time_base = Fraction(1, FILM_RATE)
        for repeat in range(FILM_RATE):
            frame.pts = self._seconds * FILM_RATE + repeat
            self._container.mux(self._video.encode(frame))
        audio = av.AudioFrame.from_ndarray(_one_second(shown.sound)[None], format="fltp", layout="mono")
        audio.sample_rate, audio.pts = SAMPLE_RATE, self._seconds * SAMPLE_RATE
        self._container.mux(self._audio.encode(audio))
        self._seconds += 1

    def close(self) -> None:
        """Write what the encoders still hold, and the film's index."""
        self._container.mux([*self._video.encode(None), *self._audio.encode(None)])
        self._container.close()

    def discard(self) -> None:
        """Let go of a film that will not be finished."""
        with suppress(OSError, ValueError, av.FFmpegError):  # the file is about to be deleted
            self._container.close()


class ContactSheet:
    """Up to `limit` snippets spread evenly over a video of any length, with their sound and one legend."""

    def __init__(self, names: Sequence[str], limit: int = 10) -> None:
        self._names, self._limit, self._kept, self._seen, self._stride = names, limit, list[Shown](), 0, 1

    def add(self, shown: Shown) -> None:
        """Take one snippet into account."""
        if self._seen % self._stride == 0:
            small = resize(shown, _scaled(shown.label_map.shape, 640 / max(shown.label_map.shape)))
            # Copies, since a view would keep its whole window alive.
            frame, label_map, sound = small.frame.copy(), small.label_map.copy(), small.sound[:SAMPLE_RATE].copy()
            self._kept.append(replace(small, frame=frame, label_map=label_map, sound=sound))
            # Flat memory: from here on every second, every fourth, ... snippet.
            if len(self._kept) > 2 * self._limit:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._seen += 1

    def chosen(self) -> list[Shown]:
        """Those that the sheet shows: equally far from each other."""
        return self._kept[:: ceil(len(self._kept) / self._limit)]

    def save(self, path: Path) -> None:
        """Draw the sheet as PNG. There must have been at least one snippet."""
        chosen = self.chosen()
        columns = len(chosen) if len(chosen) <= 5 else ceil(len(chosen) / 2)
        gap, strip, shape = 12, 34, chosen[0].label_map.shape
        size = _scaled(shape, min(1, 1500 / max(columns, 2) / 640, 360 / shape[0] if columns > 2 else 1))
        cell, step = max(size[1], 150), size[0] + strip + gap
        full, bottom = columns * (cell + gap) + gap, ceil(len(chosen) / columns) * step
        peak = max(1e-3, *(float(np.abs(shown.sound).max(initial=0)) for shown in chosen))
        rows = max(1, len(_legend_rows(_present(chosen), self._names, full - gap, 15, 4)))
        legend = draw_legend(_present(chosen), self._names, full - gap, 15, rows)
        sheet = Image.new("RGB", (full, bottom + gap + legend.height), PANEL)
        for number, shown in enumerate(chosen):
            x, y = gap + number % columns * (cell + gap), gap + number // columns * step
            picture = Image.fromarray(draw_regions(resize(shown, size), self._names, 14))
            sheet.paste(picture, (x + (cell - size[1]) // 2, y))
            sheet.paste(_wave_strip(shown, cell, strip, peak), (x, y + size[0]))
        sheet.paste(legend, (gap // 2, bottom + gap // 2))
        sheet.save(path)


class _Tag:
    """A name on its class's color, at most `room` pixels wide."""

    def __init__(self, label: int, names: Sequence[str], font_px: int, room: int, tail: str = "") -> None:
        self.color, self.font, self.high, pad = class_color(label), _font(font_px), round(1.4 * font_px), font_px // 3
        name = readable(names[label], label)
        self.text = name + tail
        while name and self.font.getlength(self.text) > min(room, 16 * font_px) - 2 * pad:
            name = name[: min(len(name) - 1, 100)]  # far more than fits anywhere
            self.text = name.rstrip() + "…" + tail
        self.width = ceil(self.font.getlength(self.text)) + 2 * pad

    def draw(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        red, green, blue = self.color
        ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)
        draw.rounded_rectangle((x, y, x + self.width - 1, y + self.high - 1), self.high // 5, self.color)
        draw.text((x + self.width / 2, y + self.high / 2), self.text, ink, self.font, anchor="mm")


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=2048)
def readable(name: str, label: int) -> str:
    """The name in the characters that the font has, which are those of ASCII; 'class 7' where hardly any is left."""
    missing = bytes(_font(20).getmask("\U0010ffff"))
    plain = [c for c in unicodedata.normalize("NFKD", " ".join(name.split())) if not unicodedata.combining(c)]
    text = "".join(c if c.isprintable() and bytes(_font(20).getmask(c)) != missing else "?" for c in plain)
    return text if 2 * text.count("?") < len(plain) else f"class {label}"


def _one_second(sound: np.ndarray) -> np.ndarray:
    return np.pad(sound[:SAMPLE_RATE].clip(-1, 1), (0, max(0, SAMPLE_RATE - len(sound)))).astype(np.float32)


def _present(snippets: Sequence[Shown]) -> list[int]:
    """The class indices that have a pixel somewhere."""
    return sorted({int(value) - 1 for shown in snippets for value in np.unique(shown.label_map) if value})


def _scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


def _legend_rows(labels: Sequence[int], names: Sequence[str], width: int, font_px: int, rows: int) -> list[list[_Tag]]:
    """Tags row by row, as many as fit; the last row leaves room for '+N'."""
    lines, pad, x = list[list[_Tag]](), font_px // 2, width
    for label in labels:
        tag = _Tag(label, names, font_px, width - 2 * pad - 3 * font_px)
        if x + tag.width + pad + (3 * font_px if len(lines) == rows else 0) > width:
            if len(lines) == rows:
                break
            lines, x = [*lines, []], pad
        lines[-1].append(tag)
        x += tag.width + pad
    return lines


def _place(tag: _Tag, mask: np.ndarray, taken: np.ndarray) -> tuple[int, int]:
    """The left top of a region's label: in its largest part if that is big enough, else as near as there is room."""
    # Every so-manyth pixel will do for the distance transform, the slow part, unless the region is tiny.
    step = max(1, max(mask.shape) // 320)
    step = step if np.count_nonzero(mask[::step, ::step]) > 100 else 1
    parts, _ = ndimage.label(mask[::step, ::step])
    largest = np.pad(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]), 1)
    row, column = np.unravel_index(np.argmax(ndimage.distance_transform_edt(largest)), largest.shape)
    rows, columns = ndimage.find_objects(largest.astype(np.uint8))[0]
    x0, y0, x1, y1 = (step * (at - 1) for at in (columns.start, rows.start, columns.stop, rows.stop))
    x, y = step * (int(column) - 1) - tag.width // 2, step * (int(row) - 1) - tag.high // 2
    # A small region must not vanish below its own label; in a big one there is room.
    inside = y1 - y0 > 2 * tag.high and x1 - x0 > 0.8 * tag.width
    taken = taken + mask * (-1 if inside else 80 * tag.high // np.count_nonzero(mask))
    tries = [(x, y), (x, y0 - tag.high - 3), (x, y1 + 3), (x1 + 3, y), (x0 - tag.width - 3, y)]
    tries += [(x, y + side * tag.high * far // 2) for far in range(1, 16) for side in (1, -1)]
    costs: dict[tuple[int, int], float] = {}
    for left, top in tries:
        left, top = max(1, min(left, mask.shape[1] - tag.width - 1)), max(1, min(top, mask.shape[0] - tag.high - 1))
        covered = int(taken[top : top + tag.high, left : left + tag.width].sum())
        costs[left, top] = covered + tag.high * (abs(left - x) + abs(top - y)) / 2
    return min(costs, key=lambda place: costs[place])


def _wave_strip(shown: Shown, width: int, height: int, peak: float) -> Image.Image:
    """The second's wave form as bars, after its time."""
    image = Image.new("RGB", (width, height), PANEL)
    draw, stamp = ImageDraw.Draw(image), str(timedelta(seconds=int(shown.second))).removeprefix("0:")
    draw.text((1, height / 2), stamp, INK, _font(14), anchor="lm")
    bars = range(int(_font(14).getlength(stamp)) + 10, width - 2, 4)
    for x, part in zip(bars, np.array_split(np.abs(_one_second(shown.sound)) / peak, len(bars))):
        high = max(0.5, float(part.max()) * (height / 2 - 5))
        draw.rectangle((x, height / 2 - high, x + 1, height / 2 + high), QUIET)
    return image
