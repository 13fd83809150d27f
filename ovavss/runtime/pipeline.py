"""A clip's way through the graphs: audio encoder, USSLM, mask crop, CLIP image encoder, open-vocabulary classification.

The pipeline does not know which runtime it drives: it gets one runner for each graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.model import open_vocabulary
from ovavss.model.clip import tokenizer
from ovavss.model.graphs import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER, USSLM_GRAPH
from ovavss.model.mask_crop import Regions, SquareAnchor, crop_regions, find_regions
from ovavss.model.open_vocabulary import Ranking
from ovavss.model.presets import Crop, Preset, Proposals
from ovavss.model.prompts import text_embeddings
from ovavss.runtime.runner import Runner

LARGEST_VOCABULARY = 65_534  # label maps have 16 bits, and 0 is the background


@dataclass(frozen=True)
class Options:
    """How masks become names. The defaults are the published code's; the paper selects `proposals="sounding"` and
    centres the squares."""

    proposals: Proposals = Proposals.ALL
    sound_threshold: float = 0.5
    score_threshold: float = open_vocabulary.SCORE_THRESHOLD
    top_k: int = open_vocabulary.TOP_K
    crop: Crop = Crop.SQUARE
    square_anchor: SquareAnchor = "top_left"
    clip_batch: int = 32
    sound_map: bool = False


@dataclass
class Segmentation:
    """What was found in one clip: the ranking (best first), masks bool [k, T, H, W] and the label map int32 [T, H, W]
    (class + 1, 0 = background) at the original size, how many crops CLIP saw, and, if the options ask for it, the sound
    map float32 [T, H, W]."""

    ranking: Ranking
    masks: Tensor
    label_map: Tensor
    crops: int
    sound_map: Tensor | None = None


def check_names(names: Sequence[str]) -> list[str]:
    """Class names without surrounding blanks; UserError where the list is empty, or a name is empty or there twice."""
    stripped = [name.strip() for name in names]
    if not stripped:
        raise UserError("the list of classes is empty; pass --classes 'man,piano,...'")
    for index, name in enumerate(stripped):
        if not name:
            raise UserError(
                f"class name {index + 1} of {len(stripped)} is empty; remove the extra comma or give it a name"
            )
        if name in stripped[:index]:
            raise UserError(f"class name '{name}' is there twice; remove one")
    if len(stripped) > LARGEST_VOCABULARY:
        raise UserError(f"{len(stripped)} class names are too many; give at most {LARGEST_VOCABULARY}")
    return stripped


class Pipeline:
    """Runs clips of T snippets against a vocabulary."""

    def __init__(self, preset: Preset, runners: Mapping[str, Runner], options: Options | None = None) -> None:
        self.preset, self.runners, self.options = preset, runners, options or Options()

    def embed_names(self, names: Sequence[str], progress: Callable[[int], object] | None = None) -> Tensor:
        """Text embeddings of class names: unit vectors float32 [K, D]; `progress` hears how many names are done."""
        tokenize = tokenizer(self.preset.clip)
        run = self.runners[CLIP_TEXT_ENCODER]
        return text_embeddings(names, tokenize, lambda tokens: run(tokens=tokens)["text_embeddings"], progress=progress)

    def __call__(self, frames: np.ndarray, waveform: np.ndarray, vocabulary: Tensor) -> Segmentation:
        """One clip: frames uint8 [T, H, W, 3] RGB, waveform float32 [T * 16000] at 16 kHz, text embeddings [K, D]."""
        audio = self.runners[AUDIO_ENCODER](waveform=torch.from_numpy(waveform)[None])["audio"]
        located = self.runners[USSLM_GRAPH](frames=torch.from_numpy(frames)[None], audio=audio)
        mask_logits, size = located["mask_logits"][0], located["image_size"].tolist()
        image_size, original_size = (size[0], size[1]), (frames.shape[1], frames.shape[2])
        regions = find_regions(mask_logits, self._proposals(located["sound_scores"][0]))
        embeddings = self._embed_regions(mask_logits, located["resized_frames"][0], image_size, regions)
        logits = open_vocabulary.similarity(embeddings, vocabulary)
        ids, probabilities = open_vocabulary.class_probabilities(logits, regions.query)
        ranking = open_vocabulary.rank(ids, probabilities, self.options.top_k)
        masks = open_vocabulary.full_size_masks(mask_logits, ranking.query, image_size, original_size)
        label_map = open_vocabulary.semantic_map(masks, ranking, self.options.score_threshold)
        sounds = None
        if self.options.sound_map:
            sounds = open_vocabulary.sound_map(mask_logits, located["sound_scores"][0], image_size, original_size)
        return Segmentation(ranking, masks, label_map, len(regions), sounds)

    def _proposals(self, sound_scores: Tensor) -> Tensor:
        if self.options.proposals is Proposals.ALL:
            return torch.arange(len(sound_scores), device=sound_scores.device)
        return (sound_scores > self.options.sound_threshold).nonzero()[:, 0]

    def _embed_regions(
        self, mask_logits: Tensor, frames: Tensor, image_size: tuple[int, int], regions: Regions
    ) -> Tensor:
        """CLIP embeddings [n, D] of all regions, a batch at a time."""
        options, clip = self.options, self.preset.clip
        embeddings = [mask_logits.new_zeros(0, clip.embed_dim)]
        for start in range(0, len(regions), options.clip_batch):
            some = regions.select(slice(start, start + options.clip_batch))
            crops = crop_regions(
                mask_logits, frames, image_size, some, clip.image_size, options.crop, options.square_anchor
            )
            embeddings.append(self.runners[CLIP_IMAGE_ENCODER](crops=crops)["image_embeddings"])
        return torch.cat(embeddings)
