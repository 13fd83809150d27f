"""Rendered clips of the synthetic world, for training `tiny`: base categories only, nothing novel seen or heard."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ovavss.datasets.sounding_shapes.scenes import BASE, WorldConfig, render_audio, render_frames, sample_scene
from ovavss.errors import UserError

SIZE = 96
SNIPPETS = 5
MOST_OBJECTS = 4
# More silent and off-screen-only clips than the world has: what must stay empty is learnt from them.
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
        chunks = [range(start, min(start + _CHUNK, clips)) for start in range(0, clips, _CHUNK)]
        with ProcessPoolExecutor(workers) as pool:
            for future in [pool.submit(_render_chunk, folder, seed, chunk) for chunk in chunks]:
                future.result()
        done.touch()
    return RenderedWorld(seed, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FIELDS))


def training_waveforms(seed: int, indices: Sequence[int]) -> torch.Tensor:
    """The sound of training clips: float32 [n, 80000] at 16 kHz."""
    scenes = (sample_scene(seed, i, categories=BASE, snippets=SNIPPETS, config=TRAINING_CONFIG) for i in indices)
    return torch.from_numpy(np.stack([render_audio(scene) for scene in scenes]))
