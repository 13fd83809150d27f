"""The AVSBench-OV metric (golden 09) and the S4 / MS3 measures."""

import math
import re

import numpy as np
import pytest
import torch
from golden_set import load
from PIL import Image

from ovavss.datasets.nearest_neighbor import nearest_pil_index, nearest_torch_index
from ovavss.evaluation.avsbench_measures import THRESHOLDS, AvsbenchMeasures, f_curve, frame_iou
from ovavss.evaluation.metric import (
    ConfusionMatrix,
    resize_ground_truth,
    resize_prediction,
    restrict_to_clip_labels,
)


@pytest.mark.golden
def test_golden_nearest_indices() -> None:
    file = load("09_metric")
    keys = [key for key in file if key.startswith("nearest_")]
    assert keys
    for key in keys:
        match = re.fullmatch(r"nearest_(torch|pil)_(\d+)_to_(\d+)", key)
        assert match, key
        index = nearest_torch_index if match[1] == "torch" else nearest_pil_index
        assert (index(int(match[2]), int(match[3])) == file[key]).all(), key


@pytest.mark.golden
def test_golden_confusion_and_means() -> None:
    file = load("09_metric")
    cases = [key.removesuffix("__confusion") for key in file if key.endswith("__confusion")]
    assert cases
    for case in cases:
        expected = file[f"{case}__confusion"]
        matrix = ConfusionMatrix(len(expected))
        for gt, pred in zip(file[f"{case}__gt"], file[f"{case}__pred"], strict=True):
            matrix.update(gt, pred)
        assert (matrix.counts == expected).all(), case
        scores = matrix.scores(file["seen_ids"], file["unseen_ids"])
        np.testing.assert_allclose(scores.class_iou, file[f"{case}__class_iou"], rtol=0, atol=1e-12, equal_nan=True)
        means = [scores.mean, scores.base, scores.novel, scores.harmonic]
        np.testing.assert_allclose(
            means, file[f"{case}__miou_all_seen_unseen_harmonic"], rtol=0, atol=1e-12, equal_nan=True, err_msg=case
        )


@pytest.mark.parametrize("size", [224, 96])
def test_nearest_rules_are_those_of_torch_and_pil(size: int) -> None:
    for source in [1, 7, 95, 96, 223, 225, *range(300, 1400, 7)]:
        ramp = np.arange(source, dtype=np.int32)
        # The label maps go through torch in float32; float64 input would also be scaled in float64.
        torch_index = torch.nn.functional.interpolate(torch.from_numpy(ramp)[None, None].float(), size, mode="nearest")
        assert (nearest_torch_index(source, size) == torch_index[0, 0].long().numpy()).all(), source
        pil_index = np.asarray(Image.fromarray(ramp[None]).resize((size, 1), Image.Resampling.NEAREST))[0]
        assert (nearest_pil_index(source, size) == pil_index).all(), source


def test_resizes_act_on_the_last_two_axes() -> None:
    labels = np.random.default_rng(0).integers(0, 71, (2, 37, 53)).astype(np.uint8)
    for t in range(2):
        expected = Image.fromarray(labels[t]).resize((224, 224), Image.Resampling.NEAREST)
        assert (resize_ground_truth(labels)[t] == np.asarray(expected)).all()
    expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None].float(), (224, 224), mode="nearest")
    assert (resize_prediction(labels) == expected[0].numpy()).all()


def test_small_confusion_by_hand() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]]))
    iou = matrix.class_iou()
    assert iou[:3].tolist() == [1 / 2, 1 / 3, 0.0]  # predicted but absent counts 0
    assert math.isnan(iou[3])  # in neither map
    scores = matrix.scores([1], [2, 3])
    assert (scores.mean, scores.base, scores.novel, scores.harmonic) == (pytest.approx(5 / 18), 1 / 3, 0.0, 0.0)
    other = ConfusionMatrix(4)
    other.update(np.array([3]), np.array([3]))
    matrix.merge(other)
    scores = matrix.scores([1], [2, 3])
    assert (scores.novel, scores.harmonic) == (0.5, pytest.approx(0.4))
    assert math.isnan(ConfusionMatrix(4).scores([1], [2]).mean)


def test_ground_truth_is_restricted_to_the_clip_labels() -> None:
    gt = np.array([[[0, 1], [2, 3]]], dtype=np.uint8)
    assert restrict_to_clip_labels(gt, (1, 3)).tolist() == [[[0, 1], [0, 3]]]
    assert restrict_to_clip_labels(gt, ()).tolist() == [[[0, 0], [0, 0]]]
    matrix = ConfusionMatrix(4)
    matrix.update_clip(gt, np.full((1, 4, 4), 2, np.uint8), (1, 3), size=8)
    expected = np.zeros((4, 4), int)
    expected[[0, 1, 3], 2] = [32, 16, 16]
    assert (matrix.counts == expected).all()


def test_bad_label_maps() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="differ in shape"):
        matrix.update(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="prediction has a label outside 0 to 2"):
        matrix.update(np.zeros(2, int), np.array([0, 3]))
    with pytest.raises(ValueError, match="ground truth has a label outside 0 to 2"):
        matrix.update(np.array([-1, 0]), np.zeros(2, int))
    assert matrix.counts.sum() == 0


def soft_and_mask(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 20, 30)) < 0.3
    soft = np.clip(0.35 * mask + 0.65 * rng.random(mask.shape), 0, 1).astype(np.float32)
    soft[:, 0] = mask[:, 0]  # exact 0 and 1
    return soft, mask


def test_f_curve_against_the_definition() -> None:
    soft, mask = soft_and_mask()
    assert len(THRESHOLDS) == 255
    expected = []
    for threshold in THRESHOLDS:
        hard = soft[0] >= threshold
        precision, recall = (hard & mask[0]).sum() / max(hard.sum(), 1), (hard & mask[0]).sum() / mask[0].sum()
        below = 0.3 * precision + recall
        expected.append(1.3 * precision * recall / below if below else 0.0)
    np.testing.assert_allclose(f_curve(soft[0], mask[0]), expected, rtol=0, atol=1e-12)
    assert (f_curve(np.zeros((3, 3), np.float32), np.eye(3, dtype=bool))[1:] == 0).all()


def test_frame_iou() -> None:
    soft = np.array([[0.9, 0.6], [0.5, 0.1]])
    assert frame_iou(soft, np.array([[True, False], [True, False]])) == pytest.approx(1 / 3)  # 0.5 is not above 0.5
    assert frame_iou(soft, np.zeros((2, 2), bool)) == 0.5  # background IoU
    assert frame_iou(np.zeros((2, 2)), np.zeros((2, 2), bool)) == 1.0


def test_avsbench_measures_over_clips() -> None:
    measures = AvsbenchMeasures()
    assert math.isnan(measures.miou()) and math.isnan(measures.f_score())
    soft, mask = soft_and_mask()
    mask[1] = False  # counts for the IoU, not for F
    measures.update(soft, mask)
    measures.update(mask[[0]].astype(np.float32), mask[[0]].astype(np.uint8))
    measures.update(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))  # no ground truth at all
    ious = [frame_iou(s, m) for s, m in zip(soft, mask)]
    assert measures.miou() == pytest.approx((sum(ious) + 1 + 2) / 7)
    curve = np.mean([f_curve(soft[t], mask[t]) for t in (0, 2, 3)], axis=0)
    assert measures.f_score() == pytest.approx((curve.max() + 1) / 2)


def test_avsbench_measures_want_probabilities() -> None:
    with pytest.raises(ValueError, match="apply the sigmoid first"):
        AvsbenchMeasures().update(np.full((1, 2, 2), 3.0), np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="apply the sigmoid first"):
        AvsbenchMeasures().update(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="are not both"):
        AvsbenchMeasures().update(np.ones((1, 2, 2)), np.ones((2, 2)))
