"""Sounds to train against: pairs of frame and sound that agree in color and register, but not in form and pattern.

In the world's own clips such pairs are rare, and a localizer that starts from nothing stops at matching color with
register. Base combinations only.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ovavss.datasets.sounding_shapes.audio import Sound, synthesize
from ovavss.datasets.sounding_shapes.scenes import BASE, CATEGORIES, FORMS
from ovavss.media.sound import SAMPLE_RATE
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.training.processes import map_ranges

_CHUNK = 50


@dataclass
class SoundBank:
    """Audio tokens float32 [n, 128] of one second each and which categories sound in it, bool [n, 36]."""

    tokens: Tensor
    heard: np.ndarray

    def __post_init__(self) -> None:
        self.of_category = [np.flatnonzero(self.heard[:, c]) for c in range(len(CATEGORIES))]

    def against(self, categories: np.ndarray, snippets: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Sounds chosen against the visible objects (categories int [m], -1 = none).

        In each second the sound of one of them, or one in its register with another pattern, or, once in ten, any.

        Returns tokens float32 [T, 128] and which objects sound, bool [m, T].
        """
        present = categories[categories >= 0]
        chosen = [self.choose(int(rng.choice(present)), rng) for _ in range(snippets)]
        sounding = self.heard[chosen][:, categories].T & (categories >= 0)[:, None]
        return self.tokens[chosen], sounding

    def choose(self, category: int, rng: np.random.Generator) -> int:
        """A sound against one object.

        Its own, another pattern in its register, its pattern in another register, or any.
        """
        roll = rng.random()
        if roll < 0.1:
            return int(rng.integers(len(self.heard)))
        color, form = divmod(category, len(FORMS))
        if roll > 0.6:
            category = int(rng.choice([c for c in BASE if c // len(FORMS) == color and c != category]))
        elif roll > 0.45:
            category = int(rng.choice([c for c in BASE if c % len(FORMS) == form and c != category]))
        return int(rng.choice(self.of_category[category]))


def _mixture(seed: int, index: int) -> tuple[np.ndarray, list[int]]:
    """Five seconds of zero to three base sounds in different registers, and their categories."""
    rng = np.random.default_rng([seed, index, 11])
    chosen: list[int] = []
    for category in rng.permutation(BASE)[: rng.choice(4, p=(0.08, 0.52, 0.28, 0.12))]:
        if all(int(category) // len(FORMS) != other // len(FORMS) for other in chosen):
            chosen.append(int(category))
    sounds = [Sound(c, (True,) * 5, rng.uniform(-3, 3), rng.random(), rng.uniform(0.95, 1.05)) for c in chosen]
    return synthesize(sounds, 5 * SAMPLE_RATE, rng.uniform(-66, -54), rng.random()), chosen


@torch.no_grad()
def _bank_part(encoder: AudioEncoder, seed: int, indices: range) -> tuple[np.ndarray, np.ndarray]:
    waveforms, heard = [], np.zeros((len(indices), len(CATEGORIES)), bool)
    for row, index in enumerate(indices):
        waveform, chosen = _mixture(seed, index)
        waveforms.append(waveform)
        heard[row, chosen] = True
    tokens = encoder(torch.from_numpy(np.stack(waveforms)))
    return tokens.flatten(0, 1).numpy(), heard.repeat(tokens.shape[1], 0)


def sound_bank(encoder: AudioEncoder, seed: int, mixtures: int, workers: int) -> SoundBank:
    """Tokens of `mixtures` times five seconds, computed in several processes."""
    parts = map_ranges(partial(_bank_part, encoder, seed), mixtures, _CHUNK, workers)
    tokens, heard = (np.concatenate(part) for part in zip(*parts))
    return SoundBank(torch.from_numpy(tokens), heard)
