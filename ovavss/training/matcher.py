"""Hungarian matching of queries to target instances, and the point sampling it shares with the loss.

Source: spec section 9 ("Loss") and pitfall 23 of the golden vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

MaskLoss = Literal["bce", "focal"]
Rand = Callable[[tuple[int, ...]], Tensor]
"""Called with a shape, returns numbers in [0, 1); every random draw of matcher and criterion goes through one."""

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
# Stands in for a cost that is not finite: an overflow must reach the loss (where the gradient scaler skips the step).
_WORST_COST = 1e6


@dataclass
class ClipTarget:
    """Ground truth of one clip.

    Attributes:
        masks: float or bool [n, T, H, W], 0/1, at the full padded resolution of the model's input; n may be 0.
        first_frame_only: the clip is of the v1s subset, so only frame 0 is matched and supervised.
    """

    masks: Tensor
    first_frame_only: bool = False

    def supervised(self) -> Tensor:
        """The supervised frames of `masks`: a view [n, T', H, W] with T' = 1 or T."""
        return self.masks[:, :1] if self.first_frame_only else self.masks


def torch_rand(device: torch.device) -> Rand:
    """The default source of random draws: torch's global generator of `device`, float32."""
    return lambda shape: torch.rand(shape, device=device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points (align_corners=False, zeros outside).

    Args:
        maps: float [R, C, H, W].
        points: float [R, P, 2], (x, y) in [0, 1].

    Returns:
        float [R, C, P].
    """
    grid = (2.0 * points - 1.0).unsqueeze(2)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)


def pairwise_mask_cost(logits: Tensor, targets: Tensor, kind: MaskLoss) -> Tensor:
    """Mean binary cross-entropy (or focal loss) of every prediction against every target.

    Args:
        logits: float [N, M].
        targets: float [n, M], in [0, 1].
        kind: "bce" or "focal".

    Returns:
        float [N, n].
    """
    if kind == "bce":
        # -log sigmoid(x) = softplus(x) - x, so the cost is linear in the target: no [N, n, M] tensor.
        cost = F.softplus(logits).sum(1, keepdim=True) - logits @ targets.T
    else:
        p = logits.sigmoid()
        positive = FOCAL_ALPHA * (1.0 - p) ** FOCAL_GAMMA * F.softplus(-logits)
        negative = (1.0 - FOCAL_ALPHA) * p**FOCAL_GAMMA * F.softplus(logits)
        cost = negative.sum(1, keepdim=True) + (positive - negative) @ targets.T
    return cost / logits.shape[1]


def pairwise_dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum p + sum t + 1) of every prediction against every target.

    Args:
        logits: float [N, M].
        targets: float [n, M], in [0, 1].

    Returns:
        float [N, n].
    """
    p = logits.sigmoid()
    return 1.0 - (2.0 * (p @ targets.T) + 1.0) / (p.sum(1, keepdim=True) + targets.sum(1) + 1.0)


class HungarianMatcher(nn.Module):
    """One-to-one assignment of queries to instances, clip by clip.

    Cost = w_class * (-p(sounding)) + w_mask * BCE + w_dice * dice, where all queries, instances and frames share one
    random point set, BCE is the mean over T x P values and dice is taken over the T x P values jointly (published).
    With `mask_loss="focal"` the focal loss replaces BCE in the cost as well (the paper does not say).

    Args:
        num_points: P.
        weights: (class, mask, dice).
        mask_loss: "bce" (published code) or "focal" (paper).
    """

    def __init__(
        self,
        num_points: int = 12544,
        weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
        mask_loss: MaskLoss = "bce",
    ) -> None:
        super().__init__()
        self.num_points = num_points
        self.weights = weights
        self.mask_loss: MaskLoss = mask_loss

    @torch.no_grad()
    def cost(self, sound_logits: Tensor, mask_logits: Tensor, masks: Tensor, points: Tensor) -> Tensor:
        """The cost matrix of one clip.

        Args:
            sound_logits: float [N, 2]; class 0 is "sounding".
            mask_logits: float [N, T, h, w], the supervised frames only.
            masks: float or bool [n, T, H, W], the same frames, n >= 1.
            points: float [1, P, 2], (x, y) in [0, 1).

        Returns:
            float32 [N, n].
        """
        # Frames are the batch and masks the channels of one image, so the shared points need no copy of the maps.
        shared = points.expand(mask_logits.shape[1], -1, -1)
        predicted = sample_points(mask_logits.transpose(0, 1).float(), shared).transpose(0, 1).flatten(1)
        wanted = sample_points(masks.transpose(0, 1).float(), shared).transpose(0, 1).flatten(1)
        w_class, w_mask, w_dice = self.weights
        cost = -w_class * sound_logits.float().softmax(-1)[:, :1]
        cost = cost + w_mask * pairwise_mask_cost(predicted, wanted, self.mask_loss)
        return cost + w_dice * pairwise_dice_cost(predicted, wanted)

    @torch.no_grad()
    def forward(
        self, sound_logits: Tensor, mask_logits: Tensor, targets: list[ClipTarget], rand: Rand | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Match every clip of the batch.

        Args:
            sound_logits: float [B, N, 2].
            mask_logits: float [B, N, T, h, w].
            targets: one `ClipTarget` a clip. A clip without instances draws no random number.
            rand: source of random draws; one draw of shape (1, P, 2) a clip.

        Returns:
            A list over B of (query indices, instance indices), int64 [min(N, n)] on the CPU, ascending in the query.
        """
        draw = rand or torch_rand(mask_logits.device)
        matches = []
        for b, target in enumerate(targets):
            masks = target.supervised()
            if masks.shape[0] == 0:
                empty = torch.empty(0, dtype=torch.int64)
                matches.append((empty, empty))
                continue
            points = draw((1, self.num_points, 2)).to(mask_logits.device, torch.float32)
            with torch.autocast(mask_logits.device.type, enabled=False):
                cost = self.cost(sound_logits[b], mask_logits[b, :, : masks.shape[1]], masks, points)
            cost = cost.nan_to_num(nan=_WORST_COST, posinf=_WORST_COST, neginf=-_WORST_COST).cpu()
            query, instance = linear_sum_assignment(cost.numpy())
            matches.append((torch.from_numpy(query).long(), torch.from_numpy(instance).long()))
        return matches
