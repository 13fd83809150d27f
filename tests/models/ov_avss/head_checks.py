"""What the golden parts 04, 04b and 05 store of the ten heads, compared the same way."""

import golden_set
import numpy as np
import torch

from ovavss.models.ov_avss import mask_decoder
from ovavss.models.ov_avss.mask_decoder import Prediction

File = dict[str, np.ndarray]


def closed(file: File, predictions: list[Prediction], head: int) -> np.ndarray:
    height, width = (int(side) for side in file["attn_level_size"][head])
    return mask_decoder.closed_positions(predictions[head].mask_logits, (height, width))[0].numpy()


def flips(file: File, predictions: list[Prediction]) -> int:
    """Attention decisions that differ, over all heads."""
    heads = range(len(predictions))
    return sum(int((closed(file, predictions, i) != golden_set.bits(file, f"attn_closed_{i}")).sum()) for i in heads)


def head_sample(predictions: list[Prediction]) -> torch.Tensor:
    """Frames 0 and 4 of every head at a stride of 8."""
    return torch.stack([p.mask_logits[0, :, [0, -1], ::8, ::8] for p in predictions])


def strict_errors(file: File, predictions: list[Prediction]) -> dict[str, float]:
    """Relative error of everything stored, for runs whose attention decisions all agree."""
    errors = {
        "pred_logits": golden_set.relative_error(file, "pred_logits", predictions[-1].sound_logits),
        "pred_masks": golden_set.relative_error(file, "pred_masks", predictions[-1].mask_logits),
        "head_pred_logits": golden_set.relative_error(
            file, "head_pred_logits", torch.cat([p.sound_logits for p in predictions])
        ),
        "head_query_features": golden_set.relative_error(
            file, "head_query_features", torch.cat([p.queries for p in predictions])
        ),
        "head_pred_masks_sample": golden_set.relative_error(file, "head_pred_masks_sample", head_sample(predictions)),
    }
    if "pred_masks_full" in file:
        errors["pred_masks_full"] = golden_set.relative_error(file, "pred_masks_full", predictions[-1].mask_logits)
        fifth = torch.cat([p.mask_logits[:, ::5] for p in predictions])
        errors["every5th"] = golden_set.relative_error(file, "head_pred_masks_every5th_query", fifth)
    return errors


def sign_disagreements(file: File, mask_logits: torch.Tensor, margin: float = 0.0) -> float:
    """Share of pixels whose sign differs, without those within `margin` of zero."""
    logits = mask_logits[0].numpy()
    expected = golden_set.bits(file, "pred_masks_positive").reshape(logits.shape)
    return float((((logits > 0) != expected) & (np.abs(logits) >= margin)).mean())
