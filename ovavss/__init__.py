"""Audio-visual segmentation: what sounds in a video, outlined and named.

`load` gives a `Segmenter`; its `segment` gives a `Result` with tracks. Nothing heavy is imported before `load` is used.
Names that are not listed here are private by convention and may change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovavss.errors import DataWarning, UserError
    from ovavss.output.tracks import Result, Track
    from ovavss.segmenter import Segmenter, load

__version__ = "0.2.0"
__all__ = ["DataWarning", "Result", "Segmenter", "Track", "UserError", "__version__", "load"]

_HOMES = {
    "load": "segmenter",
    "Segmenter": "segmenter",
    "Result": "output.tracks",
    "Track": "output.tracks",
    "UserError": "errors",
    "DataWarning": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovavss' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"ovavss.{_HOMES[name]}"), name)
