"""Speed-ups of the crop step: those that must not change a bit, and those that choose."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ovavss.models.ov_avss.mask_crop import Regions, find_regions, most_confident, shared_crops
from ovavss.models.ov_avss.open_vocabulary import full_size_masks


@pytest.fixture(scope="module")
def mask_logits() -> Tensor:
    """Blobs, of which some are valid; the last query's only positive pixel is lost in the upsampling."""
    coarse = 4 * torch.randn(9, 5, 4, 5, generator=torch.Generator().manual_seed(3)) - 3
    logits = F.interpolate(coarse, size=(24, 32), mode="bilinear")
    logits[-1] = -20.0
    logits[-1, 2, 10, 10] = 0.5
    return logits


@pytest.mark.parametrize("queries", [None, torch.tensor([7, 0, 8])])
def test_selecting_first_changes_nothing(mask_logits: Tensor, queries: Tensor | None) -> None:
    fast, slow = (find_regions(mask_logits, queries, skip_empty_masks=first) for first in (True, False))
    assert 0 < len(fast) < mask_logits[:, :, 0, 0].numel() and 8 not in fast.query
    for name in ("frame", "query", "boxes", "confidence"):
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name
    query = torch.tensor([3, 1, 3, 3])
    fast_masks, slow_masks = (
        full_size_masks(mask_logits, query, (90, 120), (60, 80), first) for first in (True, False)
    )
    assert torch.equal(fast_masks, slow_masks) and fast_masks.any()


def test_confidence_is_the_mean_inside() -> None:
    logits = torch.full((1, 1, 8, 8), -30.0)
    logits[..., 2:6, 2:6] = 2.0
    soft = F.interpolate(logits, scale_factor=4, mode="bilinear").sigmoid()
    found = find_regions(logits)
    torch.testing.assert_close(found.confidence, soft[soft > 0.5].mean()[None])
    assert found.area.tolist() == [(soft > 0.5).sum()]


def test_the_most_confident_frames() -> None:
    frame, query = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([4, 1, 4, 1, 4, 1])
    regions = Regions(frame, query, torch.zeros(6, 4), torch.tensor([0.7, 0.6, 0.9, 0.8, 0.9, 0.95]), torch.ones(6))
    one, two = (most_confident(regions, count) for count in (1, 2))
    assert list(zip(one.query.tolist(), one.frame.tolist())) == [(4, 1), (1, 2)]  # the first of equals; order kept
    assert list(zip(two.query.tolist(), two.frame.tolist())) == [(4, 1), (1, 1), (4, 2), (1, 2)]
    assert len(most_confident(regions.select(slice(0, 0)), 1)) == 0
    assert torch.equal(most_confident(regions, 9).frame, frame)


def test_masks_that_overlap_share_a_crop() -> None:
    logits = torch.full((4, 2, 8, 8), -5.0)
    logits[0, :, :4, :4] = 3.0  # 16 pixels
    logits[1, :, :4, :4] = 1.0  # the same pixels, other numbers
    logits[2, :, :4, :3] = 3.0  # 12 of them
    logits[3, :, 5:, 5:] = 3.0  # elsewhere
    regions = find_regions(logits)
    crop_index = {iou: shared_crops(logits, regions, iou).tolist() for iou in (1.0, 0.75, 0.76)}
    assert crop_index == {1.0: [0, 0, 2, 3, 4, 4, 6, 7], 0.75: [0, 0, 0, 3, 4, 4, 4, 7], 0.76: [0, 0, 2, 3, 4, 4, 6, 7]}
