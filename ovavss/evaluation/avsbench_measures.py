"""The AVSBench S4 / MS3 measures on soft masks: mIoU and F-score.

Source: `spec/openavs.md` ("Metrics"). That page does not say over what the maximum of the F-score runs; as in
AVSBench's evaluation, which takes one clip at a time, the F curve is averaged over the frames of a clip, its maximum
over the thresholds is the clip's F, and the score is the mean over clips.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETA_SQUARED = 0.3
THRESHOLDS: NDArray[np.float64] = np.linspace(0.0, 1.0 - 1e-10, 255)


def frame_iou(soft: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """IoU of one frame at probability > 0.5.

    Args:
        soft: float [H, W], probabilities in [0, 1].
        mask: bool [H, W], ground truth.

    Returns:
        The IoU in [0, 1]; for an empty ground truth the IoU of the background.
    """
    hard = soft > 0.5
    if not mask.any():
        return 1.0 - float(hard.mean())
    return float((hard & mask).sum() / (hard | mask).sum())


def f_curve(soft: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F-score, beta^2 = 0.3, of one frame at each of the 255 thresholds (soft >= threshold).

    Arguments as in `frame_iou`, but the ground truth is not empty. Returns float64 [255]; 0 where precision and recall
    are both 0.
    """
    # Number of thresholds that each pixel passes; a reversed cumulative histogram then counts pixels per threshold.
    passed = np.searchsorted(THRESHOLDS, soft.ravel(), side="right")
    bins = len(THRESHOLDS) + 1

    def kept(levels: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.bincount(levels, minlength=bins)[::-1].cumsum()[::-1][1:]

    positive, hit = kept(passed), kept(passed[mask.ravel()])
    # (1 + b) P R / (b P + R) with P = hit / positive and R = hit / area.
    return (1.0 + BETA_SQUARED) * hit / (BETA_SQUARED * mask.sum() + positive)


class AvsbenchMeasures:
    """Accumulates S4 / MS3 clips.

    mIoU is the mean of `frame_iou` over all frames. For the F-score frames with an empty ground truth are skipped.
    """

    def __init__(self) -> None:
        self._ious: list[float] = []
        self._clip_f: list[float] = []

    def update(self, soft: ArrayLike, masks: ArrayLike) -> None:
        """Add one clip.

        Args:
            soft: float [T, H, W], probabilities in [0, 1] (after the sigmoid).
            masks: bool or 0/1 [T, H, W], ground truth.

        Raises:
            ValueError: the shapes differ or are not [T, H, W], or a probability is outside [0, 1] or NaN.
        """
        predicted, wanted = np.asarray(soft), np.asarray(masks).astype(bool)
        if predicted.shape != wanted.shape or predicted.ndim != 3:
            raise ValueError(f"masks {predicted.shape} and ground truth {wanted.shape} are not both [T, H, W]")
        if not ((predicted >= 0) & (predicted <= 1)).all():
            raise ValueError("soft masks are probabilities in [0, 1]; apply the sigmoid first")
        self._ious += [frame_iou(p, m) for p, m in zip(predicted, wanted)]
        curves = [f_curve(p, m) for p, m in zip(predicted, wanted) if m.any()]
        if curves:
            self._clip_f.append(float(np.mean(curves, axis=0).max()))

    def miou(self) -> float:
        """Mean IoU in [0, 1]; NaN before the first frame."""
        return float(np.mean(self._ious)) if self._ious else math.nan

    def f_score(self) -> float:
        """F-score in [0, 1]; NaN if no frame had a ground truth."""
        return float(np.mean(self._clip_f)) if self._clip_f else math.nan
