"""The trained weights that come with the package."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "shipped_weights"


def shipped_weights(preset: str) -> Path | None:
    """Those of a preset, if it has some."""
    path = _FOLDER / f"{preset}.safetensors"
    return path if path.exists() else None
