"""The stages that train `tiny`: they run from nothing to a file that loads, and see base combinations only."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ovavss.data.sounding_shapes import BASE, FORMS, Scene, Sound, render, sample_scene
from ovavss.data.sounding_shapes_audio import REGISTER_BINS, REGISTER_STARTS, synthesize
from ovavss.model.audio_encoder import AudioEncoder
from ovavss.model.presets import PRESETS, AudioPrompt, Crop, Fusion
from ovavss.runtime.weights import WeightsSource, load_models
from ovavss.training.ablation import Row, run_ablations
from ovavss.training.pretrain_audio import CELLS, CellClassifier, heard_patches, roughen
from ovavss.training.pretrain_backbone import seen_labels
from ovavss.training.pretrain_clip import object_crops, rough_logits
from ovavss.training.tiny import LOCALISER, TinyRecipe, TinyTraining, write_weights
from ovavss.training.world import TRAINING_CONFIG, rendered_world

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


RECIPE = TinyRecipe(
    world_clips=6, audio_clips=2, audio_steps=1, backbone_steps=1, fusion_steps=1, crop_clips=2, clip_steps=1,
    localiser=dataclasses.replace(LOCALISER, iterations=2, batch=2, num_points=64), bank_mixtures=120,
)  # fmt: skip


def test_stages_end_in_weights_that_load(work: Path, tmp_path: Path) -> None:
    training = TinyTraining(TINY, RECIPE, work, workers=1)
    usslm, encoder, clip = training.localiser(), training.audio_encoder(), training.clip()
    path = tmp_path / "tiny.safetensors"
    write_weights(path, encoder, usslm, clip, TINY)
    assert path.stat().st_size < 15e6

    loaded = load_models(TINY, WeightsSource(files=[path])).models
    for ours, theirs in ((usslm, loaded.usslm), (encoder, loaded.audio_encoder), (clip, loaded.clip)):
        for name, tensor in ours.state_dict().items():
            assert torch.allclose(theirs.state_dict()[name].float(), tensor.float(), rtol=1e-3, atol=1e-5), name
    # Finished stages are read again, not trained again.
    again = TinyTraining(TINY, RECIPE, work, workers=1)
    for name, tensor in again.localiser().state_dict().items():
        assert torch.equal(tensor, usslm.state_dict()[name]), name


def test_ablations_train_and_score_every_switch(work: Path) -> None:
    heard: list[Row] = []
    rows = run_ablations(TINY, work, 1, 1000, 1, heard.append, RECIPE)
    assert heard == rows
    named = {(row.variant.table, row.variant.name) for row in rows}
    assert {name for table, name in named if table == "3 fusion"} == set(Fusion)
    assert {name for table, name in named if table == "4 audio prompt"} == set(AudioPrompt)
    assert {name for table, name in named if table == "5 crop"} == set(Crop)
    folders = {path.name for path in work.glob("ablation_1_*")}
    assert len(folders) == len(Fusion) + len(AudioPrompt) - 1  # the published pair is trained once
    assert len(list(work.glob("fusion_*_1.pt"))) == len(Fusion)


def test_training_clips_hold_base_categories_only(tmp_path: Path) -> None:
    world = rendered_world(tmp_path, 3, 6, workers=1)
    used = set(np.unique(world.categories).tolist()) - {-1}
    assert used <= set(BASE)
    for index in range(len(world)):
        scene = sample_scene(3, index, categories=BASE, config=TRAINING_CONFIG)
        assert {sound.category for sound in scene.sounds} <= set(BASE)
        clip = render(scene)
        assert np.array_equal(world.frames[index], clip.frames)
        instances = world.instances[index]
        truth = np.zeros_like(clip.label_map)
        for k, category in enumerate(clip.categories):
            truth[(instances == k + 1) & world.sounding[index, k][:, None, None]] = category + 1
        assert np.array_equal(truth, clip.label_map)


def test_labels_of_what_is_heard_and_seen(tmp_path: Path) -> None:
    patches, labels = heard_patches(4, range(3))
    assert patches.shape == (15, 96, 64) and labels.shape == (15, CELLS)
    scene = sample_scene(4, 0, categories=BASE, config=TRAINING_CONFIG)
    assert roughen(patches.float()).isfinite().all()
    assert not labels[:, 0].any() and not labels[:, 7].any()
    world = rendered_world(tmp_path, 4, 4, workers=1)
    images, colour, form = seen_labels(world, np.array([0, 3]), np.array([1, 4]))
    assert images.shape == (2, 3, 96, 96) and colour.shape == form.shape == (2, 12, 12)
    categories = {int(c) - 1 for c in ((colour - 1) * len(FORMS) + form)[colour > 0].unique()}
    assert categories <= {shape.category for i in (0, 3) for shape in _scene(i).shapes}
    assert scene.snippets == 5


def _scene(index: int) -> Scene:
    return sample_scene(4, index, categories=BASE, config=TRAINING_CONFIG)


def test_a_register_higher_moves_the_token_by_one_cell() -> None:
    """With any weights: what the audio encoder says of a pattern does not depend on where it is on the mel axis."""
    torch.manual_seed(0)
    encoder = AudioEncoder(TINY.audio, TINY.snippets)
    model = CellClassifier(encoder, TINY).eval()
    quiet = encoder.log_mel(torch.zeros(1, 80_000))[0, :1]
    sound = synthesize([Sound(7, (True,) * 5)], 80_000, -90.0)
    patch = encoder.log_mel(torch.from_numpy(sound)[None])[0, :1]
    start = REGISTER_STARTS[1]
    low, high = quiet.clone(), quiet.clone()
    low[..., start : start + REGISTER_BINS] = patch[..., start : start + REGISTER_BINS]
    high[..., start + 16 : start + 16 + REGISTER_BINS] = patch[..., start : start + REGISTER_BINS]
    with torch.no_grad():
        a, b = model(low)[0], model(high)[0]
    assert torch.allclose(a[2], b[4], atol=1e-5)
    assert not torch.allclose(a[2], b[2], atol=1e-3)


def test_crops_are_those_of_the_pipeline() -> None:
    crops, labels, objects = object_crops(6, range(2), 32)
    assert crops.shape[1:] == (3, 32, 32) and crops.dtype == np.uint8
    assert len(crops) == len(labels) == len(objects)
    for label, number in zip(labels, objects):
        assert sample_scene(6, number // 8).shapes[number % 8].category == label
    masks = torch.zeros(2, 5, 96, 96, dtype=torch.bool)
    masks[:, :, 30:60, 30:60] = True
    logits = rough_logits(masks, np.random.default_rng(0))
    assert logits.shape == (2, 5, 24, 24)
    assert (logits[:, :, 10:13, 10:13] > 0).all() and (logits[:, :, :4] < 0).all()


@pytest.mark.skipif("tiny.safetensors" not in str(list((Path(__file__).parents[2] / "ovavss/weights").glob("*"))),
                    reason="no weights are shipped")  # fmt: skip
def test_shipped_weights_are_small_enough() -> None:
    path = Path(__file__).parents[2] / "ovavss/weights/tiny.safetensors"
    assert path.stat().st_size < 15e6
