"""OVCM, the open-vocabulary classification module (paper, section 3.5): CLIP embeddings to names and label map."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovavss.models.ov_avss.mask_crop import upsample

LOGIT_SCALE = 100.0
TOP_K = 10
SCORE_THRESHOLD = 0.3


@dataclass
class Ranking:
    """The best (query, class) pairs, best first: query, label int64 [k], score float32 [k]."""

    query: Tensor
    label: Tensor
    score: Tensor


def similarity(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """Scaled cosine similarity of unit vectors: [n, D], [K, D] -> logits [n, K]."""
    return LOGIT_SCALE * image_embeddings @ text_embeddings.T


def class_probabilities(logits: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the logits over each query's frames, then softmax over the classes.

    logits [n, K], query int64 [n] -> the distinct queries int64 [m] in ascending order, probabilities [m, K].
    """
    ids, index, counts = torch.unique(query, return_inverse=True, return_counts=True)
    total = logits.new_zeros(len(ids), logits.shape[1]).index_add_(0, index, logits)
    return ids, (total / counts[:, None]).softmax(-1)


def rank(ids: Tensor, probabilities: Tensor, top_k: int = TOP_K) -> Ranking:
    """The `top_k` best of all (query, class) pairs, fewer if there are fewer; a query may have several names."""
    classes = probabilities.shape[1]
    score, index = probabilities.flatten().sort(descending=True, stable=True)
    index = index[:top_k]
    return Ranking(ids[torch.div(index, classes, rounding_mode="floor")], index % classes, score[:top_k])


def full_size_masks(
    mask_logits: Tensor,
    query: Tensor,
    image_size: tuple[int, int],
    original_size: tuple[int, int],
    skip_empty_masks: bool = True,
) -> Tensor:
    """Masks of the given queries at the original size: mask logits [N, T, h, w] -> bool [len(query), T, H, W].

    `skip_empty_masks` upsamples a query that is there several times, under several names, once.
    """
    height, width = image_size
    masks = []
    wanted, index = torch.unique(query, return_inverse=True) if skip_empty_masks else (query, None)
    for number in wanted.tolist():  # one at a time: a full-size float mask of ten queries takes gigabytes at 4K
        logits = upsample(mask_logits[number : number + 1])[0, :, None, :height, :width]
        if original_size != image_size:  # to the same size it would copy
            logits = F.interpolate(logits, size=original_size, mode="bilinear", align_corners=False)
        masks.append(logits[:, 0] > 0)
    if not masks:
        return mask_logits.new_zeros((0, mask_logits.shape[1], *original_size), dtype=torch.bool)
    return torch.stack(masks if index is None else [masks[i] for i in index.tolist()])


def sound_map(
    mask_logits: Tensor, sound_scores: Tensor, image_size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """Where something sounds, whatever it is: float32 [T, H, W] in [0, 1], the best query's mask times its sound score.

    mask_logits [N, T, h, w], sound_scores [N].
    """
    height, width = image_size
    best = mask_logits.new_zeros((mask_logits.shape[1], *original_size))
    for mask, score in zip(mask_logits, sound_scores):
        logits = upsample(mask[None])[0, :, None, :height, :width]
        resized = F.interpolate(logits, size=original_size, mode="bilinear", align_corners=False)[:, 0]
        best = torch.maximum(best, resized.sigmoid() * score)
    return best


def semantic_map(masks: Tensor, ranking: Ranking, threshold: float = SCORE_THRESHOLD) -> Tensor:
    """Label map from masks bool [k, T, H, W]: pairs above the threshold, best first; later ones fill empty pixels only.

    Returns int32 [T, H, W]: class + 1, 0 = background.
    """
    label_map = masks.new_zeros(masks.shape[1:], dtype=torch.int32)
    for mask, label, score in zip(masks, ranking.label.tolist(), ranking.score.tolist()):
        if score > threshold:
            label_map = torch.where((label_map == 0) & mask, label + 1, label_map)
    return label_map
