"""Pretraining of tiny's fusion and pixel decoder: to compare what is seen with what is heard, pixel by pixel.

A localizer that starts from nothing matches color with register and stops there, since that alone is right most of the
time. Here the first encoder layer is asked whether the own color's register sounds and whether the own form's pattern
does (besides color and form), and the last what sounds, on single frames with sounds chosen against them. Base
combinations only. Form is asked in other hues, color in blurred pictures as well: where both are plain, a network soon
knows which forms to expect in which color, and of novel objects it told 31 % of the forms, of base ones 91 %.

The same questions are put now and then while the localizer trains (`Rehearsal`), or it forgets the answers.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.datasets.sounding_shapes.scenes import COLORS, FORMS
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.training.recipes.pretrain_backbone import SEEN, color_and_form, loss_among_seen, other_hues
from ovavss.training.recipes.sound_bank import SoundBank
from ovavss.training.recipes.world import RenderedWorld, normalized_frames
from ovavss.training.schedule import Report, descend, warm_cosine

_STRIDE = 8
PLAIN, BLURRED, OTHER_HUES = 12, 4, 8  # frames of a step
_BLUR = 11  # pixels that a box covers; three boxes leave nothing of a form whose radius is 10 to 17


class Comparison(nn.Module):
    """The localizer up to its mask features under heads of one layer.

    forward: images float32 [n, 3, H, W], tokens float32 [n, 64] -> color and form, each [n, 7, H/8, W/8] (0 = none);
    whether the own color's register sounds and whether the own form's pattern does [n, 2, H/8, W/8]; what sounds
    [n, 1, H/8, W/8] and the same at stride 4.
    """

    def __init__(self, usslm: USSLM, dim: int) -> None:
        super().__init__()
        self.backbone, self.pixel_decoder = usslm.backbone, usslm.pixel_decoder
        self.first = nn.Conv2d(dim, len(COLORS) + len(FORMS) + 4, 1)
        self.sounding = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in range(2))
        for head in (self.first, *self.sounding):
            assert isinstance(head, nn.Conv2d)
            nn.init.zeros_(head.weight)

    def forward(self, images: Tensor, audio: Tensor) -> list[Tensor]:
        after_first: list[Tensor] = []
        hook = self.pixel_decoder.layers[0].register_forward_hook(lambda _m, _i, out: after_first.append(out))
        decoded = self.pixel_decoder(self.backbone(images), audio)
        hook.remove()
        finest = decoded.multi_scale[-1]
        tokens = after_first[0][:, -finest.shape[2] * finest.shape[3] :].transpose(1, 2).reshape(finest.shape)
        color, form, heard = self.first(tokens).split((len(COLORS) + 1, len(FORMS) + 1, 2), 1)
        return [color, form, heard, self.sounding[0](finest), self.sounding[1](decoded.mask_features)]


@dataclass
class Frames:
    """Frames for the pretraining.

    Attributes:
        images: float32 [n, 3, 96, 96].
        tokens: float32 [n, 64].
        instances: int64 [n, 96, 96]; 0 is nothing.
        categories: int64 [n, 5], of instance 0 to 4; -1 is none.
        heard: float [n, 5, 3]: whether its color's register sounds, its form's pattern does, it itself does.
    """

    images: Tensor
    tokens: Tensor
    instances: Tensor
    categories: Tensor
    heard: Tensor

    def part(self, which: slice) -> "Frames":
        """Some of the frames."""
        return Frames(*(getattr(self, field.name)[which] for field in fields(self)))


def compared_frames(world: RenderedWorld, bank: SoundBank, count: int, rng: np.random.Generator) -> Frames:
    """Random frames of the world, each with a sound chosen against one of its objects."""
    clips, snippets = rng.integers(len(world), size=count), rng.integers(world.frames.shape[1], size=count)
    images, tokens, instances, categories, heard = [], [], [], [], []
    for clip, snippet in zip(clips, snippets):
        seen = np.concatenate([[-1], world.categories[clip].astype(np.int64)])
        sound = bank.choose(int(rng.choice(seen[seen >= 0])), rng)
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
        images.append(np.array(world.frames[clip, snippet][:, flip]))
        instances.append(np.array(world.instances[clip, snippet][:, flip]).astype(np.int64))
        tokens.append(bank.tokens[sound])
        by_register = bank.heard[sound].reshape(len(COLORS), len(FORMS))
        color, form = np.divmod(seen, len(FORMS))
        truth = [by_register.any(1)[color], by_register.any(0)[form], bank.heard[sound][seen]]
        categories.append(seen)
        heard.append(np.stack(truth, 1) & (seen >= 0)[:, None])
    normalized = normalized_frames(torch.from_numpy(np.stack(images)))
    places, objects = (torch.from_numpy(np.stack(x)) for x in (instances, categories))
    return Frames(normalized, torch.stack(tokens), places, objects, torch.from_numpy(np.stack(heard)).float())


def spread(values: Tensor, instances: Tensor, stride: int) -> Tensor:
    """What holds of an instance, on its pixels: values [n, 5], instances [n, H, W] -> [n, H / stride, W / stride]."""
    cells = instances[:, stride // 2 :: stride, stride // 2 :: stride]
    return values.gather(1, cells.flatten(1)).reshape(cells.shape)


def _labels(frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
    """Where objects are, bool [n, h, w], and the labels of color and form there."""
    category = spread(frames.categories, frames.instances, _STRIDE)
    return category >= 0, *color_and_form(category)


def _other_hues_loss(outputs: list[Tensor], frames: Frames) -> tuple[Tensor, float]:
    """Of frames in other hues: form, and whether its pattern sounds; and the share of forms that are right."""
    inside, _, forms = _labels(frames)
    compared = _compared(outputs[2][:, 1], spread(frames.heard[..., 1], frames.instances, _STRIDE), inside)
    right = (outputs[1].argmax(1) == forms)[inside].float().mean().item()
    return F.cross_entropy(outputs[1], forms) + 2 * compared, right


def _compared(logits: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (each * inside).sum() / inside.sum()


def _blurred_loss(outputs: list[Tensor], frames: Frames) -> Tensor:
    """Of blurred frames: color, and whether its register sounds."""
    inside, colors, _ = _labels(frames)
    compared = _compared(outputs[2][:, 0], spread(frames.heard[..., 0], frames.instances, _STRIDE), inside)
    return F.cross_entropy(outputs[0], colors) + 2 * compared


def _plain_loss(outputs: list[Tensor], frames: Frames) -> tuple[Tensor, dict[str, float]]:
    """Of frames as they are.

    Color, the two comparisons, what sounds. And on the pixels of objects: share of colors and comparisons that are
    right; and, of those whose register sounds, how often it is said that they sound where they do and where they do
    not.
    """
    color, _, heard, coarse, fine = outputs
    inside, colors, forms = _labels(frames)
    loss = loss_among_seen(color, colors, SEEN.T[forms])
    register, pattern, sounds = (spread(x, frames.instances, _STRIDE) for x in frames.heard.unbind(2))
    loss = loss + 2 * (_compared(heard[:, 0], register, inside) + _compared(heard[:, 1], pattern, inside))
    for logits, stride in ((coarse, 8), (fine, 4)):
        truth = spread(frames.heard[..., 2], frames.instances, stride)
        objects = (spread(frames.categories, frames.instances, stride) >= 0).float()
        # The background is most of the picture and easy: objects count four times.
        loss = loss + F.binary_cross_entropy_with_logits(logits[:, 0], truth, 1 + 3 * objects)
    with torch.no_grad():
        said = coarse[:, 0] > 0
        shares = {
            "color": (color.argmax(1) == colors)[inside],
            "register": ((heard[:, 0] > 0) == (register > 0))[inside],
            "pattern": ((heard[:, 1] > 0) == (pattern > 0))[inside],
            "sounding": said[sounds > 0],
            "wrong form": said[(register > 0) & (sounds == 0)],
        }
    return loss, {name: share.float().mean().item() for name, share in shares.items()}


def comparison_loss(
    model: Comparison, world: RenderedWorld, bank: SoundBank, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step of 24 frames, 4 of them blurred and 8 in other hues, and the shares that are right."""
    frames = compared_frames(world, bank, PLAIN + BLURRED + OTHER_HUES, rng)
    plain, blurred, others = slice(PLAIN), slice(PLAIN, -OTHER_HUES), slice(-OTHER_HUES, None)
    for _ in range(3):
        frames.images[blurred] = F.avg_pool2d(frames.images[blurred], _BLUR, 1, _BLUR // 2, count_include_pad=False)
    frames.images[others] = other_hues(frames.images[others])
    outputs = model(frames.images, frames.tokens)
    loss, shares = _plain_loss([x[plain] for x in outputs], frames.part(plain))
    loss = loss + _blurred_loss([x[blurred] for x in outputs], frames.part(blurred))
    other, form = _other_hues_loss([x[others] for x in outputs], frames.part(others))
    return loss + other, {**shares, "form": form}


def pretrain_fusion(
    model: Comparison,
    world: RenderedWorld,
    bank: SoundBank,
    steps: int,
    seed: int,
    report: Report,
    lr: float = 1.5e-3,
) -> None:
    """Trains backbone (its batch norm trainable), fusion and pixel decoder in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 5])
    model.train()
    backbone = {id(p) for p in model.backbone.parameters()}
    groups = [[p for p in model.parameters() if (id(p) in backbone) is mine] for mine in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": lr * share} for group, share in zip(groups, (0.5, 1.0))], weight_decay=0.02, fused=True
    )
    for step in range(steps):
        loss, shares = comparison_loss(model, world, bank, rng)
        descend(optimizer, model.parameters(), loss, warm_cosine(step, steps, 50))
        report(step, {"loss": loss.item(), **shares})


class Rehearsal:
    """The same questions to a localizer in training, in every `every`-th iteration; the heads stay as they are.

    Called with the iteration and its generator: the loss to add, float32 [], or None.
    """

    def __init__(
        self, model: Comparison, world: RenderedWorld, bank: SoundBank, every: int = 2, weight: float = 0.5
    ) -> None:
        self.model, self.world, self.bank, self.every, self.weight = model, world, bank, every, weight
        for head in (model.first, *model.sounding):
            head.requires_grad_(False)

    def __call__(self, iteration: int, rng: np.random.Generator) -> Tensor | None:
        if iteration % self.every:
            return None
        self.model.eval()  # statistics of batch norm are those of the real clips
        loss, _ = comparison_loss(self.model, self.world, self.bank, rng)
        self.model.train()
        return self.weight * loss
