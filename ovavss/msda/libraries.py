"""The ONNX Runtime operator of multi-scale deformable attention: where its library is, and sessions that use it.

Exported files hold the node together with a local function in standard operators. Where the library is registered,
ONNX Runtime takes its kernels and leaves the function alone; else it runs the function. Nothing in the file changes.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovavss.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

LIBRARY = "libovavss_msdeform_attn_ort.so"
_REPOSITORY = Path(__file__).parents[2]


def custom_op_library() -> Path | None:
    """ONNX Runtime's operator, see `find_library`."""
    return find_library(LIBRARY)


def find_library(name: str) -> Path | None:
    """A built library: in the folder OVAVSS_PLUGIN_DIR, else build/plugins of the repository, else of ovavss-msda."""
    if given := os.environ.get("OVAVSS_PLUGIN_DIR"):
        library = Path(given) / name
        if not library.is_file():
            raise UserError(f"OVAVSS_PLUGIN_DIR: {library} does not exist; build it with `make plugins` or unset it")
        return library
    package = importlib.util.find_spec("ovavss_msda") if sys.modules.get("ovavss_msda", True) else None
    installed = [Path(folder) / "lib" for folder in (package.submodule_search_locations or [])] if package else []
    for folder in (_REPOSITORY / "build" / "plugins", *installed):
        if (folder / name).is_file():
            return folder / name
    return None


def has_cuda(library: Path) -> bool:
    """Whether the library holds CUDA kernels."""
    return bool(ctypes.CDLL(str(library)).ovavss_msda_has_cuda())


def session_options(
    providers: Sequence[str], options: "onnxruntime.SessionOptions | None" = None
) -> "onnxruntime.SessionOptions":
    """Options (those given, or new ones) with the operator registered where it helps sessions on these providers.

    On a GPU that is only a library with CUDA kernels: CPU kernels would drag the tensors off the GPU and back.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    library = custom_op_library()
    gpu = any(provider != "CPUExecutionProvider" for provider in providers)
    if library and (not gpu or ("CUDAExecutionProvider" in providers and has_cuda(library))):
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{library} cannot be loaded ({reason}); build it again with `make plugins`") from error
    return options
