"""Sounding Stamps: seeded clips of real pictures with their real sounds on photographs, with exact masks.

Each clip of 5 s shows two things of different groups. In the kinds `single` and `turns` one or both of them sound, one
at a time; in `silent` none does; in `off_screen` something sounds that is not shown, nor is anything of its group. Soft
pink noise lies under all sounds, so that silence is never digital zero.

Everything follows from (seed, index): `sample_scene` draws what a clip shows and plays, `render` makes it. Odd and even
seeds share no background, nor any picture or sound of a class that has two or more of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from ovavss.datasets.sounding_stamps.media import (
    LOUDNESS,
    MediaFile,
    StampClass,
    StampMedia,
    backgrounds,
    stamp_classes,
)
from ovavss.media.sound import SAMPLE_RATE

SECONDS, HEIGHT, WIDTH = 5, 360, 480

Kind = Literal["single", "turns", "silent", "off_screen"]
StampSound = Literal["own", "swapped", "silent", "noise10", "noise0"]

# Every run of 15 clips has the same kinds: 8 in which one thing sounds, 2 in turns, 2 silent, 3 off-screen.
_KINDS: tuple[Kind, ...] = (
    "single", "off_screen", "single", "silent", "single", "turns", "single", "off_screen",
    "single", "silent", "single", "turns", "single", "off_screen", "single",
)  # fmt: skip
_SWAP_DISTANCE = 7
_NOISE_DB = {"noise10": 10.0, "noise0": 0.0}
_FLOOR_DB = 40.0  # how far the noise lies below the sounds
_FADE = 320  # samples
_GAP = SAMPLE_RATE // 10  # between repetitions of a short sound, samples

_T = TypeVar("_T")


@dataclass(frozen=True)
class PastedPicture:
    """A picture in motion: sizes and positions in pixels, speed in pixels a second, turning in degrees a second."""

    name: str
    picture: MediaFile
    size: float
    mirrored: bool
    center_x: float
    bottom: float
    velocity: tuple[float, float]
    turning: float


@dataclass(frozen=True)
class PlayedSound:
    """A sound from second `start` up to second `end`."""

    name: str
    recording: MediaFile
    start: int
    end: int


@dataclass(frozen=True)
class StampScene:
    """What a clip shows and plays. `pictures` go from back to front; `zoom` and `offset` place the background."""

    seed: int
    index: int
    kind: Kind
    background: MediaFile
    zoom: float
    offset: tuple[float, float]
    pictures: tuple[PastedPicture, ...]
    sounds: tuple[PlayedSound, ...]

    @property
    def name(self) -> str:
        """A name that no other (seed, index) has and that sorts by index."""
        return f"{self.seed}_{self.index:04d}"


@dataclass(frozen=True)
class StampClip:
    """A rendered clip of T seconds.

    Attributes:
        name: Name of the scene.
        kind: What sounds; `swapped` if the sound is another clip's.
        frames: uint8 [T, H, W, 3] RGB, frame t at t + 0.5 s.
        waveform: float32 [16000 T], 16 kHz mono in [-1, 1].
        visible: bool [T, H, W] by class: where it can be seen.
        sounding: bool [T] by class that is shown: when it sounds.
    """

    name: str
    kind: Kind | Literal["swapped"]
    frames: np.ndarray
    waveform: np.ndarray
    visible: dict[str, np.ndarray]
    sounding: dict[str, np.ndarray]

    def sounding_class(self, second: int) -> str | None:
        """The class that sounds and can be seen in a second."""
        return next(
            (name for name, on in self.sounding.items() if on[second] and self.visible[name][second].any()), None
        )


def sample_scene(seed: int, index: int, several: float = 0.0) -> StampScene:
    """Draws a clip.

    Args:
        seed: Odd and even seeds use different halves of the media.
        index: Number of the clip; the class that sounds and the background go through all of them in turn.
        several: Probability that a picture is pasted twice.
    """
    random = np.random.default_rng([seed, index])
    classes = stamp_classes()
    shown = [each for each in classes.values() if each.pictures]
    first = _dealt(shown, seed, index, 0)
    second = _pick(random, [each for each in shown if each.group != first.group])
    kind = _KINDS[index % len(_KINDS)]
    sounds: list[PlayedSound] = []
    if kind == "single":
        start, end = (0, SECONDS) if random.random() < 0.5 else _span(random)
        sounds = [_played(random, seed, first, start, end)]
    elif kind == "turns":
        sounds = [_played(random, seed, first, 0, 2), _played(random, seed, second, 3, SECONDS)]
    elif kind == "off_screen":
        # What is only heard counts twice, since it is few.
        heard = [each for each in classes.values() if each.group not in (first.group, second.group)]
        heard += [each for each in heard if not each.pictures]
        sounds = [_played(random, seed, _pick(random, heard), 0, SECONDS)]
    return StampScene(
        seed,
        index,
        kind,
        _dealt(_half(backgrounds(), seed), seed, index, 1),
        random.uniform(1, 1.5),
        (random.random(), random.random()),
        _paste(random, seed, (first, second), several),
        tuple(sounds),
    )


def _dealt(items: Sequence[_T], seed: int, index: int, deck: int) -> _T:
    """Item `index` of an endless sequence in which every run of `len(items)` holds each item once."""
    turn, position = divmod(index, len(items))
    return items[int(np.random.default_rng([seed, turn, deck, 1]).permutation(len(items))[position])]


def _half(items: Sequence[_T], seed: int) -> Sequence[_T]:
    return items if len(items) < 2 else items[1 - seed % 2 :: 2]


def _pick(random: np.random.Generator, items: Sequence[_T]) -> _T:
    return items[int(random.integers(len(items)))]


def _span(random: np.random.Generator) -> tuple[int, int]:
    start = int(random.integers(SECONDS - 2))
    return start, start + 3


def _played(random: np.random.Generator, seed: int, sounding: StampClass, start: int, end: int) -> PlayedSound:
    return PlayedSound(sounding.name, _pick(random, _half(sounding.sounds, seed)), start, end)


def _paste(
    random: np.random.Generator, seed: int, shown: Sequence[StampClass], several: float
) -> tuple[PastedPicture, ...]:
    copies = [each for each in shown for _ in range(1 + int(random.random() < several))]
    count = len(copies)
    scale = 1.0 if count == 2 else 0.75 if count == 3 else 0.6
    pictures = []
    for place, which in enumerate(random.permutation(count)):
        stamp = copies[which]
        pictures.append(
            PastedPicture(
                stamp.name,
                _pick(random, _half(stamp.pictures, seed)),
                stamp.size * scale * random.uniform(0.85, 1.15),
                bool(random.random() < 0.5),
                WIDTH * (0.04 + 0.92 * (place + 0.5) / count + random.uniform(-0.04, 0.04)),
                HEIGHT * random.uniform(0.75, 0.95),
                (random.uniform(-4, 4), random.uniform(-1.6, 1.6)),
                random.uniform(-2, 2),
            )
        )
    return tuple(pictures)


def render(scene: StampScene, media: StampMedia, sound: StampSound = "own") -> StampClip:
    """Makes the frames, the waveform and the truth of a scene.

    Args:
        scene: Of `sample_scene`.
        media: The fetched files.
        sound: The clip's own sound; or with noise 10 or 0 dB below it, which also fills its pauses; or noise of the
            floor alone (`silent`: then nothing sounds in the truth either). `swapped` needs another scene's waveform:
            see `stamp_clips`.
    """
    frames, visible = _render_frames(scene, media)
    if sound == "silent":
        scene = replace(scene, kind="silent", sounds=())
    sounding = {name: np.zeros(SECONDS, bool) for name in visible}
    for played in scene.sounds:
        if played.name in sounding:
            sounding[played.name][played.start : played.end] = True
    waveform = render_waveform(scene, media, _NOISE_DB.get(sound, _FLOOR_DB))
    return StampClip(scene.name, scene.kind, frames, waveform, visible, sounding)


def _render_frames(scene: StampScene, media: StampMedia) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    background = _place_background(scene, media.background(scene.background))
    stamps = []
    for pasted in scene.pictures:
        picture = media.picture(pasted.picture)
        scale = pasted.size / max(picture.size)
        picture = picture.resize([max(8, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
        stamps.append(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if pasted.mirrored else picture)
    frames = np.empty((SECONDS, HEIGHT, WIDTH, 3), np.uint8)
    visible = {pasted.name: np.zeros((SECONDS, HEIGHT, WIDTH), bool) for pasted in scene.pictures}
    for second in range(SECONDS):
        frame = background.copy()
        for pasted, picture in zip(scene.pictures, stamps):
            turned = picture.rotate(pasted.turning * (second - 2), Image.Resampling.BICUBIC, expand=True)
            middle = (pasted.center_x, pasted.bottom - picture.height / 2)
            left, top = (
                round(at + speed * second - side / 2) for at, speed, side in zip(middle, pasted.velocity, turned.size)
            )
            frame.paste(turned, (left, top), turned)
            alpha = Image.new("L", (WIDTH, HEIGHT))
            alpha.paste(turned.getchannel("A"), (left, top))
            covered = np.asarray(alpha) > 127
            for mask in visible.values():
                mask[second] &= ~covered
            visible[pasted.name][second] |= covered
        frames[second] = np.asarray(frame)
    return frames, visible


def _place_background(scene: StampScene, photo: Image.Image) -> Image.Image:
    scale = max(WIDTH / photo.width, HEIGHT / photo.height) * scene.zoom
    photo = photo.resize((int(photo.width * scale) + 1, int(photo.height * scale) + 1), Image.Resampling.LANCZOS)
    left, top = (int(share * room) for share, room in zip(scene.offset, (photo.width - WIDTH, photo.height - HEIGHT)))
    return photo.crop((left, top, left + WIDTH, top + HEIGHT))


def render_waveform(scene: StampScene, media: StampMedia, noise_db: float = _FLOOR_DB) -> np.ndarray:
    """Makes the sound of a scene: float32 [16000 T] in [-1, 1], with pink noise `noise_db` below the sounds."""
    random = np.random.default_rng([scene.seed, scene.index, 2])
    length = SECONDS * SAMPLE_RATE
    spectrum = np.fft.rfft(random.standard_normal(length))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    waveform = noise * (LOUDNESS * 10 ** (-noise_db / 20) / noise.std())
    for played in scene.sounds:
        count = (played.end - played.start) * SAMPLE_RATE
        fade = np.minimum(1, np.arange(count) / _FADE)
        recording = np.append(media.sound(played.recording), np.zeros(_GAP))
        waveform[played.start * SAMPLE_RATE :][:count] += np.resize(recording, count) * fade * fade[::-1]
    return waveform.clip(-1, 1).astype(np.float32)


def stamp_clips(
    media: StampMedia, seed: int, num_clips: int, sound: StampSound = "own", several: float = 0.0
) -> Iterator[StampClip]:
    """Renders clips 0 ... `num_clips` - 1 of a seed.

    Args:
        media: The fetched files.
        seed: Odd and even seeds share no media where there is a choice.
        num_clips: A multiple of 15 holds every kind in its share.
        sound: See `render`; with `swapped` clip i has the sound of clip i + 7 and keeps its own truth.
        several: Probability that a picture is pasted twice.
    """
    for index in range(num_clips):
        scene = sample_scene(seed, index, several)
        if sound != "swapped":
            yield render(scene, media, sound)
            continue
        other = sample_scene(seed, (index + _SWAP_DISTANCE) % num_clips, several)
        yield replace(render(scene, media), kind="swapped", waveform=render_waveform(other, media))
