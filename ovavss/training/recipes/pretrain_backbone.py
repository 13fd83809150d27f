"""Pretraining of tiny's backbone: color and form of what is seen, pixel by pixel.

The published model starts from a backbone pretrained on ImageNet and COCO; this is its counterpart. Color and form are
told by separate heads, thrown away afterwards, on base combinations only: an unseen combination is the sum of its
parts.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.datasets.sounding_shapes.scenes import BASE, COLORS, FORMS, RGB
from ovavss.models.ov_avss.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.ov_avss.resnet import ResNet
from ovavss.training.batch_norm import freeze_batch_norm, thaw_batch_norm
from ovavss.training.recipes.world import RenderedWorld, normalized_frames
from ovavss.training.schedule import Report, descend, warm_cosine

_STRIDE = 8
_LEVEL_WEIGHTS = (1.0, 1.0, 0.3, 1.0)  # res5 has a cell for every 32 pixels: too coarse for most objects


def _seen() -> Tensor:
    """Which forms a color was seen with: bool [7, 7], row and column 0 for "nothing"."""
    seen = torch.ones(len(COLORS) + 1, len(FORMS) + 1, dtype=torch.bool)
    seen[1:, 1:] = torch.tensor([c in BASE for c in range(len(COLORS) * len(FORMS))]).reshape(len(COLORS), -1)
    return seen


SEEN = _seen()


def loss_among_seen(logits: Tensor, label: Tensor, possible: Tensor) -> Tensor:
    """Cross-entropy over the classes that training could have shown.

    Logits [n, k, h, w], label [n, h, w], possible bool [n, h, w, k].

    Without it a head learns that red is never a star, since no red star is in training, and says so of the first one
    that it meets: of novel objects 4 % of the pixels had the right form, of base ones 90 %.
    """
    return F.cross_entropy(logits.masked_fill(~possible.movedim(-1, 1), float("-inf")), label, ignore_index=-1)


class PixelClassifier(nn.Module):
    """Color and form from res3, res4, res5 and all three together, each by heads of its own.

    A head on all levels alone leaves form spread over them (0.48 of the pixels right from res3, 0.92 from all), but the
    pixel decoder's finest tokens see res3 first.

    forward: images [n, 3, H, W] -> four pairs of [n, 7, H/8, W/8], 0 = nothing.
    """

    def __init__(self, backbone: ResNet, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        inputs = (*channels[1:], sum(channels[1:]))
        self.heads = nn.ModuleList(nn.Conv2d(n, len(COLORS) + len(FORMS) + 2, 1) for n in inputs)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        features = self.backbone(images)
        size = features["res3"].shape[-2:]
        levels = [features["res3"]]
        for name in ("res4", "res5"):
            levels.append(F.interpolate(features[name], size=size, mode="bilinear", align_corners=False))
        levels.append(torch.cat(levels, dim=1))
        pairs = (head(x).split((len(COLORS) + 1, len(FORMS) + 1), 1) for head, x in zip(self.heads, levels))
        return [(color, form) for color, form in pairs]


def seen_labels(world: RenderedWorld, clips: np.ndarray, frames: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Images float32 [n, 3, 96, 96] of some frames, and color and form int64 [n, 12, 12] at the cells' centers."""
    images = normalized_frames(torch.from_numpy(world.frames[clips, frames]))
    instances = torch.from_numpy(world.instances[clips, frames][:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE])
    categories = torch.from_numpy(world.categories[clips].astype(np.int64))
    category = categories.gather(1, (instances.long() - 1).clamp(min=0).flatten(1)).reshape(instances.shape)
    return images, *color_and_form(torch.where(instances > 0, category, -1))


def color_and_form(category: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of color and form, int64, 0 = nothing, of categories (-1 = nothing)."""
    inside = category >= 0
    return torch.where(inside, category // len(FORMS) + 1, 0), torch.where(inside, category % len(FORMS) + 1, 0)


def color_and_form_loss(color: Tensor, form: Tensor, colors: Tensor, forms: Tensor) -> Tensor:
    """Both losses: logits [n, 7, h, w] and labels int64 [n, h, w], 0 = nothing."""
    return loss_among_seen(color, colors, SEEN.T[forms]) + loss_among_seen(form, forms, SEEN[colors])


def _turns() -> Tensor:
    """By how many degrees hue can be turned so that each of the six colors is 12 degrees or more from all six."""
    red, green, blue = torch.tensor(RGB, dtype=torch.float64).T
    hues = torch.atan2((green - blue) * 3**0.5, 2 * red - green - blue).rad2deg()
    turns = torch.arange(360)
    away = (hues[:, None] + turns[:, None, None] - hues + 180) % 360 - 180
    return turns[(away.abs() >= 12).all(2).all(1)]


_TURNS = _turns()


def other_hues(images: Tensor) -> Tensor:
    """Normalized images [n, 3, H, W], each with its hue turned and its saturation drawn from [0, 1].

    Colors that no category has.

    They are turned to anywhere between the six: to a neighbor only, a hue would tell which forms to expect (no red is
    a star in training, so no orange would be).
    """
    degrees = _TURNS[torch.randint(0, len(_TURNS), (len(images),))]
    angle = degrees * (torch.pi / 180)
    saturation = torch.rand(len(images)).sqrt()
    # A turn about the gray axis (Rodrigues' formula).
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = cosine * torch.eye(3) + (1 - cosine) * along + sine * across
    turn = saturation[:, None, None] * turn + (1 - saturation[:, None, None]) * along
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = torch.einsum("nij,njhw->nihw", turn, images * std + mean).clamp(0, 255)
    return (pixels - mean) / std


def pretrain_backbone(
    backbone: ResNet, preset: Preset, world: RenderedWorld, steps: int, seed: int, report: Report
) -> None:
    """Trains the backbone in place for `steps` of 40 frames.

    Half of them are in other hues and teach form alone: a form that is known in colors of no category is known in any.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    thaw_batch_norm(backbone)
    model = PixelClassifier(backbone, preset.backbone.channels).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02, fused=True)
    for step in range(steps):
        clips, frames = rng.integers(len(world), size=40), rng.integers(world.frames.shape[1], size=40)
        images, *labels = seen_labels(world, clips, frames)
        if rng.random() < 0.5:
            images, labels = images.flip(-1), [label.flip(-1) for label in labels]
        half = len(images) // 2
        images = torch.cat([images[:half], other_hues(images[half:])])
        pairs = model(images)
        loss = torch.zeros(())
        for weight, (color, form) in zip(_LEVEL_WEIGHTS, pairs):
            colored = color_and_form_loss(color[:half], form[:half], labels[0][:half], labels[1][:half])
            loss = loss + weight * (colored + F.cross_entropy(form[half:], labels[1][half:]))
        descend(optimizer, model.parameters(), loss, warm_cosine(step, steps, 50))
        inside = labels[0][:half] > 0
        right = [(a[:half].argmax(1) == b[:half])[inside].float().mean().item() for a, b in zip(pairs[0], labels)]
        report(step, {"loss": loss.item(), "color": right[0], "form": right[1]})
    freeze_batch_norm(backbone)
