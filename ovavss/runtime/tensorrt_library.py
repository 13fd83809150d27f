"""TensorRT and TensorRT-RTX as Python modules, however they are installed."""

import ctypes
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from ovavss.errors import UserError

LIBRARIES = "OVAVSS_TENSORRT_LIBS"
PLUGIN = "OVAVSS_TENSORRT_PLUGIN"
_ORDER = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")


def tensorrt() -> ModuleType:
    """`tensorrt`, or `tensorrt_bindings` with the libraries of the folder that OVAVSS_TENSORRT_LIBS names.

    Raises UserError with what to install where neither can be imported.
    """
    _load_libraries()
    return _import(
        ("tensorrt", "tensorrt_bindings"),
        "TensorRT is not installed: pip install 'ovavss[tensorrt]', or pip install tensorrt-cu13-bindings and name the "
        f"folder of its libraries in {LIBRARIES}",
    )


def tensorrt_rtx() -> ModuleType:
    """`tensorrt_rtx`, or its bindings; UserError with what to install where neither can be imported."""
    return _import(
        ("tensorrt_rtx", "tensorrt_rtx_bindings"), "TensorRT-RTX is not installed: pip install 'ovavss[rtx]'"
    )


def _import(names: tuple[str, ...], missing: str) -> ModuleType:
    reasons = []
    for name in names:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            text = str(error).splitlines()
            if text and "No module named" not in text[0]:
                reasons.append(f"{name}: {text[0][:160]}")
    raise UserError(f"{missing} ({'; '.join(reasons)})" if reasons else missing)


def _load_libraries() -> None:
    folder = os.environ.get(LIBRARIES, "").split(os.pathsep)[0]
    if not folder:
        return
    if not Path(folder).is_dir():
        raise UserError(f"{LIBRARIES} names {folder}, which is no folder; give the one with libnvinfer.so")
    for stem in _ORDER:
        found = sorted(Path(folder).glob(f"{stem}*"))
        if found:
            ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)


def logger(trt: ModuleType) -> Any:
    """A logger that keeps the messages of errors in its `errors` and prints nothing."""

    class Kept(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Kept()


def reason(kept: Any, nothing: str) -> str:
    """The first line of the last error, or `nothing`."""
    return kept.errors[-1].splitlines()[0][:300] if kept.errors else nothing


def load_plugin(trt: ModuleType, path: Path) -> None:
    """Registers the creators of our plugin library; UserError where it cannot be loaded."""
    if not path.is_file():
        raise UserError(f"there is no plugin library {path}; build it with: make plugins")
    try:
        handle = trt.get_plugin_registry().load_library(str(path))
    except Exception as error:  # pybind's own exception types
        raise UserError(f"{path} is not a plugin library that this TensorRT loads ({str(error)[:160]})") from error
    if handle is None:
        version = trt.__version__
        raise UserError(f"TensorRT {version} does not load {path}; build it for this version with: make plugins")
