"""Batches of training clips, and which clips an iteration takes."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ovavss.training.matcher import ClipTarget


@dataclass
class Batch:
    """images float32 [B, T, 3, H, W], normalized and padded; audio tokens float32 [B, T, 128]; B targets."""

    images: Tensor
    audio: Tensor
    targets: list[ClipTarget]

    def to(self, device: torch.device) -> "Batch":
        """On another device."""
        targets = [ClipTarget(t.masks.to(device, non_blocking=True), t.first_frame_only) for t in self.targets]
        return Batch(self.images.to(device, non_blocking=True), self.audio.to(device, non_blocking=True), targets)


class Clips(Protocol):
    """A training set. All that is random about a batch follows from the clip numbers and the generator."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int], rng: np.random.Generator) -> Batch:
        """The clips with these numbers as one batch."""
        ...


def clip_numbers(clips: int, batch: int, iteration: int, seed: int) -> list[int]:
    """The `batch` clips of an iteration (from 0): passes over a new shuffle each, which follow from the seed alone."""
    numbers = []
    for position in range(iteration * batch, (iteration + 1) * batch):
        epoch, place = divmod(position, clips)
        numbers.append(int(_shuffle(clips, epoch, seed)[place]))
    return numbers


_shuffles: dict[tuple[int, int, int], np.ndarray] = {}


def _shuffle(clips: int, epoch: int, seed: int) -> np.ndarray:
    key = (clips, epoch, seed)
    if key not in _shuffles:
        for old in [k for k in _shuffles if k[1] < epoch - 1]:
            del _shuffles[old]
        _shuffles[key] = np.random.default_rng([seed, epoch]).permutation(clips)
    return _shuffles[key]
