"""The steps of OpenAVS: listen, translate, detect, find and mask, each a function that can be called alone.

The order is that of the paper (arXiv 2505.01448): sounds become nouns, nouns become boxes or points, and these become
masks. Names agree over a run of sound, as every second's scores are mixed with the mean of the run.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import label as connected_components
from torch import Tensor

from ovavss.models.open_avs.prompt_decoder import BOX_END, BOX_START, INSIDE, PADDING
from ovavss.models.open_avs.translator import Noun, TableTranslator
from ovavss.models.open_avs.yamnet import SAMPLE_RATE, WINDOW
from ovavss.pipeline.open_avs_options import OpenAvsOptions
from ovavss.runtime.runner import Runner

_LISTENING_STEPS = (-0.25, 0.0, 0.25)  # seconds from the start of a second at which windows begin
_MIN_BOX_SCORE = 0.02
_EDGE = 4  # pixels: a box this near the inner edge of a tile is cut by it


@dataclass(frozen=True)
class Sounds:
    """What is heard in every second.

    `scores` float32 [T, classes] in [0, 1], `loudness` float32 [T] (root mean square, full scale 1.0).
    """

    scores: np.ndarray
    loudness: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """What the detector sees: `boxes` float32 [n, 4], x0, y0, x1, y1 in pixels; `scores` float32 [n, 90]."""

    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """Where an object is.

    `boxes` float [k, 4], one for each instance; or, without any, `points` float [p, 2] and the `region` bool [h, w] of
    a class map that they come from, with `outline` [1 or 2, 4], boxes about it. In pixels.
    """

    boxes: np.ndarray
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    region: np.ndarray | None = None
    outline: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


@dataclass(frozen=True)
class Finding:
    """A noun that is seen in a frame, with its score in [0, 1]."""

    score: float
    prompt: Prompt


def sounding_runs(sounds: Sounds, min_loudness: float) -> list[slice]:
    """The seconds between pauses, as slices."""
    runs, count = connected_components(sounds.loudness > min_loudness)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in (np.flatnonzero(runs == k) for k in range(1, count + 1))]


def mixed_with_mean(scores: np.ndarray, runs: Iterable[slice], share: float) -> np.ndarray:
    """Scores [T, n] of which `share` is replaced by the mean of the second's run."""
    mixed = scores.copy()
    for run in runs:
        mixed[run] = (1 - share) * scores[run] + share * scores[run].mean(0)
    return mixed


def listen(listener: Runner, waveform: np.ndarray) -> Sounds:
    """Scores every second of sound.

    Args:
        listener: The graph "listener".
        waveform: float32 [S], 16 kHz mono, full scale 1.0; a last part of less than a second is left out.

    Returns:
        The mean over three windows a second.
    """
    seconds = len(waveform) // SAMPLE_RATE
    padding = int(-min(_LISTENING_STEPS) * SAMPLE_RATE)
    padded = np.pad(np.asarray(waveform, np.float32), (padding, SAMPLE_RATE))
    starts = [int((second + step) * SAMPLE_RATE) + padding for second in range(seconds) for step in _LISTENING_STEPS]
    windows = torch.from_numpy(np.stack([padded[start : start + WINDOW] for start in starts]))
    scores = listener(windows=windows)["sounds"].numpy(force=True)
    loudness = np.sqrt(np.square(waveform[: seconds * SAMPLE_RATE].reshape(seconds, -1)).mean(1))
    return Sounds(scores.reshape(seconds, len(_LISTENING_STEPS), -1).mean(1), loudness.astype(np.float32))


def translate(translator: TableTranslator, sounds: Sounds, options: OpenAvsOptions) -> np.ndarray:
    """Scores of what could be seen making the sounds.

    Args:
        translator: Knows the listener's classes.
        sounds: What is heard.
        options: `min_loudness` and `smoothing` are used.

    Returns:
        float32 [T, nouns]; zero in silent seconds.
    """
    runs = sounding_runs(sounds, options.min_loudness)
    scores = translator.translate(mixed_with_mean(sounds.scores, runs, options.smoothing))
    return scores * (sounds.loudness > options.min_loudness)[:, None]


def detect(detector: Runner, frame: np.ndarray, tiles: int = 2) -> Boxes:
    """Finds boxes of COCO's classes in the whole picture and in squares along its longer side.

    Args:
        detector: The graph "detector".
        frame: uint8 [H, W, 3] RGB.
        tiles: How many squares; below 2 none.

    Returns:
        All boxes with some score. Boxes that the inner edge of a square cuts are left out, others may overlap.
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    areas = [(0, 0, width, height)]
    if tiles > 1:
        lefts, tops = np.linspace(0, width - side, tiles, dtype=int), np.linspace(0, height - side, tiles, dtype=int)
        areas += [(int(x), int(y), int(x) + side, int(y) + side) for x, y in zip(lefts, tops)]
    boxes, scores = [], []
    for x0, y0, x1, y1 in areas:
        seen = detector(frames=torch.from_numpy(np.ascontiguousarray(frame[y0:y1, x0:x1]))[None])
        found_scores = seen["scores"][0].numpy(force=True)
        keep = found_scores.max(1) > _MIN_BOX_SCORE
        found = seen["boxes"][0].numpy(force=True)[keep] * [x1 - x0, y1 - y0, x1 - x0, y1 - y0] + [x0, y0, x0, y0]
        cut = (found[:, 0] < x0 + _EDGE) & (x0 > 0) | (found[:, 1] < y0 + _EDGE) & (y0 > 0)
        cut |= (found[:, 2] > x1 - _EDGE) & (x1 < width) | (found[:, 3] > y1 - _EDGE) & (y1 < height)
        boxes.append(found[~cut])
        scores.append(found_scores[keep][~cut])
    return Boxes(np.concatenate(boxes).clip(0, [width, height, width, height]), np.concatenate(scores))


def map_classes(class_maps: Runner, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of every ImageNet class in every cell, at two sizes.

    Args:
        class_maps: The graph "class_maps".
        frame: uint8 [H, W, 3] RGB.

    Returns:
        Two float32 [1000, h, w], the coarse and the fine map.
    """
    maps = class_maps(frames=torch.from_numpy(np.ascontiguousarray(frame))[None])
    return maps["coarse"][0].numpy(force=True), maps["fine"][0].numpy(force=True)


def heat_map(noun: Noun, maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    """Where a noun is seen, float32 [h, w] in [0, 1] on the fine grid.

    The geometric mean of both maps; None for a noun that ImageNet has no class for.
    """
    if not noun.imagenet:
        return None
    coarse, fine = (torch.from_numpy(each[list(noun.imagenet)].sum(0))[None, None] for each in maps)
    coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear")
    return (coarse * fine).clamp(min=1e-12).sqrt()[0, 0].numpy()


def find(
    noun: Noun,
    boxes: Boxes,
    maps: tuple[np.ndarray, np.ndarray],
    size: tuple[int, int],
    options: OpenAvsOptions,
) -> Finding | None:
    """Looks for a noun in one frame.

    Args:
        noun: What to look for.
        boxes: The detector's boxes of the frame.
        maps: The class maps of the frame.
        size: (height, width) of the frame in pixels.
        options: `box_trust`, `min_box`, `box_priority` and `instances` are used.

    Returns:
        Its score and a prompt for the masker: boxes where the detector knows the noun, else points of the class maps.
        None where nothing knows the noun.
    """
    heat = heat_map(noun, maps)
    peak = 0.0 if heat is None else float(heat.max())
    best = 0.0
    if noun.coco and len(boxes.boxes):
        scores = _box_scores(noun, boxes, heat, size, options.box_trust)
        best = float(scores.max())
        if best >= max(options.min_box, options.box_priority * peak):
            kept = _instances(boxes.boxes, scores, max(options.min_box, options.instances * best))
            return Finding(max(best, peak), Prompt(kept))
    if heat is None:
        return None
    return Finding(max(best, peak), _heat_prompt(heat, boxes, size))


def _box_scores(noun: Noun, boxes: Boxes, heat: np.ndarray | None, size: tuple[int, int], trust: float) -> np.ndarray:
    """A noun's score for every box, [n]; it counts in full where the heat inside the box agrees."""
    scores: np.ndarray = boxes.scores[:, list(noun.coco)].max(1)
    if heat is None:
        return scores
    rows, columns = heat.shape
    y, x = (np.arange(rows) + 0.5) * size[0] / rows, (np.arange(columns) + 0.5) * size[1] / columns
    for k in np.flatnonzero(scores > 0.1):
        x0, y0, x1, y1 = boxes.boxes[k]
        inside = heat[np.ix_((y > y0) & (y < y1), (x > x0) & (x < x1))]
        scores[k] *= 1 - trust * (1 - (inside.max() if inside.size else 0))
    return scores


def _instances(boxes: np.ndarray, scores: np.ndarray, least: float) -> np.ndarray:
    """The boxes of at least this score that hardly overlap a better one."""
    kept: list[np.ndarray] = []
    for k in np.argsort(-scores, kind="stable"):
        if kept and scores[k] < least:
            break
        if all(_overlap(boxes[k], other) < 0.4 for other in kept):
            kept.append(boxes[k])
        if least >= scores[k]:
            break
    return np.array(kept)


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)
    return area


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _area(np.concatenate((np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])), axis=-1))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller box."""
    return float(_intersection(a, b) / max(min(_area(a), _area(b)), 1e-9))


def _heat_prompt(heat: np.ndarray, boxes: Boxes, size: tuple[int, int]) -> Prompt:
    """Points at the heat's peak and center, the region about the peak, and boxes about that region."""
    rows, columns = heat.shape
    cell = np.array([size[1] / columns, size[0] / rows])
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    parts, _ = connected_components(heat > heat[row, column] / 2)
    region = parts == parts[row, column]
    y, x = np.nonzero(region)
    weights = heat[y, x] / heat[y, x].sum()
    center = [((x + 0.5) * weights).sum(), ((y + 0.5) * weights).sum()]
    points = np.array([[column + 0.5, row + 0.5], center]) * cell
    around = np.concatenate(([x.min(), y.min()] * cell, [x.max() + 1, y.max() + 1] * cell))
    outline = [around]
    if len(boxes.boxes):
        shared = _intersection(boxes.boxes, around)
        ratio = shared / (_area(boxes.boxes) + _area(around) - shared)
        confidence = boxes.scores.max(1)
        fit = confidence * ratio * (ratio > 0.3) * (confidence > 0.05)
        if fit.max() > 0:
            outline.append(boxes.boxes[fit.argmax()])
    return Prompt(np.zeros((0, 4)), points, region, np.array(outline))


def encode_frame(mask_image_encoder: Runner, frame: np.ndarray) -> Tensor:
    """The masker's view of a frame, once a frame: uint8 [H, W, 3] RGB -> float32 [1, 256, s, s]."""
    return mask_image_encoder(frames=torch.from_numpy(np.ascontiguousarray(frame))[None])["embedding"]


def _share_inside(masks: Tensor, boxes: np.ndarray, side: int) -> Tensor:
    """The share of each mask bool [n, k, s, s], of a square of `side` pixels, that lies in its box [n, 4] (pixels)."""
    x = y = (torch.arange(masks.shape[-1]) + 0.5) * side / masks.shape[-1]
    x0, y0, x1, y1 = torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.float32)).T[:, :, None]
    box = ((y > y0) & (y < y1))[:, None, :, None] & ((x > x0) & (x < x1))[:, None, None]
    return (masks & box).sum((2, 3)) / masks.sum((2, 3)).clamp(min=1)


def mask(prompt_decoder: Runner, embedding: Tensor, prompt: Prompt, size: tuple[int, int]) -> np.ndarray:
    """Outlines the object that a prompt points at.

    Args:
        prompt_decoder: The graph "prompt_decoder".
        embedding: float32 [1, 256, s, s], of `encode_frame`: the frame with zeros right or below.
        prompt: Boxes, or points with their region.
        size: (height, width) of the frame in pixels.

    Returns:
        bool [H, W]. For boxes the mask that the network itself thinks best, weighted by how much of it lies in the box
        (else the background about an object can win), united over the instances; for points the
        one that covers most of the region, weighted by that estimate and by how little it runs along the picture's rim.
    """
    boxes = prompt.boxes if len(prompt.boxes) else prompt.outline
    corners = [(box.reshape(2, 2), (BOX_START, BOX_END)) for box in boxes]
    single = [(np.stack((point, [0, 0])), (INSIDE, PADDING)) for point in prompt.points]
    prompts = corners + single
    points = torch.tensor(np.stack([each[0] for each in prompts]) / max(size), dtype=torch.float32)
    labels = torch.tensor([each[1] for each in prompts], dtype=torch.float32)
    decoded = prompt_decoder(
        embedding=embedding.expand(len(prompts), -1, -1, -1).contiguous(), points=points, labels=labels
    )
    logits, quality = decoded["mask_logits"], decoded["iou"]
    if prompt.region is None:
        best = (quality * _share_inside(logits > 0, boxes, max(size))).argmax(1)
        united = np.asarray(_to_frame(logits[torch.arange(len(best)), best], size).any(0))
        return united
    count = len(corners)
    # A box is no more ambiguous than its one mask; a point has three meanings.
    candidates = torch.cat((logits[:count, 0], logits[count:, 1:].flatten(0, 1)))
    estimates = torch.cat((quality[:count, 0], quality[count:, 1:].flatten())).numpy(force=True)
    masks = _to_frame(candidates, size)
    region = F.interpolate(torch.from_numpy(prompt.region)[None, None].float(), size)[0, 0].numpy() > 0
    covered = (masks & region).sum((1, 2))
    rim = np.mean([masks[:, 0].mean(1), masks[:, -1].mean(1), masks[:, :, 0].mean(1), masks[:, :, -1].mean(1)], axis=0)
    best_mask: np.ndarray = masks[(estimates * covered * (1 - np.minimum(1, 5 * rim))).argmax()]
    return best_mask


def _to_frame(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Logits [n, 4s, 4s] of a square as masks bool [n, H, W] of the frame in its upper left part."""
    square = F.interpolate(logits[:, None], (max(size), max(size)), mode="bilinear")[:, 0]
    return (square[:, : size[0], : size[1]] > 0).numpy(force=True)


def _crop_to_prompt(prompt: Prompt, size: tuple[int, int], zoom: float) -> tuple[int, int, int, int]:
    """The part of a frame that the masker sees, as x0, y0, x1, y1 in pixels.

    A square about the prompt's boxes with `zoom` times their longer side, moved and cut to lie inside the frame.
    """
    height, width = size
    if not zoom or not len(prompt.boxes):
        return 0, 0, width, height
    low, high = prompt.boxes[:, :2].min(0), prompt.boxes[:, 2:].max(0)
    side = float((high - low).max()) * zoom
    limit = np.array([width, height])
    start = np.clip((low + high - side) / 2, 0, np.maximum(limit - side, 0))
    x0, y0 = np.floor(start).astype(int)
    x1, y1 = np.minimum(np.ceil(start + side), limit).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def outline(
    mask_image_encoder: Runner, prompt_decoder: Runner, frame: np.ndarray, prompt: Prompt, zoom: float
) -> np.ndarray:
    """Encodes the part of a frame about a prompt and outlines the object in it.

    Args:
        mask_image_encoder: The graph "mask_image_encoder".
        prompt_decoder: The graph "prompt_decoder".
        frame: uint8 [H, W, 3] RGB.
        prompt: In pixels of the frame.
        zoom: As in `OpenAvsOptions`; a tight crop allows a smaller and so quicker image encoder.

    Returns:
        bool [H, W].
    """
    size = (frame.shape[0], frame.shape[1])
    x0, y0, x1, y1 = _crop_to_prompt(prompt, size, zoom)
    moved = replace(prompt, boxes=prompt.boxes - [x0, y0, x0, y0])  # points show the whole frame: x0 = y0 = 0
    embedding = encode_frame(mask_image_encoder, frame[y0:y1, x0:x1])
    result = np.zeros(size, bool)
    result[y0:y1, x0:x1] = mask(prompt_decoder, embedding, moved, (y1 - y0, x1 - x0))
    return result
