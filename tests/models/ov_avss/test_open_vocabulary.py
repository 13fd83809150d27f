"""Boxes, crops, ranking, masks and the semantic map against the published model."""

import re
from typing import Any

import golden_set
import numpy as np
import pytest
import torch

from ovavss.models.ov_avss import open_vocabulary
from ovavss.models.ov_avss.mask_crop import Regions, crop_boxes, crop_regions, find_regions, square_boxes
from ovavss.models.ov_avss.presets import Crop

golden = pytest.mark.golden
FILE = "06_open_vocabulary"
SIZES: dict[str, Any] = golden_set.SET["frames"]
IMAGE = tuple(SIZES["image"])
ORIGINAL = tuple(SIZES["original"])


@pytest.fixture(scope="module")
def mask_logits() -> torch.Tensor:
    padded = SIZES["padded"]
    share = (padded[0] - IMAGE[0]) / padded[0]
    logits = golden_set.seeds.ov_mask_logits(golden_set.SALT, SIZES["T"], padded[0] // 4, padded[1] // 4, share)
    np.testing.assert_array_equal(logits, golden_set.load(FILE)["mask_logits"])
    return torch.from_numpy(logits)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.from_numpy(golden_set.load("00_inputs")["frames_u8"]).permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def regions(mask_logits: torch.Tensor) -> Regions:
    return find_regions(mask_logits)


@pytest.fixture(scope="module")
def crops(mask_logits: torch.Tensor, frames: torch.Tensor, regions: Regions) -> torch.Tensor:
    return crop_regions(mask_logits, frames, IMAGE, regions, 224)


@golden
def test_boxes(regions: Regions) -> None:
    file = golden_set.load(FILE)
    assert torch.stack([regions.frame, regions.query], 1).tolist() == file["frame_query"].tolist()
    assert regions.boxes.tolist() == file["tight_boxes_xyxy"].tolist()
    assert square_boxes(regions.boxes).tolist() == file["square_boxes_xyxy"].tolist()


@golden
def test_crops(regions: Regions, crops: torch.Tensor) -> None:
    file = golden_set.load(FILE)
    assert golden_set.errors(file, "clip_input", crops).max() < 1e-4
    full = [key for key in file if key.startswith("clip_input_full_")]
    assert full
    for key in full:
        frame, query = map(int, re.findall(r"\d+", key))
        index = int(((regions.frame == frame) & (regions.query == query)).nonzero())
        assert golden_set.errors(file, key, crops[index]).max() < 1e-4
    stats = torch.stack([crops.mean((1, 2, 3)), crops.flatten(1).std(1, correction=0), crops.abs().amax((1, 2, 3))], 1)
    assert golden_set.errors(file, "clip_input_stats_per_crop", stats).max() < 1e-4


def rank(
    crops: torch.Tensor, regions: Regions, top_k: int
) -> tuple[torch.Tensor, torch.Tensor, open_vocabulary.Ranking]:
    image = torch.from_numpy(golden_set.seeds.ov_embed(crops.numpy(), golden_set.SALT))
    text = torch.from_numpy(golden_set.seeds.ov_text(golden_set.SALT))
    logits = open_vocabulary.similarity(image, text)
    ids, probabilities = open_vocabulary.class_probabilities(logits, regions.query)
    assert golden_set.errors(golden_set.load(FILE), "sim_logits", logits).max() < 1e-3
    return ids, probabilities, open_vocabulary.rank(ids, probabilities, top_k)


@golden
def test_ranking(crops: torch.Tensor, regions: Regions) -> None:
    file = golden_set.load(FILE)
    ids, probabilities, ranking = rank(crops, regions, 10)
    assert ids.tolist() == file["valid_query_ids"].tolist()
    assert golden_set.errors(file, "softmax", probabilities).max() < 1e-4
    expected = set(zip(file["top10_query"].tolist(), file["top10_label"].tolist()))
    assert set(zip(ranking.query.tolist(), ranking.label.tolist())) == expected
    np.testing.assert_allclose(ranking.score.numpy(), file["top10_score"], atol=1e-4)
    twelve = open_vocabulary.rank(ids, probabilities, 12).score.numpy()
    np.testing.assert_allclose(twelve, file["top12_scores"], atol=1e-4)


@golden
def test_masks_and_semantic_map(mask_logits: torch.Tensor, crops: torch.Tensor, regions: Regions) -> None:
    file = golden_set.load(FILE)
    _, _, ranking = rank(crops, regions, 10)
    masks = open_vocabulary.full_size_masks(mask_logits, ranking.query, IMAGE, ORIGINAL)
    expected = dict(
        zip(zip(file["top10_query"].tolist(), file["top10_label"].tolist()), golden_set.bits(file, "final_masks"))
    )
    for query, label, mask in zip(ranking.query.tolist(), ranking.label.tolist(), masks.numpy()):
        assert (mask != expected[query, label]).sum() <= 20, (query, label)
    thresholds = [key[3:6] for key in file if key.startswith("thr") and key.endswith("__merged_map")]
    assert thresholds
    for threshold in thresholds:
        merged = open_vocabulary.semantic_map(masks, ranking, int(threshold) / 100).numpy()
        assert (merged != file[f"thr{threshold}__merged_map"]).sum() <= 50
        kept = sorted(
            label
            for label, score in zip(ranking.label.tolist(), ranking.score.tolist())
            if score > int(threshold) / 100
        )
        assert kept == sorted(file[f"thr{threshold}__kept_labels_sorted"].tolist())


@golden
def test_half_precision_reference_is_close(crops: torch.Tensor) -> None:
    assert golden_set.errors(golden_set.load(FILE), "half_autocast__clip_input", crops).max() < 6e-3


def test_nothing_is_valid() -> None:
    empty = torch.full((3, 5, 8, 12), -4.0)
    regions = find_regions(empty)
    assert len(regions) == 0
    ids, probabilities = open_vocabulary.class_probabilities(torch.zeros(0, 7), regions.query)
    ranking = open_vocabulary.rank(ids, probabilities)
    masks = open_vocabulary.full_size_masks(empty, ranking.query, (32, 48), (60, 90))
    assert open_vocabulary.semantic_map(masks, ranking).shape == (5, 60, 90)
    assert not open_vocabulary.semantic_map(masks, ranking).any()


@golden
def test_some_queries_only(mask_logits: torch.Tensor, regions: Regions) -> None:
    some = find_regions(mask_logits, torch.tensor([7, 0]))
    for query in (0, 7):
        assert some.boxes[some.query == query].tolist() == regions.boxes[regions.query == query].tolist()
    assert set(some.query.tolist()) == {0, 7}


def test_crop_strategies() -> None:
    boxes = torch.tensor([[10.0, 20.0, 40.0, 30.0]])
    assert crop_boxes(boxes, (50, 80), Crop.NONE, "top_left").tolist() == [[0, 0, 80, 50]]
    assert crop_boxes(boxes, (50, 80), Crop.CROP_RESIZE, "top_left").tolist() == boxes.tolist()
    assert crop_boxes(boxes, (50, 80), Crop.SQUARE, "top_left").tolist() == [[10, 20, 40, 50]]
    assert crop_boxes(boxes, (50, 80), Crop.SQUARE, "center").tolist() == [[10, 10, 40, 40]]
