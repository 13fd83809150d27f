"""What all runners share: a runner loads one graph in one runtime and maps tensors by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec, TensorSpec

Arrays = dict[str, Tensor]


class Runner(ABC):
    """One graph in one runtime; several threads may call it at the same time.

    Args:
        spec: The names, types and sizes of the graph's inputs and outputs.

    Attributes:
        device: Where the runtime really computes: "cpu" or "cuda".
    """

    device = "cpu"

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def __call__(self, **inputs: Tensor) -> Arrays:
        """Runs the graph.

        Args:
            **inputs: Tensors by the names, types and sizes of the specification.

        Returns:
            The outputs by name.

        Raises:
            ValueError: An input does not fit the specification.
            UserError: An output holds NaN or infinite values.
        """
        _check_inputs(self.spec, inputs)
        outputs = self.run(inputs)
        _check_finite(self.spec, outputs)
        return outputs

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Runs the graph on inputs that fit."""


def _check_inputs(spec: GraphSpec, inputs: Mapping[str, Tensor]) -> None:
    if set(inputs) != {i.name for i in spec.inputs}:
        raise ValueError(f"{spec.name} takes {', '.join(i.name for i in spec.inputs)}, not {', '.join(inputs)}")
    for tensor in spec.inputs:
        given = inputs[tensor.name]
        fits = len(given.shape) == len(tensor.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(tensor.shape, given.shape)
        )
        if given.dtype != tensor.dtype or not fits:
            found = describe(TensorSpec(tensor.name, given.dtype, tuple(given.shape)))
            raise ValueError(f"{spec.name}: '{tensor.name}' must be {describe(tensor)}, not {found}")


def _check_finite(spec: GraphSpec, outputs: Arrays) -> None:
    for name, tensor in outputs.items():
        if not_finite(tensor):
            raise UserError(
                f"the graph '{spec.name}' computed NaN or infinite values in '{name}'; its weights are damaged, or its "
                "precision is too low for this input: try --precision fp32"
            )


def not_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN or infinite values."""
    # A sum is one quick pass, and NaN and infinity survive it. (It may overflow on finite values, hence the rest.)
    return tensor.is_floating_point() and not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all())


def describe(tensor: TensorSpec) -> str:
    """For instance `uint8 [clips, 5, height, width, 3]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(map(str, tensor.shape))}]"


Boundary = list[tuple[str, list[int | None]]]


def check_boundary(path: Path, spec: GraphSpec, inputs: Boundary, outputs: Boundary) -> None:
    """Raises UserError where a file's inputs and outputs (names, sizes or None) are not those of the specification."""
    for found, specs in ((inputs, spec.inputs), (outputs, spec.outputs)):
        wanted = [(s.name, fixed_sizes(s.shape)) for s in specs]
        if found != wanted:
            raise UserError(
                f"{path} is not '{spec.name}' of this preset (it has {found}, not {wanted}); build it again"
            )


def fixed_sizes(shape: Sequence[object]) -> list[int | None]:
    """The sizes of a shape, None for each that varies."""
    return [size if isinstance(size, int) else None for size in shape]
