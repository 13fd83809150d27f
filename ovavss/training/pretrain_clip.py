"""Training of tiny's CLIP on crops of the synthetic world, cut out by imperfect masks as the pipeline cuts them.

CLIP has seen the words of every class, so tiny's sees all 36 names; `names` restricts it to the base ones for the
figure beside it. Localiser and audio encoder never see a novel combination.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.data.sounding_shapes import CATEGORIES, render_frames, sample_scene
from ovavss.model.clip import ClipImageEncoder, ClipTextEncoder, tokenizer
from ovavss.model.mask_crop import CLIP_MEAN, CLIP_STD, STRIDE, crop_regions, find_regions
from ovavss.model.open_vocabulary import LOGIT_SCALE
from ovavss.model.presets import ClipConfig
from ovavss.model.prompts import TEMPLATES, prompts, text_embeddings
from ovavss.training.schedule import Ema, Report, warm_cosine

_CHUNK = 50
_MEAN, _STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


def rough_logits(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Mask logits at stride 4 as an imperfect localiser gives them: bool [N, T, H, W] -> float32 [N, T, H/4, W/4].

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


def object_crops(seed: int, clips: range, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops uint8 [n, 3, size, size] of the objects of some clips, their categories int64 [n], and which object of
    the world each is, int64 [n]."""
    torch.set_num_threads(1)
    crops, labels, objects = [], [], []
    for i in clips:
        rng = np.random.default_rng([seed, i, 7])
        scene = sample_scene(seed, i)
        frames, masks = render_frames(scene, np.arange(scene.snippets) + 0.5)
        logits = rough_logits(torch.from_numpy(masks), rng)
        regions = find_regions(logits)
        if not len(regions):
            continue
        crop = crop_regions(logits, torch.from_numpy(frames), frames.shape[1:3], regions, size)
        crops.append(((crop * _STD + _MEAN) * 255).round().clamp(0, 255).to(torch.uint8).numpy())
        categories = np.array([shape.category for shape in scene.shapes])
        labels.append(categories[regions.query.numpy()])
        objects.append(i * 8 + regions.query.numpy())
    return np.concatenate(crops), np.concatenate(labels), np.concatenate(objects)


def many_crops(seed: int, clips: int, size: int, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """`object_crops` of the clips 0 ... clips - 1 in several processes."""
    chunks = [range(start, min(start + _CHUNK, clips)) for start in range(0, clips, _CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(object_crops, [seed] * len(chunks), chunks, [size] * len(chunks)))
    return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*parts))  # type: ignore[return-value]


def _normalise(crops: Tensor) -> Tensor:
    return (crops.float() / 255 - _MEAN) / _STD


def train_clip(
    clip: CLIP,
    config: ClipConfig,
    crops: Tensor,
    labels: Tensor,
    steps: int,
    seed: int,
    report: Report,
    names: Sequence[int] = range(len(CATEGORIES)),
    batch: int = 128,
) -> None:
    """Trains image and text tower in place on the crops (uint8) whose category is in `names`.

    Each step contrasts its crops with every name in one random template a name. The scale of the logits grows from 15
    to the 100 that inference uses.
    """
    torch.manual_seed(seed)
    known = torch.full((len(CATEGORIES),), -1)
    known[list(names)] = torch.arange(len(names))
    keep = known[labels] >= 0
    crops, targets = crops[keep], known[labels[keep]]
    tokens = torch.stack([tokenizer(config)(prompts(CATEGORIES[name])) for name in names])
    clip.train()
    image, text = ClipImageEncoder(clip), ClipTextEncoder(clip)
    parameters = [p for name, p in clip.named_parameters() if name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, fused=True)
    ema = Ema(clip, 0.99)
    for step in range(steps):
        index = torch.randint(len(crops), (batch,))
        images = _normalise(crops[index])
        if torch.rand(()) < 0.5:
            images = images.flip(-1)
        template = torch.randint(len(TEMPLATES), (len(names),))
        scale = LOGIT_SCALE * min(1.0, 0.15 + 0.85 * step / (0.6 * steps))
        logits = scale * image(images) @ text(tokens[torch.arange(len(names)), template]).T
        loss = F.cross_entropy(logits, targets[index])
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * warm_cosine(step, steps, 100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(clip)
        right = (logits.argmax(1) == targets[index]).float().mean().item()
        report(step, {"loss": loss.item(), "accuracy": right})
    ema.copy_to(clip)
    clip.eval()


@torch.no_grad()
def naming_accuracy(
    clip: CLIP, config: ClipConfig, crops: Tensor, labels: Tensor, objects: Tensor, names: Sequence[int]
) -> tuple[float, float]:
    """Share of the crops, and of whole objects (logits averaged over their frames), named right among all 36 names,
    over the categories `names`."""
    text = text_embeddings(CATEGORIES, tokenizer(config), ClipTextEncoder(clip).eval())
    keep = torch.isin(labels, torch.tensor(list(names)))
    crops, labels, objects = crops[keep], labels[keep], objects[keep]
    image = ClipImageEncoder(clip).eval()
    logits = torch.cat([image(_normalise(part)) @ text.T for part in crops.split(256)])
    single = (logits.argmax(1) == labels).float().mean().item()
    _, index = torch.unique(objects, return_inverse=True)
    total = torch.zeros(int(index.max()) + 1, len(CATEGORIES)).index_add_(0, index, logits)
    truth = torch.zeros(len(total), dtype=torch.int64).index_copy_(0, index, labels)
    return single, (total.argmax(1) == truth).float().mean().item()
