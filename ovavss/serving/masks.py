"""Masks of a response, packed and unpacked (see `MaskFormat`)."""

import numpy as np
from pycocotools import mask as coco_mask

from ovavss.serving.request import MaskFormat


def pack(masks: np.ndarray, mask_format: MaskFormat) -> np.ndarray:
    """Masks bool [k, T, H, W] -> uint8 [k, T, L]."""
    count, snippets, height, width = masks.shape
    if mask_format is MaskFormat.BITS:
        return np.packbits(masks.reshape(count, snippets, height * width), axis=-1)
    flat = np.asfortranarray(masks.reshape(-1, height, width).transpose(1, 2, 0), dtype=np.uint8)
    counts = [rle["counts"] for rle in coco_mask.encode(flat)]
    length = max(map(len, counts), default=1)
    text = bytearray(b"".join(row.ljust(length, b"\0") for row in counts))
    return np.array(text, np.uint8).reshape(count, snippets, length)


def unpack(packed: np.ndarray, mask_format: MaskFormat, size: tuple[int, int]) -> np.ndarray:
    """uint8 [k, T, L] -> masks bool [k, T, H, W] of the given (H, W)."""
    count, snippets, _ = packed.shape
    if mask_format is MaskFormat.BITS:
        bits = np.unpackbits(packed, axis=-1, count=size[0] * size[1])
        return bits.reshape(count, snippets, *size).astype(bool)
    if count == 0:
        return np.zeros((count, snippets, *size), bool)
    rles = [{"size": list(size), "counts": row.tobytes().rstrip(b"\0")} for row in packed.reshape(count * snippets, -1)]
    return coco_mask.decode(rles).transpose(2, 0, 1).reshape(count, snippets, *size).astype(bool)
