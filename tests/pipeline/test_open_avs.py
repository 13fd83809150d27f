"""OpenAVS' steps with scripted graphs: a quiet second, tiles, prompts, names over a run, and the whole pipeline."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ovavss.errors import DataWarning, UserError
from ovavss.models.open_avs.graphs import graph_specs
from ovavss.models.open_avs.presets import CLASS_MAPS, OPEN_AVS
from ovavss.models.open_avs.translator import COCO_NAMES, TableTranslator, read_sounds
from ovavss.pipeline.open_avs import OpenAvsPipeline
from ovavss.pipeline.open_avs_steps import (
    Boxes,
    OpenAvsOptions,
    Prompt,
    Sounds,
    _share_inside,
    detect,
    find,
    listen,
    mask,
    sounding_runs,
    translate,
)
from ovavss.runtime.runner import Arrays, Runner

SOUNDS = list(read_sounds())
SIZE = (90, 120)
DOG = (20.0, 30.0, 60.0, 80.0)  # where the dog is: x0, y0, x1, y1
SPECS = graph_specs(replace(OPEN_AVS, class_map_sizes=((96, 128), (192, 256)), mask_side=128))


class Listener(Runner):
    """Hears a dog wherever there is sound, as loud as it is."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        scores = torch.zeros(len(inputs["windows"]), len(SOUNDS))
        scores[:, SOUNDS.index("Bark")] = inputs["windows"].abs().amax(1).clamp(max=1)
        return {"sounds": scores}


class Detector(Runner):
    """Sees the orange pixels as a dog of score 0.8."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        frame = inputs["frames"][0]
        boxes, scores = torch.zeros(1, 1917, 4), torch.zeros(1, 1917, 90)
        rows, columns = torch.nonzero(frame[..., 0] > 200, as_tuple=True)
        if len(rows):
            height, width = frame.shape[:2]
            corners = (
                columns.min() / width,
                rows.min() / height,
                (columns.max() + 1) / width,
                (rows.max() + 1) / height,
            )
            boxes[0, 7] = torch.tensor(corners)
            scores[0, 7, COCO_NAMES.index("dog")] = 0.8
        return {"boxes": boxes, "scores": scores}


class ClassMaps(Runner):
    """Sees ImageNet's class 151, a dog, where the picture is orange."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        orange = (inputs["frames"][..., 0] > 200).float()[:, None]
        sizes = {output.name: output.shape[2:] for output in self.spec.outputs}
        maps = {}
        for name, size in sizes.items():
            maps[name] = torch.zeros(len(orange), 1000, *size)  # type: ignore[arg-type]
            maps[name][:, 151:152] = torch.nn.functional.adaptive_avg_pool2d(orange, size)  # type: ignore[arg-type]
        return maps


class MaskImageEncoder(Runner):
    """Remembers nothing of the picture."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        return {"embedding": torch.zeros(len(inputs["frames"]), 256, 8, 8)}


class PromptDecoder(Runner):
    """Outlines the box, or a third of the picture's width about a point."""

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        points, labels = inputs["points"], inputs["labels"]
        logits = torch.full((len(points), 4, 32, 32), -1.0)
        for k, (pair, label) in enumerate(zip(points, labels)):
            low, high = (pair[0], pair[1]) if label[0] == 2 else (pair[0] - 1 / 6, pair[0] + 1 / 6)
            x0, y0, x1, y1 = (torch.cat((low, high)) * 32).round().int().clamp(min=0).tolist()
            logits[k, :, y0:y1, x0:x1] = 1
        return {"mask_logits": logits, "iou": torch.tensor([[0.5, 0.9, 0.4, 0.3]]).expand(len(points), 4)}


@pytest.fixture
def runners() -> dict[str, Runner]:
    kinds = (Listener, Detector, ClassMaps, MaskImageEncoder, PromptDecoder)
    return {name: kind(spec) for (name, spec), kind in zip(SPECS.items(), kinds, strict=True)}


def picture(dog: bool = True) -> np.ndarray:
    frame = np.full((*SIZE, 3), (30, 90, 40), np.uint8)
    if dog:
        x0, y0, x1, y1 = map(int, DOG)
        frame[y0:y1, x0:x1] = (230, 140, 20)
    return frame


def sound(*loudness: float) -> np.ndarray:
    """One loudness a second."""
    time = np.arange(16_000) / 16_000
    return np.concatenate([level * np.sin(2 * np.pi * 440 * time) for level in loudness]).astype(np.float32)


def test_silent_seconds_are_not_translated(runners: dict[str, Runner]) -> None:
    heard = listen(runners["listener"], sound(0.5, 0, 0.5))
    assert heard.scores.shape == (3, 521)
    nouns = translate(TableTranslator(SOUNDS), heard, OpenAvsOptions())
    assert nouns[0].max() > 0.1 and nouns[2].max() > 0.1 and not nouns[1].any()
    assert sounding_runs(heard, 0.004) == [slice(0, 1), slice(2, 3)]


def test_sounds_of_one_run_are_mixed() -> None:
    scores = np.zeros((2, 521), np.float32)
    scores[0, SOUNDS.index("Bark")] = 0.8
    nouns = translate(TableTranslator(SOUNDS), Sounds(scores, np.ones(2, np.float32)), OpenAvsOptions(smoothing=0.5))
    assert nouns.max(1).tolist() == pytest.approx([0.6, 0.2])


def test_boxes_that_a_tile_cuts_are_left_out(runners: dict[str, Runner]) -> None:
    frame = picture(dog=False)
    frame[10:40, 80:100] = 255  # the left tile ends at x = 90
    boxes = detect(runners["detector"], frame).boxes
    np.testing.assert_allclose(boxes, [[80, 10, 100, 40]] * 2)


def found(runners: dict[str, Runner], boxes: Boxes, **options: float) -> Prompt:
    translator = TableTranslator(SOUNDS)
    dog = next(noun for noun in translator.nouns if noun.name == "dog")
    maps = runners[CLASS_MAPS](frames=torch.from_numpy(picture())[None])
    numpy_maps = (maps["coarse"][0].numpy(), maps["fine"][0].numpy())
    finding = find(dog, boxes, numpy_maps, SIZE, replace(OpenAvsOptions(), **options))  # type: ignore[arg-type]
    assert finding is not None
    return finding.prompt


def scored(*boxes: tuple[float, float, float, float, float]) -> Boxes:
    scores = np.zeros((len(boxes), 90), np.float32)
    scores[:, COCO_NAMES.index("dog")] = [box[4] for box in boxes]
    return Boxes(np.array([box[:4] for box in boxes]).reshape(-1, 4), scores)


def test_a_box_where_the_class_maps_agree_is_preferred(runners: dict[str, Runner]) -> None:
    prompt = found(runners, scored((*DOG, 0.5), (80, 0, 110, 20, 0.7)))
    np.testing.assert_array_equal(prompt.boxes, [DOG])


def test_further_boxes_are_instances_where_they_do_not_overlap(runners: dict[str, Runner]) -> None:
    boxes = scored((*DOG, 0.9), (22, 30, 60, 82, 0.85), (80, 0, 110, 20, 0.8))
    assert len(found(runners, boxes).boxes) == 1
    assert len(found(runners, boxes, instances=0.3).boxes) == 2


def test_without_a_box_points_lie_on_the_object(runners: dict[str, Runner]) -> None:
    prompt = found(runners, scored())
    assert not len(prompt.boxes) and prompt.region is not None
    for x, y in prompt.points:
        assert DOG[0] < x < DOG[2] and DOG[1] < y < DOG[3]
    outline = mask(runners["prompt_decoder"], torch.zeros(1, 256, 8, 8), prompt, SIZE)
    assert outline.shape == SIZE and outline[50, 40] and not outline[:, 100:].any()


def test_mask_of_boxes_unites_the_instances(runners: dict[str, Runner]) -> None:
    prompt = Prompt(np.array([DOG, (75, 0, 105, 30)]))
    outline = mask(runners["prompt_decoder"], torch.zeros(1, 256, 8, 8), prompt, SIZE)
    assert outline[50, 40] and outline[15, 90] and not outline[80, 90]


def test_pipeline_answers_when_the_dog_is_heard_and_seen(runners: dict[str, Runner]) -> None:
    pipeline = OpenAvsPipeline(runners, TableTranslator(SOUNDS))
    frames = np.stack([picture(), picture(), picture(dog=False)])
    waveform = sound(0.5, 0, 0.5)
    every = pipeline.embed_names(pipeline.names)
    result = pipeline.segment(frames, waveform, every)
    assert [every.names[label] for label in result.ranking.label] == ["dog"]
    assert result.masks.any((2, 3)).tolist() == [[True, False, False]]
    assert set(result.label_map[0].unique().tolist()) == {0, every.names.index("dog") + 1}


def test_pipeline_answers_only_the_users_names(runners: dict[str, Runner]) -> None:
    pipeline = OpenAvsPipeline(runners, TableTranslator(SOUNDS))
    frames, waveform = picture()[None], sound(0.5)
    puppy = pipeline.embed_names(["car", "puppy"])
    assert pipeline.segment(frames, waveform, puppy).ranking.label.tolist() == [1]
    assert not len(pipeline.segment(frames, waveform, pipeline.embed_names(["car"])).ranking.label)
    with pytest.raises(UserError, match="none of the classes nothing is known"):
        pipeline.embed_names(["nothing"])
    with pytest.warns(DataWarning) as said:
        known = pipeline.embed_names(["dog", "ufo", "puppy"])
    assert set(known.label_of.values()) == {0}
    assert [str(each.message).split(", ")[0] for each in said] == [
        "preset 'open_avs' does not know class 'ufo'",
        "class 'puppy' is another word for one before it",
    ]


def test_share_of_masks_in_their_box() -> None:
    """A frame of 90 x 120 lies in a square of 120: its right half, its lower half, and what is outside a box."""
    masks = torch.zeros(1, 3, 12, 12, dtype=torch.bool)
    masks[0, 0, :9, 6:], masks[0, 1, 4:9] = True, True
    share = _share_inside(masks, np.array([[60.0, 0.0, 120.0, 90.0]]), 120)
    np.testing.assert_allclose(share[0], [1.0, 0.5, 0.0])
