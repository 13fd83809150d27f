"""Example inputs of OpenAVS' graphs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovavss.models.open_avs.presets import LISTENER, PROMPT_DECODER, OpenAvsPreset
from ovavss.models.open_avs.prompt_decoder import BOX_END, BOX_START, INSIDE, PADDING
from ovavss.models.open_avs.tiny_vit import EMBEDDING, STRIDE
from ovavss.models.open_avs.yamnet import SAMPLE_RATE, WINDOW


def open_avs_inputs(name: str, preset: OpenAvsPreset, frame_size: tuple[int, int], batch: int) -> dict[str, Tensor]:
    """Inputs that look real, the same on every machine: chirps, smooth pictures, boxes and points."""
    generator = torch.Generator().manual_seed(0)
    if name == LISTENER:
        time = torch.arange(WINDOW) / SAMPLE_RATE
        rates = torch.rand(batch, 1, generator=generator) * 900 + 100
        noise = 0.01 * torch.randn(batch, WINDOW, generator=generator)
        return {"windows": 0.3 * torch.sin(2 * torch.pi * rates * time * (1 + time)) + noise}
    if name == PROMPT_DECODER:
        cells = preset.mask_side // STRIDE
        coarse = torch.randn(batch, EMBEDDING, 5, 5, generator=generator)
        corners = torch.rand(batch, 2, 2, generator=generator) * 0.4 + torch.tensor([[0.0, 0.0], [0.5, 0.5]])
        kinds = torch.tensor([(BOX_START, BOX_END), (INSIDE, PADDING)], dtype=torch.float32)
        labels = kinds[torch.arange(batch) % len(kinds)]
        embedding = 0.1 * F.interpolate(coarse, (cells, cells), mode="bicubic")
        return {"embedding": embedding, "points": corners, "labels": labels}
    pictures = F.interpolate(torch.rand(batch, 3, 9, 13, generator=generator), frame_size, mode="bicubic")
    noisy = pictures + 0.05 * torch.randn(pictures.shape, generator=generator)
    return {"frames": (noisy.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous()}
