"""Sizes, seeds and schedules of everything that trains preset `tiny`; `tiny_stages` runs it."""

from dataclasses import dataclass, field

from ovavss.training.trainer import Recipe

LOCALIZER = Recipe(
    iterations=2700, batch=4, lr=7e-4, backbone_factor=0.5, max_grad_norm=1.0, schedule="cosine", warmup=200, hold=0.35,
    num_points=1024, no_object_weight=0.4, batch_norm="trained", ema=0.998, seed=1,
)  # fmt: skip


# Late in training the localizer grows sure of base combinations and unsure of novel ones, so the result is a mean of
# its averaged weights after this share of the iterations and at the end; the latter count for LATE_SHARE.
HALFWAY, LATE_SHARE = 10 / 19, 0.75


@dataclass(frozen=True)
class TinyRecipe:
    """Sizes of all stages.

    Seeds: `seed` for every stage and the world that the localizer sees, `crop_seed` for the world that CLIP sees;
    held-out figures use others. contrast: share of the localizer's clips that hear sounds chosen against what is seen.
    """

    seed: int = 1
    crop_seed: int = 2
    world_clips: int = 16_000
    audio_clips: int = 3_000
    audio_steps: int = 260
    backbone_steps: int = 700
    bank_mixtures: int = 1_600
    fusion_steps: int = 1_500
    contrast: float = 0.4
    crop_clips: int = 4_000
    clip_steps: int = 1_500
    adapt_clips: int = 12_000
    adapt_steps: int = 6_000
    localizer: Recipe = field(default_factory=lambda: LOCALIZER)
