"""Mask crops: the region of each (query, frame) pair as CLIP sees it (paper, section 3.5 and Table 5)."""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from ovavss.models.ov_avss.presets import Crop

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STRIDE = 4
# Masks upsampled at a time: the full-size masks of all of them would take half a gigabyte.
_CHUNK = 40

SquareAnchor = Literal["top_left", "center"]


@dataclass
class Regions:
    """The valid (query, frame) pairs, frame by frame.

    `frame` and `query` int64 [n], tight boxes float32 [n, 4] as (x0, y0, x1, y1) in pixels of the padded frame, ends
    exclusive; confidence float32 [n], the mean probability of the mask's own pixels, and area float32 [n], how many
    these are.
    """

    frame: Tensor
    query: Tensor
    boxes: Tensor
    confidence: Tensor
    area: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def select(self, index: Tensor | slice) -> "Regions":
        """Some of the pairs."""
        return Regions(*(getattr(self, field.name)[index] for field in fields(self)))


def upsample(mask_logits: Tensor) -> Tensor:
    """Mask logits [N, T, h, w] at stride 4 -> [N, T, 4 h, 4 w]."""
    return F.interpolate(mask_logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def find_regions(mask_logits: Tensor, queries: Tensor | None = None, skip_empty_masks: bool = True) -> Regions:
    """Pairs whose upsampled mask has a pixel above one half, with their tight boxes.

    mask_logits float32 [N, T, h, w] at stride 4 of the padded frame; queries int64: only these (default all).
    `skip_empty_masks` upsamples only masks with a positive logit: bilinear samples of the others cannot be positive,
    so the result is the same.
    """
    if queries is None:
        queries = torch.arange(len(mask_logits), device=mask_logits.device)
    wanted = mask_logits[queries]
    if skip_empty_masks:
        which, frames = (wanted.flatten(2).amax(-1) > 0).nonzero(as_tuple=True)
    else:
        which, frames = torch.ones_like(wanted[:, :, 0, 0], dtype=torch.bool).nonzero(as_tuple=True)
    nothing = mask_logits.new_zeros(0)
    found = [Regions(which[:0], which[:0], nothing.reshape(0, 4), nothing, nothing)]
    for start in range(0, len(which), _CHUNK):
        query, frame = queries[which[start : start + _CHUNK]], frames[start : start + _CHUNK]
        soft = upsample(mask_logits[query, frame][None])[0].sigmoid()
        inside = soft > 0.5
        (x0, x1), (y0, y1) = _extent(soft.amax(1) > 0.5), _extent(soft.amax(2) > 0.5)  # any() of booleans is slow
        boxes = torch.stack([x0, y0, x1, y1], dim=-1).float()
        area = inside.sum((1, 2))
        confidence = (soft * inside).sum((1, 2)) / area.clamp(min=1)
        found.append(Regions(frame, query, boxes, confidence, area.float()).select(area > 0))
    parts = ([getattr(part, field.name) for part in found] for field in fields(Regions))
    regions = Regions(*(torch.cat(part) for part in parts))
    return regions.select(torch.argsort(regions.frame, stable=True))


def most_confident(regions: Regions, frames: int) -> Regions:
    """The regions of each query in at most `frames` frames, those whose masks are most confident; order kept."""
    order = torch.argsort(regions.confidence, descending=True, stable=True)
    order = order[torch.argsort(regions.query[order], stable=True)]
    counts = torch.unique_consecutive(regions.query[order], return_counts=True)[1]
    place = torch.arange(len(order), device=order.device)
    place = place - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return regions.select(order[place < frames].sort().values)


def shared_crops(mask_logits: Tensor, regions: Regions, iou: float) -> Tensor:
    """For each region the index of the first one in the same frame that may stand for it: int64 [n].

    Two masks are one region where their intersection over union, at stride 4, is at least `iou` (1: the same pixels).
    mask_logits float32 [N, T, h, w]. A region that stands for others stands for itself.
    """
    crop_index = torch.arange(len(regions), device=regions.query.device)
    for frame in regions.frame.unique().tolist():
        index = (regions.frame == frame).nonzero()[:, 0]
        masks = (mask_logits[regions.query[index], frame] > 0).flatten(1).float()
        both, area = masks @ masks.T, masks.sum(1)
        same = (both >= iou * (area[:, None] + area - both)).tolist()
        kept: list[int] = []
        for i, row in enumerate(same):
            first = next((j for j in kept if row[j]), None)
            if first is None:
                kept.append(i)
            else:
                crop_index[index[i]] = index[first]
    return crop_index


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last true index along the last axis, where there is one: bool [..., n] -> int64."""
    return line.byte().argmax(-1), line.shape[-1] - line.byte().flip(-1).argmax(-1)


def square_boxes(boxes: Tensor, anchor: SquareAnchor = "top_left") -> Tensor:
    """Squares of the longer side, not clamped to the frame.

    At the box's top-left corner (published code) or centered on it (paper).
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    side = (end - start).amax(1, keepdim=True)
    if anchor == "center":
        start = (start + end - side) / 2
    return torch.cat([start, start + side], dim=1)


def crop_boxes(boxes: Tensor, image_size: tuple[int, int], crop: Crop, anchor: SquareAnchor) -> Tensor:
    """What is cut out for each tight box: the whole image, the box itself, or a square."""
    if crop is Crop.NONE:
        height, width = image_size
        return boxes.new_tensor([0, 0, width, height]).expand(len(boxes), 4)
    return square_boxes(boxes, anchor) if crop is Crop.SQUARE else boxes


def crop_regions(
    mask_logits: Tensor,
    frames: Tensor,
    image_size: tuple[int, int],
    regions: Regions,
    size: int,
    crop: Crop = Crop.SQUARE,
    anchor: SquareAnchor = "top_left",
) -> Tensor:
    """CLIP's input for the given pairs: soft mask times frame, black elsewhere, CLIP-normalized.

    mask_logits float32 [N, T, h, w]; frames uint8 [T, H, W, 3], resized and padded as the localizer saw them;
    image_size: their unpadded (height, width). Returns float32 [n, 3, size, size].
    """
    height, width = image_size
    images = frames[:, :height, :width].permute(0, 3, 1, 2).float()
    boxes = crop_boxes(regions.boxes, image_size, crop, anchor)
    masks = upsample(mask_logits[regions.query, regions.frame][:, None]).sigmoid()
    index = torch.arange(len(regions), dtype=boxes.dtype, device=boxes.device)
    mask = roi_align(masks, torch.cat([index[:, None], boxes], 1), size, sampling_ratio=-1, aligned=False)
    image = roi_align(
        images, torch.cat([regions.frame[:, None].to(boxes), boxes], 1), size, sampling_ratio=-1, aligned=False
    )
    mean, std = (image.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (mask * image / 255 - mean) / std


def thumbnails(
    mask_logits: Tensor,
    frames: Tensor,
    regions: Regions,
    size: int,
    anchor: SquareAnchor = "top_left",
) -> Tensor:
    """What square crops show, small and rough, without upsampling: masked pixels at stride 4, in 0..1.

    Arguments as of `crop_regions`. Returns float32 [n, 3, size, size].
    """
    images = F.avg_pool2d(frames.permute(0, 3, 1, 2).float(), STRIDE)
    masked = mask_logits[regions.query, regions.frame][:, None].sigmoid() * images[regions.frame] / 255
    index = torch.arange(len(regions), dtype=masked.dtype, device=masked.device)[:, None]
    boxes = torch.cat([index, square_boxes(regions.boxes, anchor)], 1)
    return roi_align(masked, boxes, size, spatial_scale=1 / STRIDE, sampling_ratio=-1, aligned=False)
