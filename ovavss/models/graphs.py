"""What a graph is: a network that leaves PyTorch, with the names, types and sizes of its inputs and outputs.

Export, runners and serving know a network by this description alone. Importing it loads nothing heavy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def describe_graph(spec: GraphSpec) -> dict[str, list[dict[str, Any]]]:
    """The inputs and outputs of a graph as JSON can hold them."""
    return {
        side: [{"name": t.name, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for t in tensors]
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs))
    }


def read_graph(name: str, content: dict[str, list[dict[str, Any]]]) -> GraphSpec:
    """The specification of a graph from what `describe_graph` returned."""
    import torch

    inputs, outputs = (
        tuple(TensorSpec(t["name"], getattr(torch, t["dtype"]), tuple(t["shape"])) for t in content[side])
        for side in ("inputs", "outputs")
    )
    return GraphSpec(name, inputs, outputs)
