"""The file formats of AVSBench-OV (spec section 10): category table, palette, images, sound, segmentations and clips.

`avsbench_ov` reads whole data sets with them.
"""

import json
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import wavfile

from ovavss.datasets.nearest_neighbor import nearest_pil_index
from ovavss.errors import UserError
from ovavss.media.sound import SAMPLE_RATE

# fmt: off
BASE_NAMES = (
    "airplane", "baby", "bell", "bird", "boat", "boy", "bus", "car", "cat", "clock", "dog", "donkey", "drum",
    "duck", "elephant", "girl", "goose", "guitar", "gun", "hair-dryer", "helicopter", "hen", "horse", "keyboard",
    "lion", "man", "missile-rocket", "motorcycle", "parrot", "piano", "pig", "sheep", "squirrel", "tiger",
    "tractor", "train", "truck", "trumpet", "vacuum-cleaner", "woman",
)
NOVEL_NAMES = (
    "accordion", "axe", "bassoon", "cello", "clarinet", "clipper", "emergency-car", "erhu", "flute", "frying-food",
    "guzheng", "handpan", "harmonica", "harp", "leopard", "marimba", "mower", "pipa", "saw", "saxophone", "sitar",
    "sorna", "tabla", "tank", "trombone", "tuba", "ukulele", "utv", "violin", "wolf",
)
# fmt: on
TRAIN_JSON = "avsbench_ov_train_base.json"


@dataclass(frozen=True)
class CategoryTable:
    """Class names in id order (`names[i]` has id i + 1; 0 is background), and the ids of the two groups."""

    names: tuple[str, ...]
    base_ids: tuple[int, ...]
    novel_ids: tuple[int, ...]

    @classmethod
    def from_names(cls, names: Sequence[str], base: Iterable[str]) -> "CategoryTable":
        """Build a table; the names that are not in `base` are novel."""
        base = set(base)
        ids = range(1, len(names) + 1)
        groups = [tuple(i for i in ids if (names[i - 1] in base) is seen) for seen in (True, False)]
        return cls(tuple(names), *groups)


AVSBENCH_OV = CategoryTable.from_names(sorted((*BASE_NAMES, *NOVEL_NAMES)), BASE_NAMES)


def is_system_file(path: Path) -> bool:
    """Whether an operating system or an archive left it there: hidden files, AppleDouble, thumbnails' folders."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "@eaDir")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a folder in the AVSBench-OV layout.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): copy it again.") from None


def read_categories(root: Path, known: Sequence[CategoryTable] = (AVSBENCH_OV,)) -> CategoryTable:
    """The category table of a data set folder.

    Names and ids come from AVSBench-semantic/label2idx.json ("background": 0 is optional) or, without that file, from
    the training JSON's `categories`. If they are those of a table in `known`, that table is the answer. For others the
    base classes are the training JSON's `categories` if they are only some of the names, else those with a training
    annotation.

    Raises:
        UserError: a file is missing or malformed, or the ids are not 1 to K.
    """
    path, training = root / "AVSBench-semantic" / "label2idx.json", root / "AVSBench-openvoc" / TRAIN_JSON
    try:
        if path.is_file():
            ids = {str(name): int(i) for name, i in read_json(path).items() if int(i) != 0}
        else:
            path = training
            ids = {str(c["name"]): int(c["id"]) for c in read_json(path)["categories"]}
        if sorted(ids.values()) != list(range(1, len(ids) + 1)):
            raise UserError(f"{path}: category ids are not 1 to {len(ids)}: number the classes without gaps.")
        names = tuple(sorted(ids, key=lambda name: ids[name]))
        for table in known:
            if names == table.names:
                return table
        path = training
        data = read_json(path)
        base = {int(c["id"]) for c in data["categories"]}
        if len(base) >= len(names):
            base = {int(a["category_id"]) for a in data["annotations"]}
        return CategoryTable.from_names(names, [name for name in names if ids[name] in base])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is malformed ({error!r}): write it as AVSBench-OV does.") from None


def rgb_to_ids(rgb: NDArray[np.uint8], palette: NDArray[np.uint8], name: str = "the label image") -> NDArray[np.uint8]:
    """Returns the label ids of an image by exact match of its colors.

    Args:
        rgb: colors, uint8 [..., 3].
        palette: the color of each id, uint8 [K + 1, 3]; id 0 is background.
        name: what the message calls the image.

    Returns:
        Ids, uint8 [...].

    Raises:
        UserError: a color is not in the palette, so the image is damaged or belongs to another table.
    """
    weights = np.array([1 << 16, 1 << 8, 1], dtype=np.int64)
    codes, table = rgb.astype(np.int64) @ weights, palette.astype(np.int64) @ weights
    order = np.argsort(table)
    found = order[np.minimum(np.searchsorted(table, codes, sorter=order), len(table) - 1)]
    unknown = table[found] != codes
    if unknown.any():
        color = tuple(int(value) for value in rgb[unknown][0])
        raise UserError(
            f"{name} has {int(unknown.sum())} pixels of colors that the category table lacks, the first is {color}: "
            "restore the original image, whose colors are exact."
        )
    return found.astype(np.uint8)


def read_image(path: Path, opaque: bool = False) -> NDArray[np.uint8]:
    """Reads an image file as RGB, uint8 [H, W, 3].

    Args:
        path: the file.
        opaque: refuse an image with transparent pixels, whose colors mean nothing.

    Raises:
        UserError: the file is missing, unreadable, or has transparent pixels where it may not.
    """
    try:
        with Image.open(path) as image:
            if opaque and image.has_transparency_data:
                alpha = np.asarray(image.convert("RGBA"))[..., 3]
                if alpha.min() < 255:
                    raise UserError(
                        f"{path} has {int((alpha < 255).sum())} transparent pixels, whose label is not known (alpha "
                        f"{int(alpha.min())} instead of 255): restore the original image."
                    )
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore the image or remove its video from the list.") from None
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):  # PNG faults: SyntaxError
        raise UserError(f"{path} cannot be read as an image: copy it again from the data set.") from None


def samples_needed(patches: int) -> int:
    """Fewest 16 kHz samples that hold `patches` 0.96 s log-mel patches: 0.96 s each and 0.015 s (77 040 for 5)."""
    return 15360 * patches + 240


def read_wav(path: Path, patches: int = 0) -> NDArray[np.float32]:
    """A PCM-16 WAV file as a waveform: int16 / 32768, mean over channels, resampled to 16 kHz by soxr if needed.

    Args:
        path: the file.
        patches: number of 0.96 s patches that it must hold, counted after resampling with nothing forgiven. So 5 frames
            need 4.815 s and 10 need 9.615 s: less than one second a frame. What is left over is not an error.

    Returns:
        float32 [S] in [-1, 1].

    Raises:
        UserError: the file is missing, unreadable, not 16-bit PCM, or too short.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # unknown chunks, such as tags
            rate, data = wavfile.read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it or remove its video from the list.") from None
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"{path} cannot be read as a WAV file ({error}): convert it to PCM 16-bit.") from None
    if data.dtype != np.int16:
        raise UserError(f"{path} holds {data.dtype} samples: convert it to PCM 16-bit.")
    wave = data.reshape(len(data), -1).astype(np.float64).mean(axis=1) / 32768.0
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE)
    if len(wave) < (need := samples_needed(patches) if patches else 0):
        raise UserError(
            f"{path} is too short: {len(wave) / SAMPLE_RATE:.3f} s of sound where the clip's {patches} frames need "
            f"{need / SAMPLE_RATE:.3f} s: extract the sound again or pad it with silence."
        )
    return wave.astype(np.float32)


def rasterise(
    segmentation: list[Any] | dict[str, Any] | None, source: tuple[int, int], size: tuple[int, int], flip: bool = False
) -> NDArray[np.bool_]:
    """One frame's segmentation as a bool mask of `size` (h, w), after resize and then horizontal flip.

    Polygons (absolute x, y, ... in a frame of `source` (H, W)) are moved first and rasterised at the new size; an RLE
    is decoded and resized by PIL's nearest rule; None is an empty mask.
    """
    if not segmentation:
        return np.zeros(size, dtype=bool)
    if isinstance(segmentation, dict):
        rle = coco_mask.frPyObjects(segmentation, *source) if isinstance(segmentation["counts"], list) else segmentation
        mask = coco_mask.decode(rle).astype(bool)
        mask = mask[nearest_pil_index(source[0], size[0])[:, None], nearest_pil_index(source[1], size[1])]
        return mask[:, ::-1] if flip else mask
    polygons = []
    for polygon in segmentation:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * (size[1] / source[1], size[0] / source[0])
        if flip:
            points[:, 0] = size[1] - points[:, 0]
        polygons.append(points.ravel().tolist())
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))).astype(bool)


@dataclass(frozen=True)
class Clip:
    """What both readers give.

    Attributes:
        video, subset: the folder's name; v1s, v1m or v2.
        frames: uint8 [T, H, W, 3] RGB, as on disk.
        waveform: float32 [S], 16 kHz mono, of the whole video.
        patches: int64 [T], the 0.96 s audio patch of each frame (first character of its file name).
    """

    video: str
    subset: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    patches: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingClip(Clip):
    """Adds `category_ids` int64 [n] and, for each instance, one polygon list, RLE or None a frame.

    Instances without a segmentation in the chosen frames are not in it (n may be 0). For v1s only the video's frame 0
    has segmentations.
    """

    category_ids: NDArray[np.int64]
    segmentations: tuple[tuple[list[Any] | dict[str, Any] | None, ...], ...]

    def rasterise(self, size: tuple[int, int], flip: bool = False) -> NDArray[np.bool_]:
        """Instance masks bool [n, T, h, w] at `size` = (h, w) pixels, optionally flipped left to right."""
        source = (self.frames.shape[1], self.frames.shape[2])
        masks = [[rasterise(s, source, size, flip) for s in row] for row in self.segmentations]
        return np.array(masks, dtype=bool).reshape(len(masks), len(self.frames), *size)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Instance masks bool [n, T, H, W] at the frames' own size."""
        return self.rasterise((self.frames.shape[1], self.frames.shape[2]))


@dataclass(frozen=True)
class TestClip(Clip):
    """Adds `label_map` uint8 [T, H', W'], class ids at the labels' own size, and `clip_labels`, the CSV's ids."""

    __test__ = False  # not a test case

    label_map: NDArray[np.uint8]
    clip_labels: tuple[int, ...]
