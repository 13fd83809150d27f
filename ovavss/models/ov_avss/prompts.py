"""The text prompts of the published model: 14 templates, each embedding normalized, averaged, normalized again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)


def prompts(name: str) -> list[str]:
    """The 14 sentences for one class name, used verbatim."""
    return [template.format(name) for template in TEMPLATES]


def ensemble(embeddings: Tensor) -> Tensor:
    """Text embeddings [K, 14, D] of the templates -> unit vectors [K, D]."""
    return F.normalize(F.normalize(embeddings, dim=-1).mean(1), dim=-1)


def text_embeddings(
    names: Sequence[str],
    tokenize: Callable[[list[str]], Tensor],
    encode: Callable[[Tensor], Tensor],
    batch: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Unit vectors float32 [K, D] for K names; `encode` maps tokens int64 [n, context] to embeddings [n, D].

    Works `batch` names at a time, so that a thousand names need no more memory than a few; `progress` hears how many
    are done.
    """
    parts = []
    for start in range(0, len(names), batch):
        chunk = names[start : start + batch]
        tokens = tokenize([sentence for name in chunk for sentence in prompts(name)])
        parts.append(ensemble(encode(tokens).reshape(len(chunk), len(TEMPLATES), -1)))
        if progress is not None:
            progress(start + len(chunk))
    return torch.cat(parts)
