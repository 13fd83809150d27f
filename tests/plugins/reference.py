"""The op in float64, from its definition: every pixel within one pixel of a location, by its distance."""

import numpy as np


def plain(value: np.ndarray, shapes: np.ndarray, locations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """value [B,S,M,D], shapes [L,2] as (h, w), locations [B,Q,M,L,P,2], weights [B,Q,M,L,P] -> [B,Q,M*D]."""
    batch, _, heads, channels = value.shape
    queries = weights.shape[1]
    value, locations, weights = value.astype(np.float64), locations.astype(np.float64), weights.astype(np.float64)
    out = np.zeros((batch, queries, heads, channels))
    of_batch, of_head = np.arange(batch)[:, None, None, None], np.arange(heads)[None, None, :, None]
    start = 0
    for level, (height, width) in enumerate(shapes.tolist()):
        with np.errstate(all="ignore"):
            x = locations[:, :, :, level, :, 0] * width - 0.5
            y = locations[:, :, :, level, :, 1] * height - 0.5
            near = (x > -1) & (x < width) & (y > -1) & (y < height) & (height * width > 0)
        x, y = np.where(near, x, 0.0), np.where(near, y, 0.0)
        for row in (np.floor(y), np.floor(y) + 1):
            for column in (np.floor(x), np.floor(x) + 1):
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[:, :, :, level]
                used = near & (row >= 0) & (row < height) & (column >= 0) & (column < width)
                token = np.where(used, start + row * width + column, 0).astype(np.int64)
                if used.any():
                    samples = np.where(used[..., None], value[of_batch, token, of_head], 0.0)
                    out += (samples * share[..., None]).sum(-2)
        start += height * width
    return out.reshape(batch, queries, heads * channels)


def fused(
    value: np.ndarray, shapes: np.ndarray, references: np.ndarray, offsets: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """references [B or 1,Q,L or 1,2], offsets [B,Q,M,L,P,2] in pixels, logits [B,Q,M,L,P]: softmax over L * P."""
    exponents = np.exp(logits.astype(np.float64) - logits.astype(np.float64).max((-2, -1), keepdims=True))
    weights = exponents / exponents.sum((-2, -1), keepdims=True)
    sizes = shapes[:, ::-1].astype(np.float64)
    with np.errstate(all="ignore"):
        steps = offsets.astype(np.float64) / sizes[:, None]
        locations = references.astype(np.float64)[:, :, None, :, None] + steps
    return plain(value, shapes, locations, weights)
