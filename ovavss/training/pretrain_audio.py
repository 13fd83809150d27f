"""Pretraining of tiny's audio encoder: which pattern, if any, sounds in each register of a patch.

VGGish comes to the published model pretrained on labelled sounds; this is its counterpart. The classification head is
one layer shared by all eight cells of the mel axis and thrown away afterwards: no weight knows a register, so a pattern
is recognised in registers where it was never heard. Only base combinations are heard here.
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.data.sounding_shapes import BASE, COLOURS, FORMS, WorldConfig, render_audio, sample_scene
from ovavss.data.sounding_shapes_audio import REGISTER_BINS, REGISTER_STARTS
from ovavss.model.audio_encoder import AudioEncoder, LogMel
from ovavss.model.presets import Preset
from ovavss.training.schedule import Ema, Report, warm_cosine

CELLS = 8
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
                colour, form = divmod(category, len(FORMS))
                label[snippet, REGISTER_STARTS[colour] // REGISTER_BINS] = form + 1
        labels.append(label)
    return torch.cat(patches), torch.cat(labels)


def _one_thread_patches(seed: int, clips: range) -> tuple[np.ndarray, np.ndarray]:
    torch.set_num_threads(1)
    patches, labels = heard_patches(seed, clips)
    return patches.numpy(), labels.numpy()


def many_patches(seed: int, clips: int, workers: int) -> tuple[Tensor, Tensor]:
    """`heard_patches` in several processes."""
    chunks = [range(start, min(start + _CHUNK, clips)) for start in range(0, clips, _CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(_one_thread_patches, [seed] * len(chunks), chunks))
    return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*parts))  # type: ignore[return-value]


class CellClassifier(nn.Module):
    """An audio encoder's VGGish under one linear layer shared by the cells: patches [n, 96, 64] -> logits [n, 8, 7]."""

    def __init__(self, encoder: AudioEncoder, preset: Preset) -> None:
        super().__init__()
        self.vggish = encoder.vggish
        self.head = nn.Linear(preset.audio_dim // CELLS, len(FORMS) + 1)

    def forward(self, patches: Tensor) -> Tensor:
        # VGGish flattens (time 1, mel 8, channel 16), so each cell has its own 16 values.
        return self.head(self.vggish(patches).unflatten(1, (CELLS, -1)))


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
    encoder: AudioEncoder, preset: Preset, steps: int, clips: int, seed: int, report: Report, workers: int = 2
) -> CellClassifier:
    """Trains the encoder in place for `steps` of 128 patches; returns it with its head."""
    patches, labels = many_patches(seed, clips, workers)
    torch.manual_seed(seed)
    model = CellClassifier(encoder, preset).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    ema = Ema(model, 0.99)
    # Most cells are silent; without the weight the sounds would be a twentieth of the loss.
    weight = torch.tensor([0.25] + [1.0] * len(FORMS))
    for step in range(steps):
        index = torch.randint(len(patches), (128,))
        batch = roughen(patches[index].float())
        logits = model(batch)
        loss = F.cross_entropy(logits.flatten(0, 1), labels[index].flatten(), weight)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * warm_cosine(step, steps, 50)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        right = (logits.argmax(-1) == labels[index]).all(1).float().mean().item()
        report(step, {"loss": loss.item(), "accuracy": right})
    ema.copy_to(model)
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
        right += int((model(patches[chosen].float()).argmax(-1) == labels[chosen]).all(1).sum())
        total += int(chosen.sum())
    return right / max(total, 1)


assert CELLS * REGISTER_BINS == 64 and len(COLOURS) == len(REGISTER_STARTS)
