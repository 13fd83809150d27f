"""A clip's way through the graphs: audio encoder, USSLM, mask crop, CLIP image encoder, open-vocabulary classification.

The pipeline does not know which runtime it drives: it gets one runner for each graph.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.ov_avss import open_vocabulary
from ovavss.models.ov_avss.clip import tokenizer
from ovavss.models.ov_avss.mask_crop import thumbnails
from ovavss.models.ov_avss.open_vocabulary import Ranking
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.ov_avss.prompts import TEMPLATES, text_embeddings
from ovavss.pipeline.early_exit import THUMBNAIL_SIZE, CropRequests, all_crops, early_exit
from ovavss.pipeline.steps import (
    Localization,
    Options,
    Selection,
    classify,
    crop_regions,
    encode_audio,
    encode_crops,
    localize,
    select_regions,
)
from ovavss.runtime.runner import Runner

FIND_REGIONS, CROP_REGIONS, CLASSIFY = "find_regions", "crop_regions", "classify"
STEPS = (AUDIO_ENCODER, USSLM_GRAPH, FIND_REGIONS, CROP_REGIONS, CLIP_IMAGE_ENCODER, CLASSIFY)
"""The steps of a clip: three graphs and, in Python, boxes, crops, and classification with full-size masks."""

Clip = tuple[np.ndarray, np.ndarray]
"""frames uint8 [T, H, W, 3] RGB, waveform float32 [T * 16000]."""


@dataclass
class Segmentation:
    """What was found in one clip.

    The ranking (best first), masks bool [k, T, H, W] and the label map int32 [T, H, W] (class + 1, 0 = background) at
    the original size, how many crops CLIP saw, and, if the options ask for it, the sound map float32 [T, H, W].
    """

    ranking: Ranking
    masks: Tensor
    label_map: Tensor
    crops: int
    sound_map: Tensor | None = None


def check_tokens(names: Sequence[str], tokens: Tensor) -> None:
    """Refuses names whose tokens int64 [n, context_length] are equal: CLIP reads the beginning of a name only."""
    seen: dict[tuple[int, ...], str] = {}
    for name, row in zip(names, tokens.tolist()):
        other = seen.setdefault(tuple(row), name)
        if other != name:
            raise UserError(
                f"class names '{other[:40]}...' and '{name[:40]}...' are the same to CLIP, which reads "
                f"{tokens.shape[1]} tokens of a name; shorten them"
            )


@dataclass(frozen=True)
class _Located:
    """A clip behind the localizer."""

    found: Localization
    original_size: tuple[int, int]
    selection: Selection


@dataclass
class _Looked:
    """The query and embedding of each region that CLIP looked at, int64 [m] and [m, D], by how many crops."""

    query: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    embeddings: Tensor = field(default_factory=lambda: torch.zeros(0))
    crops: int = 0


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(arrays[0][None] if len(arrays) == 1 else np.stack(arrays))


class Pipeline:
    """Runs clips of T snippets against a vocabulary.

    `step` is entered around each step of a clip with the step's name: a place for clocks and traces.
    """

    def __init__(
        self,
        preset: Preset,
        runners: Mapping[str, Runner],
        options: Options | None = None,
        step: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.preset, self.runners, self.options, self.step = preset, runners, options or Options(), step

    def embed_names(self, names: Sequence[str], progress: Callable[[int], object] | None = None) -> Tensor:
        """Text embeddings of class names: unit vectors float32 [K, D]; `progress` hears how many names are done."""
        tokenize = tokenizer(self.preset.clip)
        shortest = min(TEMPLATES, key=lambda template: template.index("{"))
        check_tokens(names, tokenize([shortest.format(name) for name in names]))
        run = self.runners[CLIP_TEXT_ENCODER]
        return text_embeddings(names, tokenize, lambda tokens: run(tokens=tokens)["text_embeddings"], progress=progress)

    def __call__(self, frames: np.ndarray, waveform: np.ndarray, vocabulary: Tensor) -> Segmentation:
        """One clip: frames uint8 [T, H, W, 3] RGB, waveform float32 [T * 16000] at 16 kHz, text embeddings [K, D]."""
        return self.run_batch([(frames, waveform)], vocabulary)[0]

    def run_batch(self, clips: Iterable[Clip], vocabulary: Tensor) -> list[Segmentation]:
        """Several clips, which go through the graphs in common batches. All their masks are in memory at a time."""
        with torch.inference_mode():
            return self._run_batch(clips, vocabulary)

    def _run_batch(self, clips: Iterable[Clip], vocabulary: Tensor) -> list[Segmentation]:
        located = [one for batch in self._batches(clips) for one in self._locate(batch, self._hear(batch))]
        looked = self._look(located, vocabulary)
        return [self._name(clip, some, vocabulary) for clip, some in zip(located, looked)]

    def stream(
        self, clips: Iterable[Clip], vocabulary: Tensor, at_once: int = 1, overlap: bool | None = None
    ) -> Iterator[Segmentation]:
        """Runs clips in order.

        Args:
            clips: Frames and waveform of each.
            vocabulary: Of `embed_names`.
            at_once: So many clips, or batches of them, run in threads of their own, which share torch's threads; their
                runners should take one thread each.
            overlap: Encode the sound of the next clip meanwhile. Default: where there is a GPU; on a CPU two clips'
                threads are in each other's way.
        """
        if overlap is None:
            overlap = torch.cuda.is_available()
        if at_once == 1 and not overlap:
            for batch in self._batches(clips):
                yield from self.run_batch(batch, vocabulary)
            return
        running: deque[Future[list[Segmentation]]] = deque()
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // at_once))  # those that a new thread of ours starts with
        try:
            with ThreadPoolExecutor(1) as sound, ThreadPoolExecutor(at_once) as whole:
                for batch in self._batches(clips):
                    audio = sound.submit(torch.inference_mode()(self._hear), batch)
                    running.append(whole.submit(self._finish, batch, audio, vocabulary))
                    if len(running) > at_once:
                        yield from running.popleft().result()
                while running:
                    yield from running.popleft().result()
        finally:
            torch.set_num_threads(threads)

    def _finish(self, clips: Sequence[Clip], audio: "Future[Tensor]", vocabulary: Tensor) -> list[Segmentation]:
        with torch.inference_mode():  # each thread has its own
            located = self._locate(clips, audio.result())
            return [self._name(*one, vocabulary) for one in zip(located, self._look(located, vocabulary))]

    def _batches(self, clips: Iterable[Clip]) -> Iterator[list[Clip]]:
        """Clips that can go through audio encoder and localizer together: neighbors of one size."""
        batch: list[Clip] = []
        for clip in clips:
            alike = not batch or all(one.shape == other.shape for one, other in zip(clip, batch[0]))
            if len(batch) == self.options.localizer_batch or not alike:
                yield batch
                batch = []
            batch.append(clip)
        if batch:
            yield batch

    def _hear(self, clips: Sequence[Clip]) -> Tensor:
        with self.step(AUDIO_ENCODER):
            return encode_audio(self.runners[AUDIO_ENCODER], _stacked([waveform for _, waveform in clips]))

    def _locate(self, clips: Sequence[Clip], audio: Tensor) -> list[_Located]:
        with self.step(USSLM_GRAPH):
            localizations = localize(self.runners[USSLM_GRAPH], _stacked([frames for frames, _ in clips]), audio)
        located = []
        for (frames, _), found in zip(clips, localizations):
            with self.step(FIND_REGIONS):
                selection = select_regions(found.mask_logits, found.sound_scores, self.options)
            located.append(_Located(found, (frames.shape[1], frames.shape[2]), selection))
        return located

    def _look(self, clips: Sequence[_Located], vocabulary: Tensor) -> list[_Looked]:
        """What CLIP makes of each clip's crops, a batch at a time over all clips."""
        lookings = {number: self._looking(clip, vocabulary) for number, clip in enumerate(clips)}
        found = [_Looked() for _ in clips]
        answers: dict[int, Any] = dict.fromkeys(lookings)  # None starts a generator
        while answers:
            wanted: dict[int, list[int]] = {}
            for number, answer in answers.items():
                try:
                    wanted[number] = lookings[number].send(answer)
                    found[number].crops += len(wanted[number])
                except StopIteration as end:
                    found[number].query, found[number].embeddings = end.value
            parts = self._embed([clips[number] for number in wanted], list(wanted.values()))
            answers = dict(zip(wanted, parts))
        return found

    def _looking(self, clip: _Located, vocabulary: Tensor) -> CropRequests:
        found, selection = clip.found, clip.selection
        if self.options.confidence_threshold is None:
            return all_crops(selection.regions, selection.crop_index)
        with self.step(CROP_REGIONS):
            views = thumbnails(
                found.mask_logits, found.frames, selection.crops, THUMBNAIL_SIZE, self.options.square_anchor
            )
        return early_exit(
            found.mask_logits,
            found.sound_scores,
            selection.regions,
            selection.crop_index,
            views,
            vocabulary,
            self.options.confidence_threshold,
        )

    def _embed(self, clips: Sequence[_Located], crops: Sequence[list[int]]) -> list[Tensor]:
        """CLIP embeddings [n, D] of some crops of each clip."""
        batch, embeddings = self.options.clip_batch, []
        ready: list[Tensor] = []
        for clip, index in zip(clips, crops):
            done = 0
            while done < len(index):
                room = batch - sum(len(part) for part in ready)
                ready.append(self._cut(clip, index[done : done + room]))
                done += room
                if sum(len(part) for part in ready) == batch:
                    embeddings.append(self._encode(ready))
                    ready = []
        if ready:
            embeddings.append(self._encode(ready))
        joined = torch.cat(embeddings) if embeddings else torch.zeros(0, self.preset.clip.embed_dim)
        return list(joined.split([len(index) for index in crops]))

    def _cut(self, clip: _Located, index: list[int]) -> Tensor:
        crops = clip.selection.crops
        with self.step(CROP_REGIONS):
            some = crops.select(torch.tensor(index, device=crops.query.device))
            return crop_regions(clip.found, some, self.preset.clip.image_size, self.options)

    def _encode(self, crops: Sequence[Tensor]) -> Tensor:
        with self.step(CLIP_IMAGE_ENCODER):
            return encode_crops(self.runners[CLIP_IMAGE_ENCODER], torch.cat(list(crops)))

    def _name(self, clip: _Located, looked: _Looked, vocabulary: Tensor) -> Segmentation:
        found, sizes = clip.found, (clip.found.image_size, clip.original_size)
        with self.step(CLASSIFY):
            ranking, masks, label_map = classify(
                looked.embeddings, looked.query, vocabulary, found.mask_logits, *sizes, self.options
            )
            sounds = None
            if self.options.sound_map:
                sounds = open_vocabulary.sound_map(found.mask_logits, found.sound_scores, *sizes)
        return Segmentation(ranking, masks, label_map, looked.crops, sounds)
