"""The set criterion of OV-AVSS: class, mask and dice losses on ten predictions.

Source: spec section 9 ("Loss") and pitfall 23 of the golden vectors. "Published" is what the public code does;
where the paper differs it is said.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ovavss.training.matcher import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    ClipTarget,
    HungarianMatcher,
    MaskLoss,
    Rand,
    sample_points,
    torch_rand,
)

__all__ = ["ClipTarget", "SetCriterion"]

Match = list[tuple[Tensor, Tensor]]


class SetCriterion(nn.Module):
    """Hungarian-matched losses of the ten heads.

    For each head: 2-way cross-entropy with weights (1, `no_object_weight`), a weighted mean over all queries; and,
    over the rows (matched instance, frame), the mean mask loss and the dice loss at `num_points` points a row, summed
    over rows and divided by the number of instances. The sum therefore grows with T, and a frame where an instance is
    absent counts (both published). Clips of the v1s subset are supervised on frame 0 only.

    Published is one clip a step. For B > 1 the class loss is the weighted mean over all B x N queries and the other
    two are divided by the number of instances of the whole batch, at least 1, averaged over ranks when
    `torch.distributed` is initialized; for one clip with an instance that is the published value.

    Args:
        num_points: points a row.
        oversample_ratio: candidates drawn a point for importance sampling.
        importance_sample_ratio: share of the points taken where |logit| is smallest; 0 skips that step, and then the
            points of a row are one plain random draw.
        no_object_weight: class weight of "not sounding".
        loss_weights: (class, mask, dice), for `total` and for the matching costs.
        mask_loss: "bce" (published code) or "focal" (paper; alpha 0.25, gamma 2), in loss and matching.

    Buffers:
        empty_weight: float32 [2], as `criterion.empty_weight` of the published checkpoints.
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        no_object_weight: float = 0.1,
        loss_weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
        mask_loss: MaskLoss = "bce",
    ) -> None:
        super().__init__()
        if mask_loss not in ("bce", "focal"):
            raise ValueError(f"mask_loss is 'bce' or 'focal', not {mask_loss!r}")
        if num_points < 1 or oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError("num_points and oversample_ratio are at least 1, importance_sample_ratio is in [0, 1]")
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.loss_weights = loss_weights
        self.mask_loss: MaskLoss = mask_loss
        self.matcher = HungarianMatcher(num_points, loss_weights, mask_loss)
        self.register_buffer("empty_weight", torch.tensor([1.0, no_object_weight]))

    def forward(
        self, outputs: Sequence[tuple[Tensor, Tensor]], targets: list[ClipTarget], rand: Rand | None = None
    ) -> dict[str, Tensor]:
        """All losses, unweighted.

        Args:
            outputs: (sound_logits [B, N, 2], mask_logits [B, N, T, h, w]) of every head, the FINAL prediction first,
                then aux 0 (before layer 0) to aux 8. Float of any precision; the losses are computed in float32.
            targets: one `ClipTarget` a clip, on the device of the outputs. Clips without instances are allowed: they
                add to the class loss only.
            rand: source of random draws in [0, 1), default torch's global generator. Draws for each head in the
                order of `outputs`: the matcher's (1, P, 2) for every clip with an instance; then, if the batch has a
                row, (rows, int(P * oversample), 2) and (rows, P - int(ratio * P), 2), or a single (rows, P, 2) when
                importance sampling is off. The last axis is (x, y). Rows are clip-major, then by ascending matched
                query, then by frame.

        Returns:
            float32 scalars `loss_ce`, `loss_mask`, `loss_dice` (final) and the same with suffix `_0` to `_8`.

        Raises:
            ValueError: the batch size of outputs and targets differs.
        """
        for _, mask_logits in outputs:
            if mask_logits.shape[0] != len(targets):
                raise ValueError(f"{mask_logits.shape[0]} predictions but {len(targets)} targets")
        device = outputs[0][1].device
        draw = rand or torch_rand(device)
        instances = self._instance_count(targets, device)
        losses: dict[str, Tensor] = {}
        # Half precision would lose the point losses' sums over thousands of points.
        with torch.autocast(device.type, enabled=False):
            for i, (sound_logits, mask_logits) in enumerate(outputs):
                suffix = "" if i == 0 else f"_{i - 1}"
                match = self.matcher(sound_logits, mask_logits, targets, draw)
                loss_mask, loss_dice = self._mask_losses(mask_logits, targets, match, draw)
                losses["loss_ce" + suffix] = self._class_loss(sound_logits, match)
                losses["loss_mask" + suffix] = loss_mask / instances
                losses["loss_dice" + suffix] = loss_dice / instances
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `forward` returned: a scalar to call `backward` on."""
        weights = dict(zip(("ce", "mask", "dice"), self.loss_weights, strict=True))
        return torch.stack([weights[name.split("_")[1]] * value for name, value in losses.items()]).sum()

    def _class_loss(self, sound_logits: Tensor, match: Match) -> Tensor:
        labels = torch.ones(sound_logits.shape[:2], dtype=torch.int64)
        for b, (query, _) in enumerate(match):
            labels[b, query] = 0
        labels = labels.to(sound_logits.device)
        return F.cross_entropy(sound_logits.float().flatten(0, 1), labels.flatten(), self.empty_weight)

    def _mask_losses(
        self, mask_logits: Tensor, targets: list[ClipTarget], match: Match, draw: Rand
    ) -> tuple[Tensor, Tensor]:
        """Sums over rows of the mask loss and the dice loss."""
        predicted, wanted = [], []
        for b, (query, instance) in enumerate(match):
            if len(query) == 0:
                continue
            masks = targets[b].supervised()
            # [n, T, h, w] -> one row per (instance, frame); only matched queries are gathered.
            rows = mask_logits[b, query.to(mask_logits.device), : masks.shape[1]]
            predicted.append(rows.flatten(0, 1).unsqueeze(1).float())
            wanted.append(masks[instance.to(masks.device)].flatten(0, 1).unsqueeze(1).float())
        if not predicted:
            # A zero that still hangs on the graph (DDP wants a gradient for every parameter), safe against inf * 0.
            zero = mask_logits[:, :0].float().sum()
            return zero, zero
        logits = torch.cat(predicted)
        with torch.no_grad():
            points = self._choose_points(logits, draw)
            # Clips may differ in padded size, so their targets are sampled one clip at a time.
            chunks = points.split([len(rows) for rows in wanted])
            labels = torch.cat([sample_points(rows, p) for rows, p in zip(wanted, chunks, strict=True)]).squeeze(1)
        sampled = sample_points(logits, points).squeeze(1)
        loss_mask = self._pointwise(sampled, labels).mean(1).sum()
        p = sampled.sigmoid()
        loss_dice = (1.0 - (2.0 * (p * labels).sum(1) + 1.0) / (p.sum(1) + labels.sum(1) + 1.0)).sum()
        return loss_mask, loss_dice

    def _choose_points(self, logits: Tensor, draw: Rand) -> Tensor:
        """Points [R, P, 2] for rows [R, 1, h, w]: the least certain of an oversampled draw, and new random ones."""
        rows = logits.shape[0]

        def random_points(count: int) -> Tensor:
            return draw((rows, count, 2)).to(logits.device, torch.float32)

        certain = int(self.importance_sample_ratio * self.num_points)
        if certain == 0:
            return random_points(self.num_points)
        candidates = random_points(int(self.num_points * self.oversample_ratio))
        distance = sample_points(logits, candidates).squeeze(1).abs()
        index = distance.topk(certain, dim=1, largest=False, sorted=False).indices
        chosen = candidates.gather(1, index.unsqueeze(2).expand(-1, -1, 2))
        if certain == self.num_points:
            return chosen
        return torch.cat([chosen, random_points(self.num_points - certain)], dim=1)

    def _pointwise(self, logits: Tensor, labels: Tensor) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self.mask_loss == "bce":
            return bce
        p = logits.sigmoid()
        agreement = p * labels + (1.0 - p) * (1.0 - labels)
        alpha = FOCAL_ALPHA * labels + (1.0 - FOCAL_ALPHA) * (1.0 - labels)
        return alpha * (1.0 - agreement) ** FOCAL_GAMMA * bce

    @staticmethod
    def _instance_count(targets: list[ClipTarget], device: torch.device) -> Tensor:
        count = torch.tensor(float(sum(t.masks.shape[0] for t in targets)), device=device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            count = count / dist.get_world_size()
        return count.clamp(min=1.0)
