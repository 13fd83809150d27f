"""What is found of an attention in a model, and what is not replaced."""

from dataclasses import dataclass

from ovavss.msda.rewrite.formulas import Size
from ovavss.msda.rewrite.rearrange import Step


@dataclass(frozen=True)
class Operand:
    """A tensor, and the steps that bring it to the op's axes; the op takes scale * tensor + offset."""

    name: str
    steps: list[Step]
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Occurrence:
    """One attention. `samplers`: its GridSample nodes, level by level; `maps`: their first inputs, with their (h, w).

    The op's output, brought into place by `steps`, is the tensor `output`.
    """

    samplers: tuple[str, ...]
    maps: tuple[str, ...]
    level_sizes: tuple[tuple[Size, Size], ...]
    batch: Size
    queries: Size
    heads: int
    channels: int
    points: int
    value: Operand
    locations: Operand
    weights: Operand
    output: str
    steps: list[Step]

    @property
    def levels(self) -> int:
        """How many feature maps are sampled."""
        return len(self.maps)


@dataclass(frozen=True)
class Refused:
    """A GridSample node that stays."""

    node: str
    reason: str
