"""The colors of label maps on disk."""

import numpy as np
from numpy.typing import NDArray


def voc_palette(size: int) -> NDArray[np.uint8]:
    """The PASCAL VOC colors uint8 [size, 3] of labels 0 ... size - 1: 3 bits of the label a step, high bits first."""
    labels = np.arange(size)[:, None]
    channel = np.arange(3)
    colors = np.zeros((size, 3), np.int64)
    for step in range(8):
        colors |= ((labels >> (3 * step + channel)) & 1) << (7 - step)
    return colors.astype(np.uint8)
