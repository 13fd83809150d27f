"""The pipeline over any runners: proposals, empty clips, inputs that do not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovavss.checkpoints.weights import build_models
from ovavss.models.ov_avss.presets import CLIP_IMAGE_ENCODER, PRESETS, USSLM_GRAPH, Crop, Proposals
from ovavss.pipeline.pipeline import STEPS, Pipeline
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import torch_runners
from ovavss.runtime.runner import Runner

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def runners() -> dict[str, Runner]:
    return torch_runners(build_models(TINY, 1))


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 90, 120, 3), dtype=np.uint8), rng.uniform(-0.5, 0.5, 80_000).astype(np.float32)


class Changed(Runner):
    """A localizer whose outputs a test replaces."""

    def __init__(self, runner: Runner, **outputs: torch.Tensor) -> None:
        super().__init__(runner.spec)
        self.runner, self.outputs = runner, outputs

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self.runner(**inputs) | self.outputs


def test_shapes_and_order(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    pipeline = Pipeline(TINY, runners)
    vocabulary = pipeline.embed_names(["man", "dog", "piano"])
    torch.testing.assert_close(vocabulary.norm(dim=1), torch.ones(3))
    found = pipeline(*clip, vocabulary)
    assert found.masks.shape == (len(found.ranking.score), 5, 90, 120) and found.masks.dtype == torch.bool
    assert found.label_map.shape == (5, 90, 120) and len(found.ranking.score) <= 10
    assert (found.ranking.score.diff() <= 0).all()


def test_batches_of_crops_change_nothing(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    vocabulary = Pipeline(TINY, runners).embed_names(["man", "dog"])
    one, two = (Pipeline(TINY, runners, Options(clip_batch=batch))(*clip, vocabulary) for batch in (3, 64))
    torch.testing.assert_close(one.ranking.score, two.ranking.score)
    assert torch.equal(one.label_map, two.label_map) and one.crops == two.crops > 3


def test_sounding_proposals_are_those_that_sound(
    runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]
) -> None:
    scores = torch.full((1, 10), 0.2)
    scores[0, [2, 7]] = 0.9
    changed = runners | {USSLM_GRAPH: Changed(runners[USSLM_GRAPH], sound_scores=scores)}
    vocabulary = Pipeline(TINY, runners).embed_names(["man", "dog"])
    options = Options(proposals=Proposals.SOUNDING)
    found = Pipeline(TINY, changed, options)(*clip, vocabulary)
    assert set(found.ranking.query.tolist()) <= {2, 7} and found.crops <= 10
    everything = Pipeline(TINY, changed, replace(options, sound_threshold=0.1))(*clip, vocabulary)
    assert everything.crops == Pipeline(TINY, runners)(*clip, vocabulary).crops


def test_nothing_found(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    masks = torch.full((1, 10, 5, 24, 32), -5.0)
    changed = runners | {USSLM_GRAPH: Changed(runners[USSLM_GRAPH], mask_logits=masks)}
    pipeline = Pipeline(TINY, changed)
    found = pipeline(*clip, pipeline.embed_names(["man"]))
    assert found.crops == 0 and len(found.ranking.score) == 0 and not found.label_map.any()
    assert found.masks.shape == (0, 5, 90, 120)


def test_several_clips_as_one_by_one(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    pipeline = Pipeline(TINY, runners, Options(clip_batch=7))
    vocabulary = pipeline.embed_names(["man", "dog"])
    frames, waveform = clip
    clips = [(frames, waveform), (frames[::-1].copy(), -waveform), (frames[:, ::-1].copy(), waveform * 0.1)]
    alone = [pipeline(*one, vocabulary) for one in clips]
    together = pipeline.run_batch(clips, vocabulary)
    threads = torch.get_num_threads()
    streamed = [list(pipeline.stream(clips, vocabulary, *how)) for how in ((1,), (1, True), (2,))]
    batches = Pipeline(TINY, runners, Options(localizer_batch=2))
    streamed += [list(batches.stream(clips, vocabulary, *how)) for how in ((1,), (1, True), (2,))]
    assert torch.get_num_threads() == threads
    for found in (together, *streamed):
        for one, other in zip(alone, found, strict=True):
            torch.testing.assert_close(one.ranking.score, other.ranking.score)
            # Clips at once have fewer threads each, and sums of another order.
            assert (one.label_map == other.label_map).float().mean() > 0.999 and one.crops == other.crops > 7


def test_batches_of_the_localizer(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    """Neighbors of one size share a call; the order is that of the clips."""
    sizes: list[int] = []

    class Counting(Changed):
        def run(self, inputs):  # type: ignore[no-untyped-def]
            sizes.append(len(inputs["frames"]))
            return super().run(inputs)

    frames, waveform = clip
    clips = [(frames[:, :side], waveform) for side in (90, 90, 90, 64, 90)]
    counting = Pipeline(TINY, runners | {USSLM_GRAPH: Counting(runners[USSLM_GRAPH])}, Options(localizer_batch=2))
    found = counting.run_batch(clips, counting.embed_names(["man"]))
    assert sizes == [2, 1, 1, 1]
    assert [one.label_map.shape[1] for one in found] == [90, 90, 90, 64, 90]


def test_fewer_crops(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    plain = Options(score_threshold=0.1)
    vocabulary = Pipeline(TINY, runners).embed_names(["man", "dog"])
    every = Pipeline(TINY, runners, plain)(*clip, vocabulary)
    one = Pipeline(TINY, runners, replace(plain, frames_per_query=1))(*clip, vocabulary)
    assert set(one.ranking.query.tolist()) <= set(every.ranking.query.tolist()) and one.crops <= 10 < every.crops
    # A logit that is the same everywhere makes all queries one region a frame.
    same = changed_masks(runners, torch.full((1, 10, 5, 24, 32), 3.0))
    merged = Pipeline(TINY, same, replace(plain, merge_iou=1.0))(*clip, vocabulary)
    apart = Pipeline(TINY, same, plain)(*clip, vocabulary)
    assert merged.crops == 5 and apart.crops == 50
    torch.testing.assert_close(merged.ranking.score, apart.ranking.score)


def test_looking_until_sure(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    """One frame where any name will do, all of them where none will; the same alone and among other clips."""
    vocabulary = Pipeline(TINY, runners).embed_names(["man", "dog"])
    clips = [clip, (clip[0][::-1].copy(), clip[1])]
    every = Pipeline(TINY, runners).run_batch(clips, vocabulary)
    strict, easy = (
        Pipeline(TINY, runners, Options(confidence_threshold=limit, clip_batch=7)).run_batch(clips, vocabulary)
        for limit in (1.0, 0.0)
    )
    for one, all_frames in zip(strict, every):
        torch.testing.assert_close(one.ranking.score, all_frames.ranking.score)
        assert one.crops <= all_frames.crops
    assert all(0 < one.crops <= 10 < all_frames.crops for one, all_frames in zip(easy, every))
    alone = Pipeline(TINY, runners, Options(confidence_threshold=0.0))(*clips[1], vocabulary)
    assert alone.crops == easy[1].crops and torch.equal(alone.label_map, easy[1].label_map)
    # A threshold on sound that nothing reaches leaves nothing to look at.
    options = Options(Proposals.SOUNDING, sound_threshold=1.0, confidence_threshold=0.9)
    assert Pipeline(TINY, runners, options)(*clip, vocabulary).crops == 0


def changed_masks(runners: dict[str, Runner], masks: torch.Tensor) -> dict[str, Runner]:
    return runners | {USSLM_GRAPH: Changed(runners[USSLM_GRAPH], mask_logits=masks)}


def test_masks_of_what_is_named_only(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    vocabulary = Pipeline(TINY, runners).embed_names(["man", "dog"])
    score = Pipeline(TINY, runners)(*clip, vocabulary).ranking.score
    threshold = float(score[2])
    plain, named = (
        Pipeline(TINY, runners, Options(score_threshold=threshold, named_only=only))(*clip, vocabulary)
        for only in (False, True)
    )
    assert torch.equal(plain.label_map, named.label_map) and len(named.masks) == 2 < len(plain.masks)


def test_a_clock_hears_every_step(runners: dict[str, Runner], clip: tuple[np.ndarray, np.ndarray]) -> None:
    heard: list[str] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        heard.append(name)
        yield

    pipeline = Pipeline(TINY, runners, step=step)
    pipeline(*clip, pipeline.embed_names(["man"]))
    assert list(dict.fromkeys(heard)) == list(STEPS)


@pytest.mark.parametrize(("crop", "share"), [(Crop.NONE, 1 / 6), (Crop.CROP_RESIZE, 1.0), (Crop.SQUARE, 1 / 2)])
def test_every_crop_strategy(crop: Crop, share: float, runners: dict[str, Runner]) -> None:
    """What CLIP sees of a region of 32 x 64 pixels in white frames of 96 x 128: the share that is not black."""
    seen: list[torch.Tensor] = []

    class Seeing(Changed):
        def run(self, inputs):  # type: ignore[no-untyped-def]
            seen.append(inputs["crops"])
            return super().run(inputs)

    masks = torch.full((1, 10, 5, 24, 32), -50.0)
    masks[:, :, :, 8:16, 4:20] = 50.0
    changed = changed_masks(runners, masks)
    changed[CLIP_IMAGE_ENCODER] = Seeing(runners[CLIP_IMAGE_ENCODER])
    pipeline = Pipeline(TINY, changed, Options(crop=crop, square_anchor="center"))
    frames = np.full((5, 96, 128, 3), 255, np.uint8)
    assert pipeline(frames, np.zeros(80_000, np.float32), pipeline.embed_names(["man"])).crops == 50
    crops = torch.cat(seen)
    white = (crops - crops.amin()) / (crops.amax() - crops.amin())
    assert crops.shape == (50, 3, 32, 32)
    assert (white > 0.5).float().mean() == pytest.approx(share, abs=0.05)


def test_inputs_that_do_not_fit(runners: dict[str, Runner]) -> None:
    run = runners[USSLM_GRAPH]
    audio = torch.zeros(1, 5, 128)
    with pytest.raises(ValueError, match=r"usslm: 'frames' must be uint8 \[clips, 5, height, width, 3\], not float32"):
        run(frames=torch.zeros(1, 5, 32, 32, 3), audio=audio)
    with pytest.raises(ValueError, match=r"not uint8 \[1, 4, 32, 32, 3\]"):
        run(frames=torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8), audio=audio)
    with pytest.raises(ValueError, match="usslm takes frames, audio, not audio"):
        run(audio=audio)
