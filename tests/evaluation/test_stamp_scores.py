"""The scores of Sounding Stamps, on clips whose masks are known."""

import numpy as np
import pytest

from ovavss.datasets.sounding_stamps.scenes import StampClip
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import Prediction
from ovavss.evaluation.sounding_stamps import StampScores, evaluate_stamps

NAMES = ("duck", "goose", "car")


def clip(name: str, kind: str, sounds: str | None = None, seconds: tuple[int, ...] = ()) -> StampClip:
    """A duck of 20 pixels and a car of 20 pixels beside it, in 5 frames of 10 x 10."""
    visible = {each: np.zeros((5, 10, 10), bool) for each in ("duck", "car")}
    visible["duck"][:, :4, :5], visible["car"][:, :4, 5:] = True, True
    sounding = {each: np.isin(np.arange(5), seconds) & (each == sounds) for each in visible}
    frames, waveform = np.zeros((5, 10, 10, 3), np.uint8), np.zeros(80_000, np.float32)
    return StampClip(name, kind, frames, waveform, visible, sounding)  # type: ignore[arg-type]


def scores(clips: list[StampClip], **labels: np.ndarray) -> StampScores:
    return evaluate_stamps(lambda each: Prediction(labels[each.name]), NAMES, clips)


def filled(label: int, rows: int = 4, left: int = 0, right: int = 5) -> np.ndarray:
    label_map = np.zeros((5, 10, 10), np.int32)
    label_map[:, :rows, left:right] = label
    return label_map


def test_right_masks_and_accepted_names() -> None:
    clips = [clip("a", "single", "duck", (0, 1, 2, 3, 4)), clip("b", "single", "car", (1, 2, 3))]
    car = filled(3, left=5, right=10)
    car[[0, 4]] = 0
    perfect = scores(clips, a=filled(2), b=car)  # a duck may be called goose
    assert (perfect.miou, perfect.f_score, perfect.names, perfect.silent_alarms) == (1, pytest.approx(1), 1, 0)
    assert perfect.clips == 2 and len(perfect.sounding) == 8 and np.isnan(perfect.off_screen_alarms)
    assert perfect.figures()["off_screen_alarms"] is None and perfect.class_miou() == {"car": 1, "duck": 1}
    assert "mIoU 100.0" in perfect.summary() and "off-screen sounds -" in perfect.summary()


def test_what_mistakes_cost() -> None:
    clips = [clip("a", "single", "duck", (0, 1, 2, 3, 4)), clip("b", "single", "car", (1, 2, 3))]
    # Both things masked: 20 of 40 pixels are right; the larger part is called car. Nothing for the car itself.
    both = filled(3, left=0, right=10)
    both[:, 0, :5] = 1
    result = scores(clips, a=both, b=np.zeros_like(both))
    assert result.miou == pytest.approx(5 * 0.5 / 8)
    assert result.f_score == pytest.approx(5 / 8 * 1.3 * 20 / (0.3 * 20 + 40))
    assert result.names == 0 and result.silent_alarms == 0
    low, high = result.miou_interval()
    assert low == 0 and high == 0.5


def test_false_alarms() -> None:
    clips = [clip("a", "silent"), clip("b", "off_screen"), clip("c", "single", "duck", (0, 1, 2))]
    masks = filled(1)
    masks[2:] = 0
    result = scores(clips, a=masks, b=filled(2), c=filled(1))
    assert result.silent_alarms == pytest.approx(4 / 7) and result.off_screen_alarms == 1
    swapped = scores([clip("a", "swapped", "duck", (0,))], a=filled(1))
    assert swapped.miou == 1 and np.isnan(swapped.silent_alarms) and np.isnan(swapped.off_screen_alarms)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(UserError, match="at least 1"):
        scores([])
    with pytest.raises(UserError, match="clip a: a label map of"):
        scores([clip("a", "silent")], a=np.zeros((5, 9, 9), np.int32))
