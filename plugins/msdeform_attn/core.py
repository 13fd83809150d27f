"""The C interface (`include/ovavss_msdeform_attn.h`) from Python, on NumPy arrays: for tests and measurements."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class Sizes(ctypes.Structure):
    """ovavss_msda_sizes."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "channels", "levels", "queries", "points")),
        *((name, ctypes.c_int64) for name in ("reference_batch", "reference_levels")),
        *((name, ctypes.c_int32) for name in ("value_type", "weight_type", "shapes_are_int32")),
    ]


class Core:
    """A library that holds the C interface, or a part of it. Half types travel as arrays of float16 or, bfloat16 having
    no NumPy type, of uint16."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def check(self, sizes: Sizes) -> str | None:
        function = self.library.ovavss_msda_check
        function.restype = ctypes.c_char_p
        message = function(ctypes.byref(sizes))
        return message.decode() if message else None

    def plain(
        self, value: np.ndarray, shapes: np.ndarray, locations: np.ndarray, weights: np.ndarray, **how: Any
    ) -> np.ndarray:
        """On the CPU, or `device="cuda"` (the host walk); see _run."""
        sizes = sizes_of(value, shapes, weights)
        return self._run("plain", sizes, value, [value, shapes, locations, weights], **how)

    def fused(
        self,
        value: np.ndarray,
        shapes: np.ndarray,
        references: np.ndarray,
        offsets: np.ndarray,
        logits: np.ndarray,
        **how: Any,
    ) -> np.ndarray:
        sizes = sizes_of(value, shapes, logits, references)
        return self._run("fused", sizes, value, [value, shapes, references, offsets, logits], **how)

    def _run(
        self,
        form: str,
        sizes: Sizes,
        value: np.ndarray,
        inputs: list[np.ndarray],
        threads: int = 1,
        device: str = "cpu",
    ) -> np.ndarray:
        """ValueError with the sentence of the CPU kernel, or the CUDA error's number."""
        output = aligned(np.zeros((sizes.batch, sizes.queries, sizes.heads * sizes.channels), value.dtype))
        arrays = [aligned(array) for array in inputs]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, output)]
        function = getattr(self.library, f"ovavss_msda_{form}_{device}")
        if device == "cpu":
            function.restype = ctypes.c_char_p
            message = function(ctypes.byref(sizes), *pointers, ctypes.c_int32(threads))
            if message:
                raise ValueError(message.decode())
        else:
            function.restype = ctypes.c_int32
            error = function(ctypes.byref(sizes), *pointers, None)
            if error:
                raise ValueError(f"CUDA error {error}")
        return output


def sizes_of(value: np.ndarray, shapes: np.ndarray, weights: np.ndarray, references: np.ndarray | None = None) -> Sizes:
    batch, tokens, heads, channels = value.shape
    _, queries, _, levels, points = weights.shape
    of_batch, of_levels = (1, 1) if references is None else (references.shape[0], references.shape[2])
    types = [DTYPES["bfloat16" if a.dtype == np.uint16 else str(a.dtype)] for a in (value, weights)]
    narrow = int(shapes.dtype == np.int32)
    return Sizes(batch, tokens, heads, channels, levels, queries, points, of_batch, of_levels, *types, narrow)


def aligned(array: np.ndarray, to: int = 16) -> np.ndarray:
    """The array itself, or a copy that starts at a multiple of `to` bytes: the CUDA kernel loads 16 bytes at a time."""
    if array.flags.c_contiguous and array.ctypes.data % to == 0:
        return array
    room = np.empty(array.nbytes + to, np.uint8)
    start = -room.ctypes.data % to
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
