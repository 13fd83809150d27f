"""Multi-scale deformable attention: where the operator's libraries are, and ONNX Runtime sessions that use them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["c_library", "cmake_root", "onnxruntime_library", "openvino_library", "register", "tensorrt_library"]
__version__ = "0.2.0"

_ROOT = Path(__file__).parent
_NAME = "{}.dll" if sys.platform == "win32" else "lib{}.dylib" if sys.platform == "darwin" else "lib{}.so"


def onnxruntime_library() -> str:
    """ONNX Runtime's custom operators, for `SessionOptions.register_custom_ops_library`."""
    return _library("ovavss_msdeform_attn_ort")


def openvino_library() -> str:
    """OpenVINO's extension, for `Core.add_extension`."""
    return _library("ovavss_msdeform_attn_openvino")


def tensorrt_library() -> str:
    """TensorRT's plugins, for `trtexec --dynamicPlugins=` or `IPluginRegistry.load_library`."""
    return _library("ovavss_msdeform_attn_trt")


def c_library() -> str:
    """The C interface of `ovavss_msdeform_attn.h`."""
    return _library("ovavss_msdeform_attn")


def cmake_root() -> str:
    """The prefix for CMake's `find_package(ovavss_msda)`, as `ovavss_msda_ROOT`."""
    return str(_ROOT)


def register(session_options: "onnxruntime.SessionOptions | None" = None) -> "onnxruntime.SessionOptions":
    """Registers the operator with ONNX Runtime.

    Args:
        session_options: Options to register with; new ones by default.

    Returns:
        The options, for `onnxruntime.InferenceSession`.

    Raises:
        FileNotFoundError: This wheel was built without the ONNX Runtime library.
    """
    import onnxruntime

    session_options = session_options or onnxruntime.SessionOptions()
    session_options.register_custom_ops_library(onnxruntime_library())
    return session_options


def _library(name: str) -> str:
    path = _ROOT / "lib" / _NAME.format(name)
    if not path.is_file():
        reason = f"this build of ovavss-msda has no {path.name}: its README says how to build one that has"
        raise FileNotFoundError(reason)
    return str(path)
