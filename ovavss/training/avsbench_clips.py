"""Training clips from the AVSBench-OV layout, augmented as published."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovavss.datasets.avsbench_ov import AvsbenchTraining
from ovavss.models.ov_avss.audio_encoder import AudioEncoder, LogMel
from ovavss.models.ov_avss.frame_preparation import PIXEL_MEAN, PIXEL_STD, padded_size, resize_and_pad, resized_size
from ovavss.models.ov_avss.presets import Preset, SwinConfig
from ovavss.training.clips import Batch
from ovavss.training.matcher import ClipTarget

# A frame's patch number is one digit, so no video has more.
MOST_PATCHES = 10


def short_sides(preset: Preset) -> tuple[int, ...]:
    """The training sizes of the short side: 240, 360 and 480 (without 480 for Swin), in proportion to the preset's."""
    factors = (2, 3) if isinstance(preset.backbone, SwinConfig) else (2, 3, 4)
    return tuple(preset.short_side * factor // 3 for factor in factors)


class AvsbenchClips:
    """Videos of the data set: one short side and one flip a clip, both random; no crop, no color jitter.

    The audio encoder is frozen: each frame gets the token of the patch with its own number.
    """

    def __init__(self, data: AvsbenchTraining, preset: Preset, encoder: AudioEncoder) -> None:
        self.data, self.preset = data, preset
        self.encoder = encoder.eval().requires_grad_(False)
        self.log_mel = LogMel(MOST_PATCHES)
        self.sides = short_sides(preset)
        self._mean = torch.tensor(PIXEL_MEAN)[:, None, None]
        self._std = torch.tensor(PIXEL_STD)[:, None, None]

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: list[int], rng: np.random.Generator) -> Batch:
        """Clips with these numbers, padded to the largest of them.

        Raises:
            UserError: a file of a clip is missing or broken.
        """
        clips = [self._clip(index, rng) for index in indices]
        height, width = (max(images.shape[axis] for images, _, _ in clips) for axis in (2, 3))

        def pad(x: Tensor) -> Tensor:
            return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

        targets = [ClipTarget(pad(target.masks), target.first_frame_only) for _, _, target in clips]
        images = torch.stack([pad(images) for images, _, _ in clips])
        return Batch(images, torch.stack([audio for _, audio, _ in clips]), targets)

    def _clip(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, ClipTarget]:
        clip = self.data.item(index, rng)
        side, flip = self.sides[int(rng.integers(len(self.sides)))], bool(rng.random() < 0.5)
        height, width = clip.frames.shape[1:3]
        size = resized_size(height, width, side, self.preset.long_side)
        padded = padded_size(*size)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float()
        images = resize_and_pad(frames.flip(-1) if flip else frames, size, padded)
        images = (images - self._mean) / self._std
        images[..., size[0] :, :] = 0
        images[..., size[1] :] = 0
        masks = torch.from_numpy(clip.rasterise(size, flip))
        masks = F.pad(masks, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        return images, self._audio(clip.waveform, clip.patches), ClipTarget(masks, clip.subset == "v1s")

    @torch.no_grad()
    def _audio(self, waveform: np.ndarray, patches: np.ndarray) -> Tensor:
        log_mel = self.log_mel(torch.from_numpy(waveform)[None])[0]
        device = next(self.encoder.parameters()).device
        return self.encoder.vggish(log_mel[torch.from_numpy(patches)].to(device)).cpu()
