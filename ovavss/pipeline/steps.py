"""The steps of OV-AVSS, each a function that can be called alone; `Pipeline` calls them in this order.

audio = encode_audio(runners["audio_encoder"], waveforms)
for clip in localize(runners["usslm"], frames, audio):
    selection = select_regions(clip.mask_logits, clip.sound_scores, options)
    crops = crop_regions(clip, selection.crops, 224, options)
    embeddings = encode_crops(runners["clip_image_encoder"], crops)[selection.crop_index]
    ranking, masks, label_map = classify(
        embeddings, selection.regions.query, vocabulary, clip.mask_logits, clip.image_size, original_size, options
    )
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ovavss.models.ov_avss import mask_crop, open_vocabulary
from ovavss.models.ov_avss.mask_crop import Regions, SquareAnchor, find_regions, most_confident, shared_crops
from ovavss.models.ov_avss.open_vocabulary import Ranking
from ovavss.models.ov_avss.presets import Crop, Proposals
from ovavss.runtime.runner import Arrays

GraphCall = Callable[..., Arrays]
"""One graph: takes its inputs by name and returns its outputs by name. A `Runner` is one."""


@dataclass(frozen=True)
class Options:
    """How masks become names.

    The defaults are the published code's; the paper selects `proposals="sounding"` and centers the squares.

    Attributes:
        proposals: Classify all queries, or those that the sound head selects.
        sound_threshold: The sound score, in [0, 1], above which a query counts as sounding.
        score_threshold: Names at or below this score, in [0, 1], stay out of the label map.
        top_k: How many (query, name) pairs are kept.
        crop: What of a masked frame CLIP sees.
        square_anchor: Where a square crop lies.
        clip_batch: Crops that go through CLIP at a time.
        localizer_batch: Clips of one size that go through audio encoder and localizer at a time.
        sound_map: Also compute how likely each pixel sounds.
        frames_per_query: Classify a query by its most confident frames only. None: by all.
        confidence_threshold: Classify a query by one frame after another until its name has this probability and the
            other frames look like those (`pipeline/early_exit.py`). None: by all frames at once.
        merge_iou: Queries whose masks overlap this much in a frame share one crop. None: none do.
        named_only: Pairs at or below the score threshold get no mask; the label map is the same.
        skip_empty_masks: Upsample only masks that can matter; the result is the same.
    """

    proposals: Proposals = Proposals.ALL
    sound_threshold: float = 0.5
    score_threshold: float = open_vocabulary.SCORE_THRESHOLD
    top_k: int = open_vocabulary.TOP_K
    crop: Crop = Crop.SQUARE
    square_anchor: SquareAnchor = "top_left"
    clip_batch: int = 32
    localizer_batch: int = 1
    sound_map: bool = False
    frames_per_query: int | None = None
    confidence_threshold: float | None = None
    merge_iou: float | None = None
    named_only: bool = False
    skip_empty_masks: bool = True


@dataclass(frozen=True)
class Localization:
    """What the localizer found in one clip of T frames, with N queries.

    Attributes:
        mask_logits: float32 [N, T, h, w], at stride 4 of the padded frames.
        sound_scores: float32 [N], the probability that a query marks something that sounds.
        frames: uint8 [T, 4 h, 4 w, 3] RGB, resized and padded, as the localizer saw them.
        image_size: (height, width) of these frames without the padding, in pixels.
    """

    mask_logits: Tensor
    sound_scores: Tensor
    frames: Tensor
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """Which regions of a clip are classified.

    Attributes:
        regions: The n (query, frame) pairs that get a name.
        crops: Those of them that CLIP sees.
        crop_index: int64 [n], the position in `crops` of the crop that each region is classified by.
    """

    regions: Regions
    crops: Regions
    crop_index: Tensor


def encode_audio(audio_encoder: GraphCall, waveforms: Tensor) -> Tensor:
    """Encodes the sound of clips with VGGish (paper, section 3.2).

    Args:
        audio_encoder: The graph "audio_encoder".
        waveforms: float32 [B, T * 16000], 16 kHz mono, in [-1, 1].

    Returns:
        float32 [B, T, 128], one embedding a second.
    """
    return audio_encoder(waveform=waveforms)["audio"]


def localize(usslm: GraphCall, frames: Tensor, audio: Tensor) -> list[Localization]:
    """Outlines what sounds, of whatever class: the paper's universal sound source localization module (section 3.3).

    Args:
        usslm: The graph "usslm".
        frames: uint8 [B, T, H, W, 3] RGB, one a second.
        audio: float32 [B, T, 128], of `encode_audio`.

    Returns:
        One entry a clip.
    """
    found = usslm(frames=frames, audio=audio)
    height, width = found["image_size"].tolist()
    parts = zip(found["mask_logits"], found["sound_scores"], found["resized_frames"])
    return [Localization(*part, (height, width)) for part in parts]


def select_regions(mask_logits: Tensor, sound_scores: Tensor, options: Options) -> Selection:
    """Selects the (query, frame) pairs that are classified, and which of them CLIP sees (paper, section 3.5).

    Args:
        mask_logits: float32 [N, T, h, w], at stride 4.
        sound_scores: float32 [N].
        options: Uses `proposals`, `sound_threshold`, `frames_per_query` and `merge_iou`.
    """
    queries = None
    if options.proposals is Proposals.SOUNDING:
        queries = (sound_scores > options.sound_threshold).nonzero()[:, 0]
    regions = find_regions(mask_logits, queries, options.skip_empty_masks)
    if options.frames_per_query is not None:
        regions = most_confident(regions, options.frames_per_query)
    if options.merge_iou is None:
        return Selection(regions, regions, torch.arange(len(regions), device=regions.query.device))
    kept, crop_index = shared_crops(mask_logits, regions, options.merge_iou).unique(return_inverse=True)
    return Selection(regions, regions.select(kept), crop_index)


def crop_regions(clip: Localization, regions: Regions, size: int, options: Options) -> Tensor:
    """Cuts out what CLIP sees of regions: soft mask times frame, black elsewhere (paper, section 3.5 and Table 5).

    Args:
        clip: The clip that the regions are of.
        regions: n (query, frame) pairs.
        size: Height and width of CLIP's input in pixels.
        options: Uses `crop` and `square_anchor`.

    Returns:
        float32 [n, 3, size, size], normalized as CLIP's input.
    """
    return mask_crop.crop_regions(
        clip.mask_logits, clip.frames, clip.image_size, regions, size, options.crop, options.square_anchor
    )


def encode_crops(clip_image_encoder: GraphCall, crops: Tensor) -> Tensor:
    """Encodes crops with CLIP.

    Args:
        clip_image_encoder: The graph "clip_image_encoder".
        crops: float32 [n, 3, S, S], of `crop_regions`.

    Returns:
        float32 [n, D], unit vectors.
    """
    return clip_image_encoder(crops=crops)["image_embeddings"]


def classify(
    embeddings: Tensor,
    query: Tensor,
    vocabulary: Tensor,
    mask_logits: Tensor,
    image_size: tuple[int, int],
    original_size: tuple[int, int],
    options: Options,
) -> tuple[Ranking, Tensor, Tensor]:
    """Names queries by the similarity of their crops to class names (paper, section 3.5).

    Args:
        embeddings: float32 [n, D], of the crop of each region.
        query: int64 [n], the query of each region.
        vocabulary: float32 [K, D], the text embeddings of the class names.
        mask_logits: float32 [N, T, h, w], at stride 4.
        image_size: (height, width) of the localizer's frames without the padding, in pixels.
        original_size: (H, W) of the video's frames in pixels.
        options: Uses `top_k`, `score_threshold` and `named_only`.

    Returns:
        The ranking of k (query, name) pairs, best first; their masks bool [k, T, H, W]; and the label map int32
        [T, H, W], class + 1, 0 for the background.
    """
    logits = open_vocabulary.similarity(embeddings, vocabulary)
    ids, probabilities = open_vocabulary.class_probabilities(logits, query)
    ranking = open_vocabulary.rank(ids, probabilities, options.top_k)
    if options.named_only:
        named = ranking.score > options.score_threshold
        ranking = Ranking(ranking.query[named], ranking.label[named], ranking.score[named])
    masks = open_vocabulary.full_size_masks(
        mask_logits, ranking.query, image_size, original_size, options.skip_empty_masks
    )
    return ranking, masks, open_vocabulary.semantic_map(masks, ranking, options.score_threshold)
