"""Which pixel the nearest-neighbor resizes of torch and of PIL take: they differ."""

import numpy as np
from numpy.typing import NDArray


def nearest_torch_index(source: int, size: int) -> NDArray[np.int64]:
    """Source index of each output of torch's nearest resize: floor(float32(i) * float32(source / size)).

    Args:
        source: length of the input axis, pixels.
        size: length of the output axis, pixels.

    Returns:
        int64 [size], each in [0, source).
    """
    scale = np.float32(source / size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, source - 1)


def nearest_pil_index(source: int, size: int) -> NDArray[np.int64]:
    """Source index of each output of PIL's nearest resize: x starts at half a step and grows by a step in float64.

    The sum is accumulated, as PIL does, since (i + 0.5) * step rounds differently. Arguments and result as in
    `nearest_torch_index`.
    """
    step = source / size
    steps = np.full(size, step, dtype=np.float64)
    steps[0] = step * 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.int64), source - 1)
