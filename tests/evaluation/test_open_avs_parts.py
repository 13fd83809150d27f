"""The truth in place of OpenAVS' parts, with scripted graphs whose mistakes are known."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from ovavss.datasets.sounding_stamps.scenes import StampClip
from ovavss.evaluation.open_avs_parts import ROWS, PartScores, evaluate_parts
from ovavss.models.open_avs.graphs import graph_specs
from ovavss.models.open_avs.presets import CLASS_MAPS, DETECTOR, LISTENER, OPEN_AVS
from ovavss.models.open_avs.translator import COCO_NAMES, TableTranslator, read_sounds
from ovavss.pipeline.open_avs import OpenAvsPipeline
from ovavss.pipeline.open_avs_options import OpenAvsOptions
from ovavss.runtime.runner import Arrays, Runner

SOUNDS = list(read_sounds())
HEIGHT, WIDTH = 96, 128
DOG = (slice(16, 48), slice(32, 64))  # rows, columns


class Listener(Runner):
    """Hears one class in everything."""

    heard = "Bark"

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        scores = torch.zeros(len(inputs["windows"]), len(SOUNDS))
        scores[:, SOUNDS.index(self.heard)] = 0.9
        return {"sounds": scores}


class Detector(Runner):
    """Sees a dog of score 0.8 in the whole picture, in a box that can be wrong."""

    box = (16 / HEIGHT, 32 / WIDTH, 48 / HEIGHT, 64 / WIDTH)
    calls = 0

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        boxes, scores = torch.zeros(1, 1917, 4), torch.zeros(1, 1917, 90)
        if inputs["frames"].shape[2] == WIDTH:
            self.calls += 1
            y0, x0, y1, x1 = self.box
            boxes[0, 0] = torch.tensor((x0, y0, x1, y1))
            scores[0, 0, COCO_NAMES.index("dog")] = 0.8
        return {"boxes": boxes, "scores": scores}


class ClassMaps(Runner):
    """Sees nothing."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        return {out.name: torch.zeros(1, *out.shape[1:]) for out in self.spec.outputs}  # type: ignore[arg-type]


class MaskImageEncoder(Runner):
    """Sees nothing."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        return {"embedding": torch.zeros(len(inputs["frames"]), 256, 32, 32)}


class PromptDecoder(Runner):
    """Fills the box."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        logits = torch.full((len(inputs["points"]), 4, WIDTH, WIDTH), -1.0)
        for mask, ((x0, y0), (x1, y1)) in zip(logits, inputs["points"] * WIDTH):
            mask[:, int(y0.round()) : int(y1.round()), int(x0.round()) : int(x1.round())] = 1
        return {"mask_logits": logits, "iou": torch.ones(len(logits), 4)}


def clip(name: str = "a") -> StampClip:
    """A dog that sounds in seconds 1 and 2, and a car."""
    visible = {each: np.zeros((5, HEIGHT, WIDTH), bool) for each in ("dog", "car")}
    visible["dog"][:, *DOG] = True
    visible["car"][:, 60:90, 80:120] = True
    sounding = {"dog": np.array([False, True, True, False, False]), "car": np.zeros(5, bool)}
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, HEIGHT, WIDTH, 3), np.uint8)
    waveform = np.repeat(0.1 * sounding["dog"], 16_000).astype(np.float32)
    return StampClip(name, "single", frames, waveform, visible, sounding)


def scores(heard: str = "Bark", box: tuple[float, float, float, float] = Detector.box, clips: int = 1) -> PartScores:
    specs = graph_specs(OPEN_AVS)
    kinds = (Listener, Detector, ClassMaps, MaskImageEncoder, PromptDecoder)
    runners = {name: kind(spec) for (name, spec), kind in zip(specs.items(), kinds, strict=True)}
    runners[LISTENER].heard, runners[DETECTOR].box = heard, box  # type: ignore[attr-defined]
    assert isinstance(runners[CLASS_MAPS], ClassMaps)
    result = evaluate_parts(
        OpenAvsPipeline(runners, TableTranslator(SOUNDS), OpenAvsOptions(zoom=0)),
        [clip(str(index)) for index in range(clips)],
    )
    assert runners[DETECTOR].calls == 2 * clips  # type: ignore[attr-defined]  # the rows share what a graph gave
    return result


def test_nothing_is_lost() -> None:
    result = scores(clips=2)
    assert {name: row.miou for name, row in result.rows.items()} == dict.fromkeys(ROWS, 1)
    assert all(row.names == 1 and row.silent_alarms == 0 and row.clips == 2 for row in result.rows.values())
    assert set(result.losses().values()) == {0}


def test_a_deaf_listener() -> None:
    result = scores(heard="Wind")
    assert [row.miou for row in result.rows.values()] == [0, 1, 1, 1]
    assert result.losses() == {"listener": 1, "translator": 0, "detector": 0, "masker": 0}


def test_a_detector_that_sees_half() -> None:
    result = scores(box=(16 / HEIGHT, 32 / WIDTH, 32 / HEIGHT, 64 / WIDTH))
    assert result.losses() == pytest.approx({"listener": 0, "translator": 0, "detector": 0.5, "masker": 0})
