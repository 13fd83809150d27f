"""Scores anything that turns clips into named masks on Sounding Stamps, real pictures and sounds with a truth."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovavss.datasets.sounding_stamps.media import stamp_classes
from ovavss.datasets.sounding_stamps.scenes import StampClip
from ovavss.errors import UserError
from ovavss.evaluation.avsbench_measures import BETA_SQUARED
from ovavss.evaluation.evaluate import Prediction
from ovavss.evaluation.metric import nanmean

_RESAMPLINGS = 2000


@dataclass(frozen=True)
class FrameScore:
    """One second of one clip.

    `wanted` is the class that sounds and is shown, None if there is none; `found` the name of most of the mask, None if
    there is no mask.
    """

    clip: str
    kind: str
    second: int
    wanted: str | None
    found: str | None
    iou: float
    f_score: float

    @property
    def is_named(self) -> bool:
        """Whether the name is one that is accepted for the class."""
        return self.wanted is not None and self.found in stamp_classes()[self.wanted].accepted_names


@dataclass(frozen=True)
class StampScores:
    """Scores in [0, 1], NaN where no frame defines them.

    A frame with a sounding object counts for `miou`, `f_score` (beta^2 = 0.3, of the mask as it is) and `names` (share
    of right names); all masks of a frame together are compared with the sounding object, so that a mask of anything
    else costs. Other frames count for `silent_alarms` or `off_screen_alarms`, the share with any mask.
    """

    frames: tuple[FrameScore, ...] = field(repr=False)

    @property
    def clips(self) -> int:
        """How many clips were scored."""
        return len({frame.clip for frame in self.frames})

    @property
    def sounding(self) -> list[FrameScore]:
        """The frames in which something that is shown sounds."""
        return [frame for frame in self.frames if frame.wanted is not None]

    @property
    def miou(self) -> float:
        """Mean IoU over the frames with a sounding object."""
        return _mean([frame.iou for frame in self.sounding])

    @property
    def f_score(self) -> float:
        """Mean F over the frames with a sounding object."""
        return _mean([frame.f_score for frame in self.sounding])

    @property
    def names(self) -> float:
        """Share of the frames with a sounding object that have a right name."""
        return _mean([frame.is_named for frame in self.sounding])

    @property
    def silent_alarms(self) -> float:
        """Share of the frames without sound that have a mask."""
        return self._alarms(("single", "turns", "silent"))

    @property
    def off_screen_alarms(self) -> float:
        """Share of the frames whose sound comes from nothing in view that have a mask."""
        return self._alarms(("off_screen",))

    def _alarms(self, kinds: Sequence[str]) -> float:
        return _mean([f.found is not None for f in self.frames if f.wanted is None and f.kind in kinds])

    def miou_interval(self) -> tuple[float, float]:
        """The 95 % interval of `miou` when the clips are drawn again, with replacement."""
        clips: dict[str, list[float]] = {}
        for frame in self.sounding:
            clips.setdefault(frame.clip, []).append(frame.iou)
        if not clips:
            return float("nan"), float("nan")
        sums = np.array([sum(values) for values in clips.values()])
        counts = np.array([len(values) for values in clips.values()])
        drawn = np.random.default_rng(0).integers(len(clips), size=(_RESAMPLINGS, len(clips)))
        low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
        return float(low), float(high)

    def class_miou(self) -> dict[str, float]:
        """Mean IoU of each class that sounds in view."""
        classes = sorted({frame.wanted for frame in self.sounding if frame.wanted is not None})
        return {name: _mean([frame.iou for frame in self.sounding if frame.wanted == name]) for name in classes}

    def figures(self) -> dict[str, object]:
        """Everything as plain numbers in percent, for a JSON file; None where nothing defines the figure."""
        shares = ("miou", "f_score", "names", "silent_alarms", "off_screen_alarms")
        return {
            "clips": self.clips,
            "sounding_frames": len(self.sounding),
            **{name: _percent(getattr(self, name)) for name in shares},
            "miou_interval": [_percent(value) for value in self.miou_interval()],
            "class_miou": {name: _percent(value) for name, value in self.class_miou().items()},
        }

    def summary(self) -> str:
        """The scores in one line."""
        low, high = self.miou_interval()
        parts = [f"mIoU {_shown(self.miou)} (95 %: {_shown(low)} to {_shown(high)})", f"F {_shown(self.f_score)}"]
        parts += [f"names {_shown(self.names)}", f"masks on silent frames {_shown(self.silent_alarms)}"]
        parts += [f"on off-screen sounds {_shown(self.off_screen_alarms)}"]
        return f"{self.clips} clips, {len(self.sounding)} sounding frames: {', '.join(parts)} (percent)"


def _mean(values: Sequence[float]) -> float:
    return nanmean(np.asarray(values, np.float64))


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * value, 2)


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def evaluate_stamps(
    predict: Callable[[StampClip], Prediction],
    names: Sequence[str],
    clips: Iterable[StampClip],
    progress: Callable[[int], object] | None = None,
) -> StampScores:
    """Runs and scores clips.

    Args:
        predict: Gives the label map of a clip: 0, or 1 + the position of a name in `names`.
        names: What the prediction can be called.
        clips: Of `stamp_clips`.
        progress: Called with the number of clips done.

    Raises:
        UserError: There is no clip, or a label map is not of the frames' size.
    """
    frames: list[FrameScore] = []
    for done, clip in enumerate(clips, start=1):
        frames += score_clip(clip, predict(clip).label_map, names)
        if progress is not None:
            progress(done)
    if not frames:
        raise UserError("there is no clip to evaluate; ask for at least 1")
    return StampScores(tuple(frames))


def score_clip(clip: StampClip, label_map: np.ndarray, names: Sequence[str]) -> list[FrameScore]:
    """Compares a label map [T, H, W] (0, or 1 + the position of a name in `names`) with the truth, frame by frame.

    Raises:
        UserError: It is not of the frames' size.
    """
    if label_map.shape != clip.frames.shape[:3]:
        raise UserError(
            f"clip {clip.name}: a label map of {label_map.shape} came for frames of {clip.frames.shape[:3]}"
        )
    return [_score(clip, second, labels, names) for second, labels in enumerate(label_map)]


def _score(clip: StampClip, second: int, labels: np.ndarray, names: Sequence[str]) -> FrameScore:
    mask, wanted, found = labels > 0, clip.sounding_class(second), None
    if mask.any():
        found = names[int(np.bincount(labels[mask]).argmax()) - 1]
    iou = f_score = float("nan")
    if wanted is not None:
        truth = clip.visible[wanted][second]
        hit = int((mask & truth).sum())
        iou = hit / int((mask | truth).sum())
        # (1 + b) P R / (b P + R) with P = hit / predicted and R = hit / true.
        f_score = (1 + BETA_SQUARED) * hit / (BETA_SQUARED * int(truth.sum()) + int(mask.sum()))
    return FrameScore(clip.name, clip.kind, second, wanted, found, iou, f_score)
