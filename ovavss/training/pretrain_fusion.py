"""Pretraining of tiny's fusion and pixel decoder: to compare what is seen with what is heard, pixel by pixel.

A localiser that starts from nothing matches colour with register and stops there: to compare form with pattern as well
it must first find the pattern that sounds in the register of a pixel's own colour, a step that no mask rewards. Here
the first encoder layer is asked for just that (besides colour and form), and the last for what sounds, on single frames
with sounds chosen against them. Base combinations only; all heads are thrown away afterwards.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.data.sounding_shapes import COLOURS, FORMS
from ovavss.model.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.model.usslm import USSLM
from ovavss.training.schedule import Report, warm_cosine
from ovavss.training.sound_bank import SoundBank
from ovavss.training.world import RenderedWorld

_STRIDE = 8
FRAMES = 24


class Comparison(nn.Module):
    """The localiser up to its mask features under heads of one layer.

    forward: images float32 [n, 3, H, W], tokens float32 [n, 128] -> colour, form and pattern in the register of the own
    colour, each [n, 7, H/8, W/8] (0 = none), what sounds [n, 1, H/8, W/8] and the same at stride 4.
    """

    def __init__(self, usslm: USSLM, dim: int) -> None:
        super().__init__()
        self.backbone, self.pixel_decoder = usslm.backbone, usslm.pixel_decoder
        self.first = nn.Conv2d(dim, len(COLOURS) + 1 + 2 * (len(FORMS) + 1), 1)
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
        colour, form, heard = self.first(tokens).split((len(COLOURS) + 1, len(FORMS) + 1, len(FORMS) + 1), 1)
        return [colour, form, heard, self.sounding[0](finest), self.sounding[1](decoded.mask_features)]


def compared_frames(
    world: RenderedWorld, bank: SoundBank, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images float32 [n, 3, 96, 96], tokens float32 [n, 128], instances int64 [n, 96, 96] and, for instance 0 (nothing)
    to 4, its category int64 [n, 5] (-1 = none) and what sounds in its register int64 [n, 5] (0 = nothing, else form
    + 1)."""
    clips, snippets = rng.integers(len(world), size=count), rng.integers(world.frames.shape[1], size=count)
    images, tokens, instances, categories, heard = [], [], [], [], []
    for clip, snippet in zip(clips, snippets):
        seen = world.categories[clip].astype(np.int64)
        sound = bank.choose(int(rng.choice(seen[seen >= 0])), rng)
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
        images.append(np.array(world.frames[clip, snippet][:, flip]))
        instances.append(np.array(world.instances[clip, snippet][:, flip]))
        tokens.append(bank.tokens[sound])
        registers = bank.heard[sound].reshape(len(COLOURS), len(FORMS))
        patterns = np.where(registers.any(1), registers.argmax(1) + 1, 0)
        categories.append(np.concatenate([[-1], seen]))
        heard.append(np.concatenate([[0], np.where(seen >= 0, patterns[seen // len(FORMS)], 0)]))
    normalised = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    normalised = (normalised - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]
    integers = (torch.from_numpy(np.stack(x)).long() for x in (instances, categories, heard))
    return normalised, torch.stack(tokens), *integers  # type: ignore[return-value]


def _losses(
    outputs: list[Tensor], instances: Tensor, categories: Tensor, heard: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The loss, and on the pixels of objects: share of colours, forms and patterns that are right; and, of those whose
    register sounds, how often it is said that they sound where they do and where they do not."""

    def spread(values: Tensor, stride: int) -> Tensor:
        cells = instances[:, stride // 2 :: stride, stride // 2 :: stride]
        return values.gather(1, cells.flatten(1)).reshape(cells.shape)

    colour, form, pattern, coarse, fine = outputs
    category, sound = spread(categories, _STRIDE), spread(heard, _STRIDE)
    inside = category >= 0
    loss = F.cross_entropy(colour, torch.where(inside, category // len(FORMS) + 1, 0))
    loss = loss + F.cross_entropy(form, torch.where(inside, category % len(FORMS) + 1, 0))
    loss = loss + F.cross_entropy(pattern, torch.where(inside, sound, -1), ignore_index=-1)
    sounds = (categories >= 0) & (heard == categories % len(FORMS) + 1)
    for logits, stride in ((coarse, 8), (fine, 4)):
        truth = spread(sounds.long(), stride).float()
        objects = (spread(categories, stride) >= 0).float()
        # The background is most of the picture and easy: objects count four times.
        loss = loss + F.binary_cross_entropy_with_logits(logits[:, 0], truth, 1 + 3 * objects)
    with torch.no_grad():
        said, wanted = coarse[:, 0] > 0, spread(sounds.long(), _STRIDE) > 0
        tempting = inside & (sound > 0)
        shares = {
            "colour": colour.argmax(1)[inside] == category[inside] // len(FORMS) + 1,
            "form": form.argmax(1)[inside] == category[inside] % len(FORMS) + 1,
            "pattern": pattern.argmax(1)[inside] == sound[inside],
            "sounding": said[wanted],
            "wrong form": said[tempting & ~wanted],
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
    """Trains backbone (its batch norm trainable), fusion and pixel decoder in place for `steps` of 24 frames."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 5])
    model = Comparison(usslm, dim).train()
    backbone = {id(p) for p in usslm.backbone.parameters()}
    groups = [[p for p in model.parameters() if (id(p) in backbone) is mine] for mine in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": group, "share": share} for group, share in zip(groups, (0.5, 1.0))], weight_decay=0.02, fused=True
    )
    for step in range(steps):
        images, tokens, *labels = compared_frames(world, bank, FRAMES, rng)
        outputs = model(images, tokens)
        loss, shares = _losses(outputs, *labels)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"] * warm_cosine(step, steps, 50)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step, {"loss": loss.item(), **shares})
    model.hook.remove()
