"""OpenAVS over the windows of a video: the steps in order, and the choice of one noun a second."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ovavss.errors import UserError, warn
from ovavss.models.open_avs.presets import (
    CLASS_MAPS,
    DETECTOR,
    LISTENER,
    MASK_IMAGE_ENCODER,
    OPEN_AVS,
    PROMPT_DECODER,
    OpenAvsPreset,
)
from ovavss.models.open_avs.translator import TableTranslator, read_sounds
from ovavss.models.ov_avss.open_vocabulary import Ranking
from ovavss.pipeline.open_avs_options import OpenAvsOptions
from ovavss.pipeline.open_avs_steps import (
    Finding,
    Prompt,
    detect,
    find,
    listen,
    map_classes,
    mixed_with_mean,
    outline,
    sounding_runs,
    translate,
)
from ovavss.pipeline.pipeline import Clip, Segmentation
from ovavss.runtime.runner import Runner


@dataclass(frozen=True)
class Vocabulary:
    """The user's names, and which of them each noun is called by."""

    names: tuple[str, ...]
    label_of: Mapping[int, int]


@dataclass(frozen=True)
class Choice:
    """What sounds in one second: position of the noun, its score, and where it is."""

    noun: int
    score: float
    prompt: Prompt


class OpenAvsPipeline:
    """The steps in order, over the windows of a video.

    Args:
        runners: The five graphs by name, in any runtime.
        translator: Knows the listener's classes.
        options: Thresholds and switches.
        preset: The preset of the graphs.

    Attributes:
        step: Entered around each step with its name.
    """

    def __init__(
        self,
        runners: Mapping[str, Runner],
        translator: TableTranslator,
        options: OpenAvsOptions | None = None,
        preset: OpenAvsPreset = OPEN_AVS,
    ) -> None:
        self.runners, self.translator, self.preset = dict(runners), translator, preset
        self.options = options or OpenAvsOptions()
        self.step: Callable[[str], AbstractContextManager[object]] = nullcontext

    @property
    def names(self) -> tuple[str, ...]:
        """All names that can be answered."""
        return self.translator.names

    def embed_names(self, names: Sequence[str], progress: Callable[[int], object] | None = None) -> Vocabulary:
        """Binds the user's names to nouns.

        A warning says which of them are never answered.

        Raises:
            UserError: None of the names is known.
        """
        label_of = self.translator.match(names)
        if not label_of:
            raise UserError(
                f"none of the classes {', '.join(names)} is known to preset '{self.preset.name}'; choose from "
                f"{', '.join(self.names)}"
            )
        answered = set(label_of.values())
        for name in (each for label, each in enumerate(names) if label not in answered):
            if self.translator.match([name]):
                warn(f"class '{name}' is another word for one before it, whose name is answered in its place")
            else:
                warn(f"preset '{self.preset.name}' does not know class '{name}', and never answers so; `ovavss info "
                     f"{self.preset.name}` prints what it knows")  # fmt: skip
        if progress is not None:
            progress(len(names))
        return Vocabulary(tuple(names), label_of)

    def choose(self, frames: np.ndarray, waveform: np.ndarray, vocabulary: Vocabulary) -> list[Choice | None]:
        """What sounds in every second and where it is; None where nothing does.

        Args:
            frames: uint8 [T, H, W, 3] RGB, one a second.
            waveform: float32 [T * 16000], 16 kHz mono.
            vocabulary: Only its nouns are looked for.
        """
        options = self.options
        with self.step(LISTENER):
            sounds = listen(self.runners[LISTENER], waveform)
        heard = translate(self.translator, sounds, options)
        others = [k for k in range(heard.shape[1]) if k not in vocabulary.label_of]
        heard[:, others] = 0
        findings = [self._find_heard(frame, scores) for frame, scores in zip(frames, heard)]
        return self._agree(heard, findings, sounding_runs(sounds, options.min_loudness))

    def _find_heard(self, frame: np.ndarray, heard: np.ndarray) -> dict[int, Finding]:
        wanted = np.flatnonzero(heard >= self.options.min_heard)
        if not len(wanted):
            return {}
        with self.step(DETECTOR):
            boxes = detect(self.runners[DETECTOR], frame, self.options.tiles)
        with self.step(CLASS_MAPS):
            maps = map_classes(self.runners[CLASS_MAPS], frame)
        size = (frame.shape[0], frame.shape[1])
        found = {int(k): find(self.translator.nouns[k], boxes, maps, size, self.options) for k in wanted}
        return {k: each for k, each in found.items() if each is not None and each.score >= self.options.min_seen}

    def _agree(
        self, heard: np.ndarray, findings: list[dict[int, Finding]], runs: Iterable[slice]
    ) -> list[Choice | None]:
        weight = np.where(self.translator.is_general, self.options.general_weight, 1.0)
        joint = np.zeros_like(heard)
        for second, found in enumerate(findings):
            for noun, finding in found.items():
                joint[second, noun] = heard[second, noun] * finding.score * weight[noun]
        mixed = mixed_with_mean(joint, runs, self.options.agreement)
        choices: list[Choice | None] = []
        for second, found in enumerate(findings):
            score, noun = max(((float(mixed[second, k]), k) for k in found), default=(0.0, -1))
            good = noun >= 0 and score >= self.options.min_score
            choices.append(Choice(noun, score, found[noun].prompt) if good else None)
        return choices

    def segment(self, frames: np.ndarray, waveform: np.ndarray, vocabulary: Vocabulary) -> Segmentation:
        """Masks and names of what sounds in one window.

        Args:
            frames: uint8 [T, H, W, 3] RGB, one a second.
            waveform: float32 [T * 16000], 16 kHz mono.
            vocabulary: Of `embed_names`.

        Returns:
            One entry a name, best first; a name that several nouns share is one entry.
        """
        shape = frames.shape[:3]
        masks: dict[int, np.ndarray] = {}
        scores: dict[int, list[float]] = {}
        label_map = torch.zeros(shape, dtype=torch.int32)
        prompts = 0
        for second, choice in enumerate(self.choose(frames, waveform, vocabulary)):
            if choice is None:
                continue
            encoder, decoder = self.runners[MASK_IMAGE_ENCODER], self.runners[PROMPT_DECODER]
            with self.step(MASK_IMAGE_ENCODER):
                found = outline(encoder, decoder, frames[second], choice.prompt, self.options.zoom)
            label = vocabulary.label_of[choice.noun]
            masks.setdefault(label, np.zeros(shape, bool))[second] = found
            scores.setdefault(label, []).append(choice.score)
            label_map[second][torch.from_numpy(found)] = label + 1
            prompts += 1
        order = sorted(masks, key=lambda label: -max(scores[label]))
        ranking = Ranking(
            torch.arange(len(order)),
            torch.tensor(order, dtype=torch.int64),
            torch.tensor([max(scores[label]) for label in order], dtype=torch.float32),
        )
        stacked = np.stack([masks[label] for label in order]) if order else np.zeros((0, *shape), bool)
        return Segmentation(ranking, torch.from_numpy(stacked), label_map, prompts)

    def stream(self, clips: Iterable[Clip], vocabulary: Vocabulary) -> Iterator[Segmentation]:
        """The windows of a video, one after another."""
        for frames, waveform in clips:
            yield self.segment(frames, waveform, vocabulary)


def all_names() -> tuple[str, ...]:
    """All names that the preset `open_avs` can answer."""
    return TableTranslator(list(read_sounds())).names


def open_pipeline(
    options: OpenAvsOptions | None = None, offline: bool = False, runners: Mapping[str, Runner] | None = None
) -> OpenAvsPipeline:
    """The preset `open_avs`.

    Args:
        options: Thresholds and switches.
        offline: Ask no registry for weights that are not in the cache.
        runners: Those of an engines folder. Default: PyTorch, with weights that are fetched if they are not in the
            cache.

    Raises:
        UserError: Weights are not in the cache and cannot be fetched.
    """
    if runners is None:
        from ovavss.checkpoints.open_avs import load_open_avs
        from ovavss.models.open_avs.graphs import graph_modules, graph_specs
        from ovavss.runtime.torch_runner import TorchRunner

        specs, modules = graph_specs(OPEN_AVS), graph_modules(load_open_avs(OPEN_AVS, offline).models)
        runners = {name: TorchRunner(specs[name], module) for name, module in modules.items()}
    return OpenAvsPipeline(runners, TableTranslator(list(read_sounds())), options)
