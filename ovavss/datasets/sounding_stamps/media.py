"""What Sounding Stamps are made of: two tables, and the files that they name, read from fetched packages.

`classes.csv`: each class, the group of things that look or sound alike, the longest side of its pictures in pixels
(empty for what is only heard), AudioSet's class, and the names that are right for it beside its own. `media.csv`: each
picture, sound and background with its package, path and license; a path may lead into a Qt resource file.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ovavss.checkpoints.fetched import fetch
from ovavss.datasets.sounding_stamps.qt_resources import QtResources
from ovavss.errors import UserError
from ovavss.media.sound import SAMPLE_RATE

_MAX_SECONDS = 12  # of a recording
_TRIM_LEVEL = 0.02  # of the peak: what is softer at either end is cut off
LOUDNESS = 0.1  # RMS of every sound


@dataclass(frozen=True)
class StampClass:
    """A kind of thing.

    `size` is the longest side of its pictures in pixels, 0 if it is heard only; `audioset` is its sound's class there;
    `accepted_names` begin with its own.
    """

    name: str
    group: str
    size: int
    audioset: str
    accepted_names: tuple[str, ...]
    pictures: tuple["MediaFile", ...]
    sounds: tuple["MediaFile", ...]


@dataclass(frozen=True)
class MediaFile:
    """A file of a package, by the package's key in `checkpoints/fetched.toml`."""

    package: str
    path: str
    license: str


def _rows(name: str) -> list[dict[str, str]]:
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _files(use: str, name: str) -> tuple[MediaFile, ...]:
    return tuple(
        MediaFile(row["package"], row["path"], row["license"])
        for row in _rows("media.csv")
        if row["use"] == use and row["class"] == name
    )


@cache
def stamp_classes() -> Mapping[str, StampClass]:
    """All classes by name, those that are only heard last."""
    return {
        row["name"]: StampClass(
            row["name"],
            row["group"],
            int(row["size"] or 0),
            row["audioset"],
            (row["name"], *filter(None, row["also_accepted"].split(";"))),
            _files("picture", row["name"]),
            _files("sound", row["name"]),
        )
        for row in _rows("classes.csv")
    }


@cache
def backgrounds() -> tuple[MediaFile, ...]:
    """The photographs that lie behind the pictures."""
    return _files("background", "")


class StampMedia:
    """The packages' files, decoded.

    Args:
        offline: Ask no registry; take what is in the cache.

    Raises:
        UserError: A package is not in the cache and cannot be fetched.
    """

    def __init__(self, offline: bool = False) -> None:
        used = {file.package for file in backgrounds()}
        for each in stamp_classes().values():
            used |= {file.package for file in (*each.pictures, *each.sounds)}
        self._folders = {key: fetch(key, offline) for key in sorted(used)}
        self._resources: dict[Path, QtResources] = {}
        self._sounds: dict[MediaFile, np.ndarray] = {}

    def picture(self, file: MediaFile) -> Image.Image:
        """Returns a picture as RGBA, cut to the pixels that are not transparent."""
        picture = Image.open(io.BytesIO(self._read(file))).convert("RGBA")
        opaque = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
        return picture.crop(opaque.getbbox())

    def background(self, file: MediaFile) -> Image.Image:
        """Returns a photograph as RGB."""
        return Image.open(io.BytesIO(self._read(file))).convert("RGB")

    def sound(self, file: MediaFile) -> np.ndarray:
        """Returns a recording as float32 [S], 16 kHz mono, without silence at its ends, of one RMS for all."""
        if file not in self._sounds:
            samples = _decode(self._read(file))[: _MAX_SECONDS * SAMPLE_RATE]
            loud = np.flatnonzero(np.abs(samples) > _TRIM_LEVEL * np.abs(samples).max())
            samples = samples[loud[0] : loud[-1] + 1]
            samples = samples * (LOUDNESS / np.sqrt(np.mean(samples**2)))
            self._sounds[file] = samples.clip(-1, 1).astype(np.float32)
        return self._sounds[file]

    def _read(self, file: MediaFile) -> bytes:
        folder = self._folders[file.package]
        outer, inside, inner = file.path.partition(".rcc/")
        path = folder / (outer + inside.removesuffix("/"))
        try:
            if not inside:
                return path.read_bytes()
            if path not in self._resources:
                self._resources[path] = QtResources(path)
            return self._resources[path].read(inner)
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{folder / file.path} is missing or cannot be read; remove the folder {folder} and run the command "
                "again to fetch it"
            ) from error


def _decode(content: bytes) -> np.ndarray:
    """The first sound track as float64 [S], 16 kHz mono."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(content), "r") as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float64)
