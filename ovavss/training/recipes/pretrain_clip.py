"""Training of tiny's CLIP on crops of the synthetic world.

CLIP has seen the words of every class, so tiny's sees all 36 names; `names` restricts it to the base ones for the
figure beside it. Localizer and audio encoder never see a novel combination.
"""

from collections.abc import Sequence

import torch
from open_clip import CLIP
from torch import Tensor
from torch.nn import functional as F

from ovavss.datasets.sounding_shapes.scenes import CATEGORIES
from ovavss.models.ov_avss.clip import ClipImageEncoder, ClipTextEncoder, tokenizer
from ovavss.models.ov_avss.open_vocabulary import LOGIT_SCALE
from ovavss.models.ov_avss.presets import ClipConfig
from ovavss.models.ov_avss.prompts import TEMPLATES, prompts
from ovavss.training.recipes.crops import normalized
from ovavss.training.schedule import Report, averaged_model, descend, warm_cosine


def train_clip(
    clip: CLIP,
    config: ClipConfig,
    sets: Sequence[tuple[Tensor, Tensor]],
    steps: int,
    seed: int,
    report: Report,
    names: Sequence[int] = range(len(CATEGORIES)),
    lr: float = 1e-3,
    scale: float = 15.0,
    batch: int = 128,
) -> None:
    """Trains image and text tower in place on the crops whose category is in `names`.

    Each step takes as many crops from each of `sets` (crops uint8 [n, 3, size, size], categories int64 [n]) and
    contrasts them with every name in one random template a name. The scale of the logits grows from `scale` to the 100
    that inference uses.
    """
    torch.manual_seed(seed)
    known = torch.full((len(CATEGORIES),), -1)
    known[list(names)] = torch.arange(len(names))
    kept = [(crops, known[labels], (known[labels] >= 0).nonzero()[:, 0]) for crops, labels in sets]
    kept = [some for some in kept if len(some[2])]  # a localizer that learned little marks nothing
    tokens = torch.stack([tokenizer(config)(prompts(CATEGORIES[name])) for name in names])
    clip.train()
    image, text = ClipImageEncoder(clip), ClipTextEncoder(clip)
    parameters = [p for name, p in clip.named_parameters() if name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05, fused=True)
    averaged = averaged_model(clip, 0.99)
    for step in range(steps):
        chosen = [rows[torch.randint(len(rows), (batch // len(kept),))] for _, _, rows in kept]
        images = normalized(torch.cat([crops[index] for (crops, _, _), index in zip(kept, chosen)]))
        targets = torch.cat([categories[index] for (_, categories, _), index in zip(kept, chosen)])
        if torch.rand(()) < 0.5:
            images = images.flip(-1)
        template = torch.randint(len(TEMPLATES), (len(names),))
        grown = min(LOGIT_SCALE, scale + (LOGIT_SCALE - scale) * step / (0.6 * steps))
        logits = grown * image(images) @ text(tokens[torch.arange(len(names)), template]).T
        loss = F.cross_entropy(logits, targets)
        descend(optimizer, parameters, loss, warm_cosine(step, steps, 100))
        averaged.update_parameters(clip)
        right = (logits.argmax(1) == targets).float().mean().item()
        report(step, {"loss": loss.item(), "accuracy": right})
    clip.load_state_dict(averaged.module.state_dict())
    clip.eval()
