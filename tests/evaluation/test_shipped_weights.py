"""The shipped `tiny` model segments what sounds, names what it never saw, and goes by the sound."""

import numpy as np
import pytest

from ovavss.checkpoints.shipped import shipped_weights
from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.datasets.sounding_shapes.scenes import CATEGORIES, NOVEL, Kind
from ovavss.evaluation.evaluate import Evaluation, RunClip, Sound, evaluate_world
from ovavss.models.ov_avss.presets import PRESETS, Proposals
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import torch_runners

pytestmark = pytest.mark.skipif(
    shipped_weights("tiny") is None, reason="no weights of tiny are shipped: train them with `ovavss train`"
)
SEED = 32  # held out: training has 1 and 2


@pytest.fixture(scope="module")
def run_clip() -> RunClip:
    pipeline = Pipeline(
        PRESETS["tiny"],
        torch_runners(load_models(PRESETS["tiny"], WeightsSource()).models),
        Options(Proposals.SOUNDING),
    )
    vocabulary = pipeline.embed_names(CATEGORIES)
    return lambda frames, waveform: pipeline(frames, waveform, vocabulary).label_map.numpy()


def score(run_clip: RunClip, clips: int, kind: Kind = "mixed", sound: Sound = "own") -> Evaluation:
    return evaluate_world(run_clip, SEED, clips, kind=kind, sound=sound)


def test_what_sounds_is_found_and_named(run_clip: RunClip) -> None:
    """Few clips: the figures on many are in ovavss/weights/README.md."""
    own, other = score(run_clip, 40), score(run_clip, 20, sound="swapped")
    assert own.foreground > 0.65 and own.scores.base > 0.6 and own.scores.novel > 0.4
    assert other.foreground < 0.2 and other.scores.mean < 0.2
    iou = [own.scores.class_iou[number + 1] for number in NOVEL]
    assert np.nansum(np.array(iou) > 0.5) >= 3  # combinations that localizer and audio encoder never met


def test_silence_is_an_empty_map(run_clip: RunClip) -> None:
    assert score(run_clip, 12, kind="silent").empty == 1
    assert score(run_clip, 12, sound="silent").empty == 1
