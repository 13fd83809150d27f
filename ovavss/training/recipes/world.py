"""Clips of Sounding Shapes for training `tiny`: base categories only, nothing novel seen or heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovavss.datasets.sounding_shapes.rendering import render_audio, render_frames
from ovavss.datasets.sounding_shapes.scenes import BASE, WorldConfig, sample_scene
from ovavss.errors import UserError
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.training.clips import Batch
from ovavss.training.matcher import ClipTarget
from ovavss.training.processes import map_ranges
from ovavss.training.recipes.sound_bank import SoundBank

SIZE = 96
SNIPPETS = 5
MOST_OBJECTS = 4
# More silent and off-screen-only clips than the world has: what must stay empty is learned from them.
TRAINING_CONFIG = WorldConfig(p_silent=0.10, p_off_screen_only=0.12, p_off_screen=0.20)
_CHUNK = 100


@dataclass
class RenderedWorld:
    """Clips of the world, mapped from disk.

    frames uint8 [n, T, 96, 96, 3]; instances uint8 [n, T, 96, 96] (k + 1 where object k is visible, 0 elsewhere);
    categories int8 [n, 4] (-1 where there are fewer objects); sounding bool [n, 4, T].
    """

    seed: int
    frames: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    categories: NDArray[np.int8]
    sounding: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frames)


_FIELDS = {
    "frames": (np.uint8, (SNIPPETS, SIZE, SIZE, 3)),
    "instances": (np.uint8, (SNIPPETS, SIZE, SIZE)),
    "categories": (np.int8, (MOST_OBJECTS,)),
    "sounding": (np.bool_, (MOST_OBJECTS, SNIPPETS)),
}


def _render_chunk(folder: Path, seed: int, indices: Sequence[int]) -> None:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _FIELDS}
    for i in indices:
        scene = sample_scene(seed, i, categories=BASE, snippets=SNIPPETS, config=TRAINING_CONFIG)
        frames, masks = render_frames(scene, np.arange(SNIPPETS) + 0.5, (SIZE, SIZE))
        arrays["frames"][i] = frames
        ids = np.arange(1, len(masks) + 1, dtype=np.uint8)
        arrays["instances"][i] = (masks * ids[:, None, None, None]).sum(0, dtype=np.uint8)
        for k, shape in enumerate(scene.shapes):
            arrays["categories"][i, k] = shape.category
            arrays["sounding"][i, k] = shape.sound.on if shape.sound else False


def rendered_world(folder: Path, seed: int, clips: int, workers: int = 2) -> RenderedWorld:
    """Renders `clips` training clips of the world `seed` into `folder` unless they are there already.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder) / f"world_{seed}_{clips}"
    done = folder / "complete"
    if not done.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {folder} ({error.strerror}): give another folder with --work") from None
        for name, (dtype, shape) in _FIELDS.items():
            array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(clips, *shape))
            if name == "categories":
                array[:] = -1
            array.flush()
        map_ranges(partial(_render_chunk, folder, seed), clips, _CHUNK, workers)
        done.touch()
    return RenderedWorld(seed, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FIELDS))


def training_waveforms(seed: int, indices: Sequence[int]) -> Tensor:
    """The sound of training clips: float32 [n, 80000] at 16 kHz."""
    scenes = (sample_scene(seed, i, categories=BASE, snippets=SNIPPETS, config=TRAINING_CONFIG) for i in indices)
    return torch.from_numpy(np.stack([render_audio(scene) for scene in scenes]))


@torch.no_grad()
def _encode_chunk(encoder: AudioEncoder, seed: int, indices: range) -> NDArray[np.float32]:
    encoded: NDArray[np.float32] = encoder(training_waveforms(seed, indices)).numpy()
    return encoded


def world_tokens(encoder: AudioEncoder, seed: int, clips: int, workers: int = 2) -> Tensor:
    """Audio tokens float32 [clips, T, 128] of the training clips of the world `seed`; the encoder is frozen."""
    parts = map_ranges(partial(_encode_chunk, encoder.eval().requires_grad_(False), seed), clips, 64, workers)
    return torch.from_numpy(np.concatenate(parts))


def normalized_frames(frames: Tensor) -> Tensor:
    """The localizer's input: uint8 [..., H, W, 3] -> float32 [..., 3, H, W]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (frames.movedim(-1, -3).float() - mean) / std


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

    def __len__(self) -> int:
        return len(self.world)

    def batch(self, indices: list[int], rng: np.random.Generator) -> Batch:
        """The clips of these indices, each flipped or not by chance."""
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
        return Batch(normalized_frames(torch.stack(images)), torch.stack(audio).float(), targets)
