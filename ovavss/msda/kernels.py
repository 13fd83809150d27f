"""The compiled kernels behind their C interface (`ovavss_msdeform_attn.h`), on PyTorch tensors."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ovavss.msda.libraries import find_library

LIBRARY = "libovavss_msdeform_attn.so"
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Sizes(ctypes.Structure):
    """`ovavss_msda_sizes` of the C interface."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "channels", "levels", "queries", "points")),
        *((name, ctypes.c_int64) for name in ("reference_batch", "reference_levels")),
        *((name, ctypes.c_int32) for name in ("value_type", "weight_type", "shapes_are_int32")),
    )


@cache
def _library() -> Any:
    """The loaded library, or None where it is not built or installed."""
    path = find_library(LIBRARY)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.ovavss_msda_check.restype = ctypes.c_char_p
    for form in ("plain", "fused"):
        getattr(library, f"ovavss_msda_{form}_cpu").restype = ctypes.c_char_p
    return library


def run_kernel(form: str, value: Tensor, level_shapes: Tensor, *others: Tensor) -> Tensor | None:
    """Runs the kernel of the tensors' device.

    Args:
        form: "plain", with locations and weights as `others`, or "fused", with reference points, offsets and logits.
        value: [N, S, M, D].
        level_shapes: int64 [L, 2], (height, width) of each level.
        *others: Shapes as of `msda.ms_deform_attn` and `ms_deform_attn_fused`.

    Returns:
        [N, Q, M * D], or None where no kernel takes these sizes, types or this device.

    Raises:
        ValueError: The level shapes do not fit the tokens.
        RuntimeError: The kernel could not be started.
    """
    library, weights, cuda = _library(), others[-1], value.is_cuda
    name = f"ovavss_msda_{form}_{value.device.type}"
    if library is None or value.device.type not in ("cpu", "cuda") or not hasattr(library, name):
        return None
    halves = cuda and value.dtype in _TYPES and weights.dtype in (torch.float32, value.dtype)
    if not halves and not (value.dtype == weights.dtype == torch.float32):
        return None
    batch, tokens, heads, channels = value.shape
    queries, _, levels, points = weights.shape[1:]
    references = others[0].shape if form == "fused" else (1, 0, 1)
    types = _TYPES[value.dtype], _TYPES[weights.dtype], 0
    sizes = Sizes(batch, tokens, heads, channels, levels, queries, points, references[0], references[2], *types)
    if library.ovavss_msda_check(ctypes.byref(sizes)):
        return None
    # Coordinates are float32; offsets and logits have one type.
    kinds = (torch.float32, weights.dtype)
    places = [tensor.to(kind) for tensor, kind in zip(others[:-1], kinds)]
    tensors = [each.contiguous() for each in (value, level_shapes.to(value.device, torch.int64), *places, weights)]
    output = torch.empty(batch, queries, heads * channels, dtype=value.dtype, device=value.device)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*tensors, output)]
    if cuda:
        with torch.cuda.device(value.device):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            if error := getattr(library, name)(ctypes.byref(sizes), *pointers, stream):
                raise RuntimeError(f"{name} could not be started: CUDA error {error}")
    elif message := getattr(library, name)(ctypes.byref(sizes), *pointers, ctypes.c_int32(torch.get_num_threads())):
        raise ValueError(f"{name}: {message.decode()}")
    return output
