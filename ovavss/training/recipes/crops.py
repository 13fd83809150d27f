"""Labeled crops of the synthetic world for CLIP, cut out as the pipeline cuts them.

They hold novel combinations too: CLIP has seen the words of every class.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovavss.datasets.sounding_shapes.rendering import Clip, render, render_frames
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.models.ov_avss.mask_crop import CLIP_MEAN, CLIP_STD, STRIDE, Regions, crop_regions, find_regions
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, USSLM_GRAPH
from ovavss.pipeline.steps import encode_audio, localize
from ovavss.runtime.runner import Runner
from ovavss.training.processes import map_ranges

Crops = tuple[np.ndarray, np.ndarray]
"""Crops uint8 [n, 3, size, size] and their categories int64 [n]."""

_CHUNK = 50
# A query is no object where less of its masks than this belongs to one.
_SHARE = 0.3
_MEAN, _STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


def normalized(crops: Tensor) -> Tensor:
    """CLIP's input of stored crops: uint8 [n, 3, size, size] -> float32."""
    return (crops.float() / 255 - _MEAN) / _STD


def rough_logits(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Mask logits at stride 4 as an imperfect localizer gives them: bool [N, T, H, W] -> float32 [N, T, H/4, W/4].

    Each mask is shifted a little, grown or shrunk, blurred, noisy, and of its own steepness.
    """
    soft = masks.float()
    shift = rng.integers(-1, 2, size=2)
    soft = torch.roll(soft, tuple(int(s) for s in shift), (2, 3))
    soft = F.avg_pool2d(soft.flatten(0, 1)[:, None], STRIDE)[:, 0].unflatten(0, masks.shape[:2])
    if rng.random() < 0.4:
        soft = 0.5 * soft + 0.5 * F.avg_pool2d(soft, 3, 1, 1)
    size = (len(masks), 1, 1, 1)
    level = torch.from_numpy(rng.normal(0.45, 0.12, size)).float().clamp(0.15, 0.8)
    steepness = torch.from_numpy(rng.uniform(6.0, 24.0, size)).float()
    noise = torch.from_numpy(rng.normal(0.0, 1.0, soft.shape)).float() * float(rng.uniform(0.0, 0.12))
    return steepness * (soft - level + noise * (soft > 0))


def rough_crops(seed: int, clips: range, size: int) -> Crops:
    """The objects of some clips, cut out by `rough_logits`."""
    parts = []
    for i in clips:
        scene = sample_scene(seed, i)
        frames, masks = render_frames(scene, np.arange(scene.snippets) + 0.5)
        logits = rough_logits(torch.from_numpy(masks), np.random.default_rng([seed, i, 7]))
        categories = torch.tensor([shape.category for shape in scene.shapes])
        parts.append(_cut(logits, find_regions(logits), torch.from_numpy(frames), frames.shape[1:3], categories, size))
    return _joined(parts)


@torch.no_grad()
def localizer_crops(runners: Mapping[str, Runner], seed: int, clips: range, size: int) -> Crops:
    """What a trained localizer's queries mark in some clips, each query with the category of its object."""
    parts = []
    for i in clips:
        clip = render(sample_scene(seed, i))
        audio = encode_audio(runners[AUDIO_ENCODER], torch.from_numpy(clip.waveform)[None])
        (found,) = localize(runners[USSLM_GRAPH], torch.from_numpy(clip.frames)[None], audio)
        categories = marked_categories(found.mask_logits, clip, found.image_size)
        regions = find_regions(found.mask_logits, (categories >= 0).nonzero()[:, 0])
        parts.append(_cut(found.mask_logits, regions, found.frames, found.image_size, categories, size))
    return _joined(parts)


def marked_categories(mask_logits: Tensor, clip: Clip, image_size: tuple[int, int]) -> Tensor:
    """The category of each query, -1 where its masks are on no object: int64 [N].

    mask_logits float32 [N, T, h, w] at stride 4. A sounding object goes before a silent one with more of the masks.
    """
    height, width = image_size
    resized = F.interpolate(torch.from_numpy(clip.masks).float(), size=(height, width), mode="area")
    h, w = mask_logits.shape[-2:]
    padded = F.pad(resized, (0, w * STRIDE - width, 0, h * STRIDE - height))
    objects = F.avg_pool2d(padded, STRIDE).flatten(1)
    marked = (mask_logits > 0).flatten(1).float()
    share = marked @ objects.T / marked.sum(1, keepdim=True).clamp(min=1)
    sounding = torch.from_numpy(clip.sounding.any(1))
    largest, which = (share + (share > _SHARE) * sounding).max(1)
    return torch.where(largest > _SHARE, torch.from_numpy(clip.categories)[which], -1)


def _cut(
    logits: Tensor, regions: Regions, frames: Tensor, image_size: tuple[int, int], categories: Tensor, size: int
) -> Crops:
    crop = crop_regions(logits, frames, image_size, regions, size)
    pixels = ((crop * _STD + _MEAN) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.numpy(), categories[regions.query].numpy()


def _joined(parts: list[Crops]) -> Crops:
    crops, labels = (np.concatenate(part) for part in zip(*parts))
    return crops, labels


def many_crops(
    seed: int,
    clips: int,
    size: int,
    workers: int,
    runners: Mapping[str, Runner] | None = None,
) -> tuple[Tensor, Tensor]:
    """Crops uint8 [n, 3, size, size] and categories int64 [n] of the clips 0 ...

    clips - 1, in several processes: by rough masks, or by those of a trained localizer, with the runners of audio
    encoder and localizer.
    """
    if runners is None:
        cut: Callable[[range], Crops] = partial(rough_crops, seed, size=size)
    else:
        cut = partial(localizer_crops, runners, seed, size=size)
    crops, labels = _joined(map_ranges(cut, clips, _CHUNK, workers))
    return torch.from_numpy(crops), torch.from_numpy(labels)
