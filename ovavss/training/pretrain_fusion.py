"""Pretraining of tiny's fusion and pixel decoder: to compare what is seen with what is heard, pixel by pixel.

A localiser that starts from nothing matches colour with register and stops there, since that alone is right most of the
time. Here the first encoder layer is asked whether the own colour's register sounds and whether the own form's pattern
does (besides colour and form), and the last what sounds, on single frames with sounds chosen against them. Base
combinations only; a quarter of the frames are in other hues and teach form alone. All heads are thrown away afterwards.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.data.sounding_shapes import COLOURS, FORMS
from ovavss.model.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.model.usslm import USSLM
from ovavss.training.pretrain_backbone import colour_and_form_loss, other_hues
from ovavss.training.schedule import Report, warm_cosine
from ovavss.training.sound_bank import SoundBank
from ovavss.training.world import RenderedWorld

_STRIDE = 8
COLOURED, OTHER_HUES = 18, 6  # frames of a step


class Comparison(nn.Module):
    """The localiser up to its mask features under heads of one layer.

    forward: images float32 [n, 3, H, W], tokens float32 [n, 64] -> colour and form, each [n, 7, H/8, W/8] (0 = none);
    whether the own colour's register sounds and whether the own form's pattern does [n, 2, H/8, W/8]; what sounds
    [n, 1, H/8, W/8] and the same at stride 4.
    """

    def __init__(self, usslm: USSLM, dim: int) -> None:
        super().__init__()
        self.backbone, self.pixel_decoder = usslm.backbone, usslm.pixel_decoder
        self.first = nn.Conv2d(dim, len(COLOURS) + len(FORMS) + 4, 1)
        self.sounding = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in range(2))
        for head in (self.first, *self.sounding):
            assert isinstance(head, nn.Conv2d)
            nn.init.zeros_(head.weight)
        self.tokens: list[Tensor] = []
        self.hook = self.pixel_decoder.layers[0].register_forward_hook(lambda _m, _i, out: self.tokens.append(out))

    def forward(self, images: Tensor, audio: Tensor) -> list[Tensor]:
        self.tokens.clear()
        decoded = self.pixel_decoder(self.backbone(images), audio)
        finest = decoded.multi_scale[-1]
        tokens = self.tokens.pop()[:, -finest.shape[2] * finest.shape[3] :].transpose(1, 2).reshape(finest.shape)
        colour, form, heard = self.first(tokens).split((len(COLOURS) + 1, len(FORMS) + 1, 2), 1)
        return [colour, form, heard, self.sounding[0](finest), self.sounding[1](decoded.mask_features)]


@dataclass
class Frames:
    """images float32 [n, 3, 96, 96]; tokens float32 [n, 64]; instances int64 [n, 96, 96] (0 = nothing); and, for
    instance 0 to 4, its category int64 [n, 5] (-1 = none) and float [n, 5, 3]: whether its colour's register sounds,
    its form's pattern does, it itself does."""

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
        by_register = bank.heard[sound].reshape(len(COLOURS), len(FORMS))
        colour, form = np.divmod(seen, len(FORMS))
        truth = [by_register.any(1)[colour], by_register.any(0)[form], bank.heard[sound][seen]]
        categories.append(seen)
        heard.append(np.stack(truth, 1) & (seen >= 0)[:, None])
    normalised = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    normalised = (normalised - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]
    places, objects = (torch.from_numpy(np.stack(x)) for x in (instances, categories))
    return Frames(normalised, torch.stack(tokens), places, objects, torch.from_numpy(np.stack(heard)).float())


def spread(values: Tensor, instances: Tensor, stride: int) -> Tensor:
    """What holds of an instance, on its pixels: values [n, 5], instances [n, H, W] -> [n, H / stride, W / stride]."""
    cells = instances[:, stride // 2 :: stride, stride // 2 :: stride]
    return values.gather(1, cells.flatten(1)).reshape(cells.shape)


def _form_loss(outputs: list[Tensor], frames: Frames) -> Tensor:
    """Of frames in other hues: form alone."""
    category = spread(frames.categories, frames.instances, _STRIDE)
    return F.cross_entropy(outputs[1], torch.where(category >= 0, category % len(FORMS) + 1, 0))


def _losses(outputs: list[Tensor], frames: Frames) -> tuple[Tensor, dict[str, float]]:
    """The loss, and on the pixels of objects: share of colours, forms and the two comparisons that are right; and, of
    those whose register sounds, how often it is said that they sound where they do and where they do not."""
    colour, form, heard, coarse, fine = outputs
    category = spread(frames.categories, frames.instances, _STRIDE)
    inside = category >= 0
    colours = torch.where(inside, category // len(FORMS) + 1, 0)
    loss = colour_and_form_loss(colour, form, colours, torch.where(inside, category % len(FORMS) + 1, 0))
    register, pattern, sounds = (spread(x, frames.instances, _STRIDE) for x in frames.heard.unbind(2))
    compared = torch.stack([register, pattern], 1)
    each = F.binary_cross_entropy_with_logits(heard, compared, reduction="none")
    loss = loss + 2 * (each * inside[:, None]).sum() / inside.sum()
    for logits, stride in ((coarse, 8), (fine, 4)):
        truth = spread(frames.heard[..., 2], frames.instances, stride)
        objects = (spread(frames.categories, frames.instances, stride) >= 0).float()
        # The background is most of the picture and easy: objects count four times.
        loss = loss + F.binary_cross_entropy_with_logits(logits[:, 0], truth, 1 + 3 * objects)
    with torch.no_grad():
        said = coarse[:, 0] > 0
        right = (heard > 0) == (compared > 0)
        shares = {
            "colour": (colour.argmax(1) == colours)[inside],
            "form": form.argmax(1)[inside] == category[inside] % len(FORMS) + 1,
            "register": right[:, 0][inside],
            "pattern": right[:, 1][inside],
            "sounding": said[sounds > 0],
            "wrong form": said[(register > 0) & (sounds == 0)],
        }
    return loss, {name: share.float().mean().item() for name, share in shares.items()}


def pretrain_fusion(
    usslm: USSLM,
    dim: int,
    world: RenderedWorld,
    bank: SoundBank,
    steps: int,
    seed: int,
    report: Report,
    lr: float = 1.5e-3,
) -> None:
    """Trains backbone (its batch norm trainable), fusion and pixel decoder in place for `steps` of 18 frames and 6 in
    other hues."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 5])
    model = Comparison(usslm, dim).train()
    backbone = {id(p) for p in usslm.backbone.parameters()}
    groups = [[p for p in model.parameters() if (id(p) in backbone) is mine] for mine in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": group, "share": share} for group, share in zip(groups, (0.5, 1.0))], weight_decay=0.02, fused=True
    )
    for step in range(steps):
        frames = compared_frames(world, bank, COLOURED + OTHER_HUES, rng)
        frames.images[COLOURED:] = other_hues(frames.images[COLOURED:])
        outputs = model(frames.images, frames.tokens)
        loss, shares = _losses([x[:COLOURED] for x in outputs], frames.part(slice(COLOURED)))
        loss = loss + _form_loss([x[COLOURED:] for x in outputs], frames.part(slice(COLOURED, None)))
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"] * warm_cosine(step, steps, 50)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step, {"loss": loss.item(), **shares})
    model.hook.remove()
