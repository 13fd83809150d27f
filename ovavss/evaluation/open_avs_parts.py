"""What each part of OpenAVS costs on Sounding Stamps: the truth takes the place of one part after another."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovavss.datasets.sounding_stamps.media import StampClass, stamp_classes
from ovavss.datasets.sounding_stamps.scenes import StampClip
from ovavss.errors import UserError
from ovavss.evaluation.sounding_stamps import FrameScore, StampScores, score_clip
from ovavss.models.open_avs.presets import CLASS_MAPS, DETECTOR, LISTENER, MASK_IMAGE_ENCODER, PROMPT_DECODER
from ovavss.models.open_avs.translator import TableTranslator
from ovavss.pipeline.open_avs import OpenAvsPipeline
from ovavss.pipeline.open_avs_steps import Prompt, outline
from ovavss.runtime.runner import Arrays, Runner

ROWS = ("open_avs", "true sounds", "true nouns", "true boxes")


@dataclass(frozen=True)
class PartScores:
    """Scores of the whole chain, and with the truth in place of its first parts; keys as `ROWS`.

    These are the listener, listener and translator, and both with the detector.
    """

    rows: Mapping[str, StampScores]

    def losses(self) -> dict[str, float]:
        """How much mIoU each part costs; negative if a part does better than the truth in its place."""
        own, sounds, nouns, boxes = (self.rows[name].miou for name in ROWS)
        return {"listener": sounds - own, "translator": nouns - sounds, "detector": boxes - nouns, "masker": 1 - boxes}


class _TrueListener(Runner):
    """Gives the scores of the clip's seconds in place of what is heard."""

    scores: Tensor

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        windows = len(inputs["windows"]) // len(self.scores)
        return {"sounds": self.scores.repeat_interleave(windows, dim=0)}


class _TrueTranslator(TableTranslator):
    """Gives the clip's nouns in place of a translation."""

    answer: np.ndarray

    def translate(self, scores: np.ndarray) -> np.ndarray:
        return self.answer


class _Remembering(Runner):
    """Runs a graph once for each frame of a clip, whichever row asks."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.spec)
        self._runner, self._known = runner, dict[bytes, Arrays]()

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        key = inputs["frames"].numpy(force=True).tobytes()
        if key not in self._known:
            self._known[key] = self._runner(**inputs)
        return self._known[key]

    def forget(self) -> None:
        self._known.clear()


def evaluate_parts(
    pipeline: OpenAvsPipeline,
    clips: Iterable[StampClip],
    progress: Callable[[int], object] | None = None,
) -> PartScores:
    """Scores OpenAVS as it is and with the truth in place of its parts.

    Args:
        pipeline: The chain that is scored.
        clips: Of `stamp_clips`, with their own sounds; things that are pasted twice share a true box.
        progress: Called with the number of clips done.

    Raises:
        UserError: There is no clip.
    """
    sounds = pipeline.translator.sounds
    remembering = {name: _Remembering(pipeline.runners[name]) for name in (DETECTOR, CLASS_MAPS, MASK_IMAGE_ENCODER)}
    runners = {**pipeline.runners, **remembering}
    listener, translator = _TrueListener(runners[LISTENER].spec), _TrueTranslator(sounds)
    rest = pipeline.options, pipeline.preset
    chains = {
        ROWS[0]: OpenAvsPipeline(runners, pipeline.translator, *rest),
        ROWS[1]: OpenAvsPipeline({**runners, LISTENER: listener}, pipeline.translator, *rest),
        ROWS[2]: OpenAvsPipeline(runners, translator, *rest),
    }
    vocabulary = pipeline.embed_names(pipeline.names)
    frames: dict[str, list[FrameScore]] = {name: [] for name in ROWS}
    for done, clip in enumerate(clips, start=1):
        true = [clip.sounding_class(second) for second in range(len(clip.frames))]
        listener.scores = torch.zeros(len(true), len(sounds))
        translator.answer = np.zeros((len(true), len(pipeline.names)), np.float32)
        for second, name in enumerate(true):
            if name is not None:
                listener.scores[second, sounds.index(stamp_classes()[name].audioset)] = 1
                translator.answer[second, _noun(stamp_classes()[name], pipeline.names)] = 1
        for row, chain in chains.items():
            label_map = chain.segment(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)
            frames[row] += score_clip(clip, label_map, pipeline.names)
        frames[ROWS[3]] += score_clip(
            clip, _from_boxes(clip, true, runners, pipeline.options.zoom), list(stamp_classes())
        )
        for runner in remembering.values():
            runner.forget()
        if progress is not None:
            progress(done)
    if not frames[ROWS[0]]:
        raise UserError("there is no clip to evaluate; ask for at least 1")
    return PartScores({name: StampScores(tuple(scores)) for name, scores in frames.items()})


def _noun(stamp: StampClass, nouns: tuple[str, ...]) -> int:
    """Position of the noun that the pipeline should look for."""
    return next(nouns.index(name) for name in stamp.accepted_names if name in nouns)


def _from_boxes(clip: StampClip, true: list[str | None], runners: Mapping[str, Runner], zoom: float) -> np.ndarray:
    """Label map [T, H, W] of the masks for the boxes about what sounds, by the position among all classes."""
    names = list(stamp_classes())
    label_map = np.zeros(clip.frames.shape[:3], np.int32)
    for second, name in enumerate(true):
        if name is None:
            continue
        frame = clip.frames[second]
        y, x = np.nonzero(clip.visible[name][second])
        box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], float)
        found = outline(runners[MASK_IMAGE_ENCODER], runners[PROMPT_DECODER], frame, Prompt(box), zoom)
        label_map[second][found] = 1 + names.index(name)
    return label_map
