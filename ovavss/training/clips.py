"""Batches of training clips: which clips an iteration takes, and the clips of the synthetic world."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ovavss.models.ov_avss.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.training.matcher import ClipTarget
from ovavss.training.sound_bank import SoundBank
from ovavss.training.world import RenderedWorld


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


class WorldClips:
    """Clips of the synthetic world with the tokens of a frozen audio encoder, flipped from left to right half the time.

    With a sound bank, the share `contrast` of the clips hears other sounds, chosen against what is seen, a new one each
    second; what sounds in them is what the bank says.

    tokens: float [n, T, 128].
    """

    def __init__(
        self,
        world: RenderedWorld,
        tokens: Tensor,
        flip: bool = True,
        bank: SoundBank | None = None,
        contrast: float = 0.0,
    ) -> None:
        self.world, self.tokens, self.flip = world, tokens, flip
        self.bank, self.contrast = bank, contrast
        self._mean = torch.tensor(PIXEL_MEAN)[:, None, None]
        self._std = torch.tensor(PIXEL_STD)[:, None, None]

    def __len__(self) -> int:
        return len(self.world)

    def batch(self, indices: list[int], rng: np.random.Generator) -> Batch:
        images, audio, targets = [], [], []
        for index in indices:
            frames, instances = np.array(self.world.frames[index]), np.array(self.world.instances[index])
            if self.flip and rng.random() < 0.5:
                frames, instances = frames[:, :, ::-1], instances[:, :, ::-1]
            images.append(torch.from_numpy(np.ascontiguousarray(frames)))
            tokens, sounding = self.tokens[index], np.array(self.world.sounding[index])
            if self.bank is not None and rng.random() < self.contrast:
                tokens, sounding = self.bank.against(self.world.categories[index], len(frames), rng)
            audio.append(tokens)
            chosen = np.flatnonzero(sounding.any(1))
            masks = (instances == (chosen + 1)[:, None, None, None]) & sounding[chosen][:, :, None, None]
            targets.append(ClipTarget(torch.from_numpy(masks)))
        normalized = (torch.stack(images).permute(0, 1, 4, 2, 3).float() - self._mean) / self._std
        return Batch(normalized, torch.stack(audio).float(), targets)
