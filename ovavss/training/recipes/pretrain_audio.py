"""Pretraining of tiny's audio encoder: which pattern, if any, sounds in each register of a patch.

VGGish comes to the published model pretrained on labeled sounds; this is its counterpart. One linear layer, shared by
all eight cells of the mel axis, says which patterns are in a cell: no weight knows a register, so a pattern is
recognized in registers where it was never heard. Only base combinations are heard here.

Afterwards that layer is written into VGGish's fully connected ones, which add what a localizer could not learn from
base combinations: a pattern in any register at all, and a register with any pattern at all. Both are sums over cells
with the same weights, so they hold for unheard combinations too.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.datasets.sounding_shapes.audio import REGISTER_BINS, REGISTER_STARTS
from ovavss.datasets.sounding_shapes.rendering import render_audio
from ovavss.datasets.sounding_shapes.scenes import BASE, COLORS, FORMS, WorldConfig, sample_scene
from ovavss.models.ov_avss.audio_encoder import AudioEncoder, LogMel
from ovavss.training.processes import map_ranges
from ovavss.training.schedule import Report, averaged_model, descend, warm_cosine

CELLS = 8
PAIR_SCALE = 0.25
SATURATION = 4.0  # a logit from which on a pattern counts as surely there
# Up to four sounds at once over a noise floor from inaudible to loud: harder than the world's own clips.
LISTENING = WorldConfig(
    object_counts=(0.1, 0.35, 0.35, 0.2), sounding_counts=(0.3, 0.45, 0.25), p_silent=0.04, p_off_screen_only=0.1,
    p_off_screen=0.3, noise_db=(-72.0, -50.0),
)  # fmt: skip
_CHUNK = 100


def heard_patches(
    seed: int, clips: range, categories: tuple[int, ...] | str = BASE, config: WorldConfig = LISTENING
) -> tuple[Tensor, Tensor]:
    """Log-mel patches float16 [n, 96, 64] and the pattern in each cell int64 [n, 8]: 0 = none, else form + 1."""
    patches, labels = [], []
    snippets = 5
    log_mel = LogMel(snippets)
    for i in clips:
        scene = sample_scene(seed, i, categories=categories, snippets=snippets, config=config)  # type: ignore[arg-type]
        patches.append(log_mel(torch.from_numpy(render_audio(scene))[None])[0].half())
        label = torch.zeros(snippets, CELLS, dtype=torch.int64)
        for snippet in range(snippets):
            for category in scene.heard(snippet):
                color, form = divmod(category, len(FORMS))
                label[snippet, REGISTER_STARTS[color] // REGISTER_BINS] = form + 1
        labels.append(label)
    return torch.cat(patches), torch.cat(labels)


def _patch_arrays(seed: int, clips: range) -> tuple[np.ndarray, np.ndarray]:
    patches, labels = heard_patches(seed, clips)
    return patches.numpy(), labels.numpy()


def many_patches(seed: int, clips: int, workers: int) -> tuple[Tensor, Tensor]:
    """`heard_patches` in several processes."""
    parts = map_ranges(partial(_patch_arrays, seed), clips, _CHUNK, workers)
    patches, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts))
    return patches, labels


class CellClassifier(nn.Module):
    """VGGish's convolutions under one linear layer shared by the cells.

    Patches [n, 96, 64] -> logits [n, 8, 6], one for each pattern.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.features = encoder.vggish.features
        first = encoder.vggish.embeddings[0]
        assert isinstance(first, nn.Linear)
        self.head = nn.Linear(first.in_features // CELLS, len(FORMS))

    def forward(self, patches: Tensor) -> Tensor:
        # VGGish flattens (time 1, mel 8, channel 16), so each cell has its own 16 values.
        return self.head(self.features(patches[:, None]).permute(0, 2, 3, 1).flatten(2)[:, 0].unflatten(1, (CELLS, -1)))


@torch.no_grad()
def write_embeddings(encoder: AudioEncoder, head: nn.Linear) -> None:
    """The shared layer as VGGish's two fully connected layers.

    The first gives max(e, 0) and max(e - 4, 0) of each pattern's logit e in each cell; the second their difference over
    4, which is 0 where the pattern is not and 1 where it surely is: 48 values (cell, pattern) times 0.25, then for each
    pattern the sum over cells, then for each cell the sum over patterns, then zeros.
    """
    first, second = (layer for layer in encoder.vggish.embeddings if isinstance(layer, nn.Linear))
    patterns, inputs = head.weight.shape
    pairs = CELLS * patterns
    for layer in (first, second):
        layer.weight.zero_()
        layer.bias.zero_()
    for cell in range(CELLS):
        for shift in (0, 1):
            rows = slice(shift * pairs + cell * patterns, shift * pairs + (cell + 1) * patterns)
            first.weight[rows, cell * inputs : (cell + 1) * inputs] = head.weight
            first.bias[rows] = head.bias - shift * SATURATION
    present = torch.cat([torch.eye(pairs), -torch.eye(pairs)], dim=1) / SATURATION
    # The localizer should lean on what holds for unheard combinations, and on the pairs only to tell two sounds apart.
    second.weight[:pairs] = PAIR_SCALE * present
    by_cell = present.unflatten(0, (CELLS, patterns))
    second.weight[pairs : pairs + patterns] = by_cell.sum(0)
    second.weight[pairs + patterns : pairs + patterns + CELLS] = by_cell.sum(1)


def roughen(patches: Tensor) -> Tensor:
    """Log-mel patches [n, 96, 64] with a random blur along mel, gain of each bin, noise floor and noise.

    Nothing but the pattern is left to go by.
    """
    n = len(patches)
    blur = 0.3 * torch.rand(n, 1, 1) - 0.05
    beside = F.pad(patches, (1, 1), mode="replicate")
    patches = (1 - blur) * patches + 0.5 * blur * (beside[..., :-2] + beside[..., 2:])
    patches = patches + 0.2 * torch.rand(n, 1, 1) * torch.randn(n, 1, patches.shape[2])
    floor = torch.exp(2.5 * torch.rand(n, 1, 1) - 4.6)
    patches = torch.log(torch.exp(patches) + floor)
    return patches + 0.4 * torch.rand(n, 1, 1) * torch.randn_like(patches)


def pretrain_audio_encoder(
    encoder: AudioEncoder, steps: int, clips: int, seed: int, report: Report, workers: int = 2
) -> CellClassifier:
    """Trains the encoder in place for `steps` of 128 patches; returns it with its head."""
    patches, labels = many_patches(seed, clips, workers)
    torch.manual_seed(seed)
    model = CellClassifier(encoder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    averaged = averaged_model(model, 0.99)
    for step in range(steps):
        index = torch.randint(len(patches), (128,))
        batch = roughen(patches[index].float())
        logits = model(batch)
        present = F.one_hot(labels[index], len(FORMS) + 1)[..., 1:].float()
        # Few patterns are there: without the weight they would be a thirtieth of the loss.
        loss = F.binary_cross_entropy_with_logits(logits, present, pos_weight=torch.tensor(4.0))
        descend(optimizer, model.parameters(), loss, warm_cosine(step, steps, 50))
        averaged.update_parameters(model)
        right = ((logits > 0) == (present > 0)).flatten(1).all(1).float().mean().item()
        report(step, {"loss": loss.item(), "accuracy": right})
    model.load_state_dict(averaged.module.state_dict())
    write_embeddings(encoder, model.head)
    return model.eval()


@torch.no_grad()
def hearing_accuracy(
    model: CellClassifier, seed: int, clips: int, categories: tuple[int, ...] | str, sounds: int
) -> float:
    """Share of patches with exactly `sounds` sounds whose eight cells are all right."""
    right = total = 0
    for start in range(0, clips, 50):
        patches, labels = heard_patches(seed, range(start, min(start + 50, clips)), categories)
        chosen = (labels > 0).sum(1) == sounds
        present = F.one_hot(labels[chosen], len(FORMS) + 1)[..., 1:] > 0
        right += int(((model(patches[chosen].float()) > 0) == present).flatten(1).all(1).sum())
        total += int(chosen.sum())
    return right / max(total, 1)


assert CELLS * REGISTER_BINS == 64 and len(COLORS) == len(REGISTER_STARTS)
