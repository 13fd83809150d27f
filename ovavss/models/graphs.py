"""What a graph is: a network that leaves PyTorch, with the names, types and sizes of its inputs and outputs.

Export, runners and serving know a network by this description alone. Importing it loads nothing heavy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph. A dimension that varies has a name in place of a size."""

    name: str
    dtype: "torch.dtype"
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph's name, inputs and outputs, and how far its results may be from PyTorch's in float32.

    `tolerance` bounds the largest error relative to the largest value. For a graph that compares with thresholds
    inside (`thresholds`) it bounds the mean error: one value on the other side of a threshold changes all that follow.
    `float32_modules`: classes or attribute names of modules whose own products stay float32 in half precision.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = 1e-4
    thresholds: bool = False
    float32_modules: tuple[str, ...] = ()
