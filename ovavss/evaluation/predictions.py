"""Saved predictions: a folder with one folder a clip and one label-map PNG a frame (`<clip>/00000.png`, class ids)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovavss.datasets.palette import voc_palette
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import EvaluationClip


def save_prediction(folder: Path, name: str, label_map: NDArray[np.integer]) -> None:
    """Write label_map [T, H, W] of one clip as palette PNGs (up to 255 classes)."""
    clip = folder / name
    clip.mkdir(parents=True, exist_ok=True)
    for frame, labels in enumerate(label_map):
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(voc_palette(256).tobytes())
        image.save(clip / f"{frame:05}.png")


def read_prediction(folder: Path, clip: EvaluationClip, classes: int) -> NDArray[np.uint8]:
    """The label map uint8 [T, H, W] of one clip.

    Raises UserError where a picture is missing, cannot be read, is of another size, or holds an id above `classes`.
    """
    frames = []
    for frame in range(len(clip.frames)):
        path = folder / clip.name / f"{frame:05}.png"
        if not path.exists():
            raise UserError(f"the prediction {path} is missing; write one PNG for each frame of each clip")
        try:
            labels = np.asarray(Image.open(path))
        except OSError as error:
            raise UserError(f"the prediction {path} cannot be read ({error}); write it again") from error
        size = clip.frames.shape[1:3]
        if labels.shape != size or labels.dtype != np.uint8:
            raise UserError(f"the prediction {path} must be an 8-bit label map of {size}, not {labels.shape}")
        if labels.max() > classes:
            raise UserError(
                f"the prediction {path} holds id {labels.max()}, above the {classes} classes; check its ids"
            )
        frames.append(labels)
    return np.stack(frames)
