"""What CLIP looks at: every crop of a clip at once, or a query's frames one after another until its name is sure.

A generator yields the crops to look at next, is sent their embeddings [n, D], and returns the regions that were looked
at with their embeddings. So several clips can be asked in turn, their crops in common batches.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from ovavss.models.ov_avss import open_vocabulary
from ovavss.models.ov_avss.mask_crop import Regions

CropRequests = Generator[list[int], Tensor, tuple[Tensor, Tensor]]
"""Returns the query of each region, int64 [m], and their embeddings, float32 [m, D]."""

# Frames of a query count as alike where their views differ by less than this, as a root mean square (black to white is
# 1): then they show the same object with the same outline.
THUMBNAIL_SIZE, MAX_VIEW_DISTANCE = 8, 0.3
# Queries with a lower sound score are faint: they wait for the others, and where this share of a faint one's mask lies
# in masks that have sure names it is not looked at. In the label map it could only fill what these leave open.
LOW_SOUND_SCORE, OCCLUDED_RATIO = 0.1, 0.5


def all_crops(regions: Regions, crop_index: Tensor) -> CropRequests:
    """All crops at once. `crop_index`: the crop of each region, int64 [n]."""
    count = int(crop_index.max()) + 1 if len(crop_index) else 0
    embeddings = yield list(range(count))
    return regions.query, embeddings[crop_index]


def early_exit(
    mask_logits: Tensor,
    sound_scores: Tensor,
    regions: Regions,
    crop_index: Tensor,
    views: Tensor,
    vocabulary: Tensor,
    confidence_threshold: float,
) -> CropRequests:
    """Classifies each query by one frame after another until its name is certain.

    That is when the name's probability is over `confidence_threshold`, or no frame is left.

    Frames with confident masks come first, large ones before small ones. A mask may lie on one object now and on
    another later, and each alone has a sure name: so a name is sure only when every frame is like one that was looked
    at. A name's probability is that of the published classification on the frames seen so far. mask_logits float32
    [N, T, h, w], sound_scores [N], views float32 [crops, ...]: each crop at `THUMBNAIL_SIZE`, vocabulary [K, D].
    """
    waiting, different = _unlike_first(_best_first(regions), views.flatten(1)[crop_index])
    faint = {query for query, score in enumerate(sound_scores.tolist()) if score < LOW_SOUND_SCORE} & waiting.keys()
    asking, later = [query for query in waiting if query not in faint], sorted(faint)
    crop_of, query_of = crop_index.tolist(), regions.query.tolist()
    seen: dict[int, Tensor] = {}  # embeddings by crop
    looked: list[int] = []
    named = torch.zeros_like(mask_logits[0], dtype=torch.bool)
    while asking or later:
        looked += [waiting[query].pop(0) for query in asking]
        if new := sorted({crop_of[region] for region in looked} - seen.keys()):
            seen.update(zip(new, (yield new)))
        unsure = []
        for query, probability in zip(asking, _best_probabilities(asking, looked, query_of, crop_of, seen, vocabulary)):
            different[query] -= 1
            if probability > confidence_threshold and different[query] <= 0:
                if query not in faint:
                    named |= mask_logits[query] > 0
            elif waiting[query]:
                unsure.append(query)
        asking = unsure + [query for query in later if not _is_covered(mask_logits[query] > 0, named)]
        later = []
    embeddings = [seen[crop_of[region]] for region in looked]
    return regions.query[looked], torch.stack(embeddings) if embeddings else vocabulary[:0]


def _best_first(regions: Regions) -> dict[int, list[int]]:
    """The regions of each query, as indices."""
    # Confidence counts for more: the largest masks are often those that run into something else.
    order = torch.argsort(regions.confidence**3 * regions.area.log1p(), descending=True, stable=True)
    found: dict[int, list[int]] = {query: [] for query in sorted(set(regions.query.tolist()))}
    for region, query in zip(order.tolist(), regions.query[order].tolist()):
        found[query].append(region)
    return found


def _unlike_first(waiting: dict[int, list[int]], views: Tensor) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Orders each query's regions, those first that are unlike all before them, and counts these.

    The rest are like one of these. views float32 [n, V] of the regions.
    """
    ordered, different = {}, {}
    for query, regions in waiting.items():
        seen = views[regions]
        like = (torch.cdist(seen, seen) < MAX_VIEW_DISTANCE * seen.shape[1] ** 0.5).tolist()
        heads: list[int] = []
        for place in range(len(regions)):
            if not any(like[place][head] for head in heads):
                heads.append(place)
        rest = [place for place in range(len(regions)) if place not in heads]
        ordered[query], different[query] = [regions[place] for place in heads + rest], len(heads)
    return ordered, different


def _best_probabilities(
    queries: list[int], looked: list[int], query_of: list[int], crop_of: list[int], seen: dict[int, Tensor],
    vocabulary: Tensor,
) -> list[float]:  # fmt: skip
    """Of each of the queries (ascending or not), the best name's probability on all frames of it that were seen."""
    asked = set(queries)
    some = [region for region in looked if query_of[region] in asked]
    if not some:
        return []
    logits = open_vocabulary.similarity(torch.stack([seen[crop_of[region]] for region in some]), vocabulary)
    ids, probabilities = open_vocabulary.class_probabilities(
        logits, torch.tensor([query_of[region] for region in some], device=logits.device)
    )
    best = dict(zip(ids.tolist(), probabilities.amax(-1).tolist()))
    return [best[query] for query in queries]


def _is_covered(mask: Tensor, named: Tensor) -> bool:
    return bool((mask & named).sum() >= OCCLUDED_RATIO * mask.sum().clamp(min=1))
