"""The AVSBench-OV metric: one confusion matrix over all frames at 224 x 224.

Source: spec section 10 ("Metric") and pitfall 24 of the golden vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovavss.datasets.nearest_neighbor import nearest_pil_index, nearest_torch_index

EVALUATION_SIZE = 224


def resize_prediction(labels: NDArray[np.integer], size: int = EVALUATION_SIZE) -> NDArray[np.integer]:
    """Resize predicted label maps [..., H, W] to [..., size, size] by torch's nearest rule."""
    rows, columns = (nearest_torch_index(n, size) for n in labels.shape[-2:])
    return labels[..., rows[:, None], columns]


def resize_ground_truth(labels: NDArray[np.integer], size: int = EVALUATION_SIZE) -> NDArray[np.integer]:
    """Resize ground-truth label maps [..., H, W] to [..., size, size] by PIL's nearest rule."""
    rows, columns = (nearest_pil_index(n, size) for n in labels.shape[-2:])
    return labels[..., rows[:, None], columns]


def restrict_to_clip_labels(labels: NDArray[np.integer], clip_labels: Iterable[int]) -> NDArray[np.integer]:
    """Ground truth with every class that the clip's CSV label lacks turned into background 0."""
    return np.where(np.isin(labels, list(clip_labels)), labels, 0).astype(labels.dtype)


@dataclass(frozen=True)
class Scores:
    """Scores in [0, 1]; NaN where no class of the group occurs.

    Attributes:
        mean: mean IoU over all classes, background included.
        base: mean IoU of the base (seen) classes.
        novel: mean IoU of the novel (unseen) classes.
        harmonic: harmonic mean of base and novel, 0 where it is undefined.
        class_iou: float64 [num_classes], NaN for classes absent from both maps.
    """

    mean: float
    base: float
    novel: float
    harmonic: float
    class_iou: NDArray[np.float64]


def nanmean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN, without a warning, if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def harmonic_mean(base: float, novel: float) -> float:
    """2 / (1/base + 1/novel), or 0 where that is undefined (one of them is 0 or NaN)."""
    return 2.0 / (1.0 / base + 1.0 / novel) if base > 0 and novel > 0 else 0.0


class ConfusionMatrix:
    """Accumulates pixels over frames and gives the IoU measures.

    Args:
        num_classes: number of classes with background as class 0 (71 on AVSBench-OV).

    Attributes:
        counts: int64 [num_classes, num_classes], rows = ground truth, columns = prediction.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, ground_truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Add pixels of two label maps of one shape, any integer dtype.

        Raises:
            ValueError: the shapes differ, or a label is outside 0 ... num_classes - 1.
        """
        if ground_truth.shape != prediction.shape:
            raise ValueError(f"ground truth {ground_truth.shape} and prediction {prediction.shape} differ in shape")
        for what, labels in (("ground truth", ground_truth), ("prediction", prediction)):
            if labels.size and (labels.min() < 0 or labels.max() >= self.num_classes):
                raise ValueError(f"{what} has a label outside 0 to {self.num_classes - 1}")
        flat = ground_truth.astype(np.int64).ravel() * self.num_classes + prediction.astype(np.int64).ravel()
        self.counts += np.bincount(flat, minlength=self.num_classes**2).reshape(self.counts.shape)

    def update_clip(
        self,
        ground_truth: NDArray[np.integer],
        prediction: NDArray[np.integer],
        clip_labels: Iterable[int],
        size: int = EVALUATION_SIZE,
    ) -> None:
        """Add the frames of one clip as the published evaluation does.

        Args:
            ground_truth: [T, H, W] label maps at any size; resized by PIL's rule, then restricted to `clip_labels`.
            prediction: [T, H', W'] label maps at any size; resized by torch's rule.
            clip_labels: class ids of the clip's row in metadata.csv.
            size: side of the evaluation grid, pixels.

        Raises:
            ValueError: as `update`.
        """
        wanted = restrict_to_clip_labels(resize_ground_truth(ground_truth, size), clip_labels)
        self.update(wanted, resize_prediction(prediction, size))

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix over the same classes, for instance that of another process."""
        self.counts += other.counts

    def class_iou(self) -> NDArray[np.float64]:
        """TP / (row + column - TP) of each class, float64 [num_classes]; NaN where the class is in neither map."""
        hit = np.diag(self.counts)
        union = self.counts.sum(1) + self.counts.sum(0) - hit
        return np.divide(hit, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def scores(self, base_ids: Sequence[int], novel_ids: Sequence[int]) -> Scores:
        """The four published measures. `base_ids` and `novel_ids` do not hold background 0."""
        iou = self.class_iou()
        base, novel = (nanmean(iou[np.asarray(ids, dtype=np.int64)]) for ids in (base_ids, novel_ids))
        return Scores(nanmean(iou), base, novel, harmonic_mean(base, novel), iou)
