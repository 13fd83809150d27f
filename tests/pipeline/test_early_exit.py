"""How often CLIP looks: who is asked, in which order, and when a name is sure."""

import pytest
import torch
from torch import Tensor

from ovavss.models.ov_avss.mask_crop import Regions
from ovavss.pipeline.early_exit import CropRequests, all_crops, early_exit

# Two names. With the scale of 100, a cosine apart by 0.05 is a probability of 0.993, by 0.01 of 0.73.
VOCABULARY = torch.eye(2)
SURE, UNSURE, OTHER = (torch.tensor(v) for v in ([0.55, 0.5], [0.51, 0.5], [0.5, 0.6]))


def regions_of(queries: int, frames: int, confidence: Tensor | None = None, area: Tensor | None = None) -> Regions:
    """Every query in every frame, frame by frame."""
    frame = torch.arange(frames).repeat_interleave(queries)
    query = torch.arange(queries).repeat(frames)
    ones = torch.ones(len(frame))
    confidence = ones if confidence is None else confidence
    return Regions(frame, query, torch.zeros(len(frame), 4), confidence, 50 * ones if area is None else area)


def drive(looking: CropRequests, embeddings: Tensor) -> tuple[list[list[int]], Tensor, Tensor]:
    """Answers with the rows of `embeddings`; what was asked, and what came of it."""
    asked: list[list[int]] = []
    answer = None
    while True:
        try:
            asked.append(looking.send(answer))  # type: ignore[arg-type]
        except StopIteration as end:
            return asked, *end.value
        answer = embeddings[asked[-1]]


def masks(queries: int, frames: int) -> Tensor:
    """Each query has a row of its own."""
    logits = torch.full((queries, frames, queries, 8), -1.0)
    for query in range(queries):
        logits[query, :, query] = 1.0
    return logits


def until_sure(regions: Regions, embeddings: Tensor, **changed: Tensor) -> tuple[list[list[int]], Tensor, Tensor]:
    queries, frames = int(regions.query.max()) + 1, int(regions.frame.max()) + 1
    count = len(regions)
    given = {"mask_logits": masks(queries, frames), "sound_scores": torch.ones(queries)}
    given |= {"crop_index": torch.arange(count), "views": torch.zeros(count, 3, 8, 8)} | changed
    return drive(early_exit(regions=regions, vocabulary=VOCABULARY, confidence_threshold=0.9, **given), embeddings)


def test_all_at_once() -> None:
    regions, crop_index = regions_of(2, 2), torch.tensor([0, 0, 1, 2])
    asked, query, found = drive(all_crops(regions, crop_index), torch.arange(3.0)[:, None])
    assert asked == [[0, 1, 2]] and query.tolist() == [0, 1, 0, 1] and found.tolist() == [[0], [0], [1], [2]]


def test_only_who_is_unsure_is_asked_again() -> None:
    regions = regions_of(2, 3)
    asked, query, found = until_sure(regions, torch.stack([SURE, UNSURE, SURE, UNSURE, SURE, SURE]))
    assert asked == [[0, 1], [3], [5]]  # query 1 in all its frames
    assert query.tolist() == [0, 1, 1, 1] and torch.equal(found, torch.stack([SURE, UNSURE, UNSURE, SURE]))


def test_frames_that_contradict_are_not_sure() -> None:
    """The mean of the frames counts, not the last of them."""
    asked, *_ = until_sure(regions_of(1, 3), torch.stack([UNSURE, torch.tensor([0.46, 0.5]), SURE]))
    assert asked == [[0], [1], [2]]


def test_confident_frames_come_first_then_large_ones() -> None:
    unsure = UNSURE.expand(3, 2)
    asked, *_ = until_sure(regions_of(1, 3, torch.tensor([0.6, 0.9, 0.8])), unsure)
    assert asked == [[1], [2], [0]]
    asked, *_ = until_sure(regions_of(1, 3, area=torch.tensor([5.0, 90.0, 40.0])), unsure)
    assert asked == [[1], [2], [0]]


def test_a_frame_unlike_those_seen_is_looked_at_however_sure_the_name() -> None:
    """Frames 0 and 2 show one thing, 1 and 3 another."""
    views = torch.tensor([0.0, 0.5, 0.02, 0.52])[:, None, None, None].expand(4, 3, 8, 8)
    asked, query, _ = until_sure(regions_of(1, 4), SURE.expand(4, 2), views=views)
    assert asked == [[0], [1]] and query.tolist() == [0, 0]
    asked, *_ = until_sure(regions_of(1, 4), UNSURE.expand(4, 2), views=views)
    assert asked == [[0], [1], [2], [3]]  # the others before those that are like one seen
    asked, *_ = until_sure(regions_of(1, 4), SURE.expand(4, 2), views=views / 2)  # alike enough
    assert asked == [[0]]


def test_a_shared_crop_is_seen_once() -> None:
    asked, query, found = until_sure(regions_of(2, 1), SURE[None], crop_index=torch.tensor([0, 0]))
    assert asked == [[0]] and query.tolist() == [0, 1] and torch.equal(found, torch.stack([SURE, SURE]))


@pytest.mark.parametrize(("covered", "first", "asked"), [
    (True, SURE, [[0]]),  # below a sure name: never looked at
    (True, UNSURE, [[0], [1]]),  # that name is not sure, so the faint query is asked after it
    (False, SURE, [[0], [1]]),
])  # fmt: skip
def test_faint_queries_wait_for_the_others(covered: bool, first: Tensor, asked: list[list[int]]) -> None:
    logits = masks(2, 1)
    if covered:
        logits[0] = 1.0
    scores = torch.tensor([0.9, 0.05])
    found, query, _ = until_sure(regions_of(2, 1), torch.stack([first, OTHER]), mask_logits=logits, sound_scores=scores)
    assert found == asked and query.tolist() == list(range(len(asked)))


def test_nothing_to_look_at() -> None:
    nothing = regions_of(1, 1).select(slice(0, 0))
    crop_index, views = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, 8, 8)
    looking = early_exit(masks(1, 1), torch.ones(1), nothing, crop_index, views, VOCABULARY, 0.9)
    asked, query, found = drive(looking, torch.zeros(0, 2))
    assert asked == [] and len(query) == 0 and found.shape == (0, 2)
