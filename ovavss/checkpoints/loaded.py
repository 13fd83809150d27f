"""What loading gives, for either system."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

_Models = TypeVar("_Models")


@dataclass(frozen=True)
class LoadedModels(Generic[_Models]):
    """The models, the files that were read, and one sentence for each thing that the user should know."""

    models: _Models
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
