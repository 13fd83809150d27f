"""The stages that train `tiny`: they run from nothing to a file that loads, and see base combinations only."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ovavss.checkpoints.shipped import shipped_weights
from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.datasets.sounding_shapes.audio import REGISTER_BINS, REGISTER_STARTS, Sound, synthesize
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import BASE, FORMS, RGB, Scene, sample_scene
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.frame_preparation import PIXEL_MEAN, PIXEL_STD
from ovavss.models.ov_avss.presets import CLIP_IMAGE_ENCODER, PRESETS, AudioPrompt, Crop, Fusion
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.pipeline.pipeline import Pipeline
from ovavss.runtime.engines import torch_runners
from ovavss.training.batch_norm import thaw_batch_norm
from ovavss.training.recipes.ablation import Row, run_ablations
from ovavss.training.recipes.crops import localizer_crops, marked_categories, normalized, rough_crops, rough_logits
from ovavss.training.recipes.pretrain_audio import (
    CELLS,
    PAIR_SCALE,
    SATURATION,
    CellClassifier,
    heard_patches,
    roughen,
    write_embeddings,
)  # fmt: skip
from ovavss.training.recipes.pretrain_backbone import SEEN, loss_among_seen, other_hues, seen_labels
from ovavss.training.recipes.pretrain_fusion import Comparison, Rehearsal, compared_frames, spread
from ovavss.training.recipes.sound_bank import sound_bank
from ovavss.training.recipes.tiny import LOCALIZER, TinyRecipe
from ovavss.training.recipes.tiny_stages import TinyTraining, write_weights
from ovavss.training.recipes.world import TRAINING_CONFIG, rendered_world

TINY = PRESETS["tiny"]
needs_weights = pytest.mark.skipif(shipped_weights("tiny") is None, reason="no weights of tiny are shipped")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


RECIPE = TinyRecipe(
    world_clips=6, audio_clips=2, audio_steps=1, backbone_steps=1, fusion_steps=1, crop_clips=2, clip_steps=1,
    adapt_clips=2, adapt_steps=1, bank_mixtures=120,
    localizer=dataclasses.replace(LOCALIZER, iterations=2, batch=2, num_points=64),
)  # fmt: skip


def test_stages_end_in_weights_that_load(work: Path, tmp_path: Path) -> None:
    training = TinyTraining(TINY, RECIPE, work, workers=1)
    usslm, encoder = training.localizer(), training.audio_encoder()
    clip = training.adapted_clip(usslm)
    path = tmp_path / "tiny.safetensors"
    write_weights(path, encoder, usslm, clip, TINY)
    assert path.stat().st_size < 15e6

    loaded = load_models(TINY, WeightsSource(files=[path])).models
    for ours, theirs in ((usslm, loaded.usslm), (encoder, loaded.audio_encoder), (clip, loaded.clip)):
        for name, tensor in ours.state_dict().items():
            assert torch.allclose(theirs.state_dict()[name].float(), tensor.float(), rtol=1e-3, atol=1e-5), name
    # Finished stages are read again, not trained again.
    again = TinyTraining(TINY, RECIPE, work, workers=1)
    for name, tensor in again.localizer().state_dict().items():
        assert torch.equal(tensor, usslm.state_dict()[name]), name


@pytest.mark.slow
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
    images, color, form = seen_labels(world, np.array([0, 3]), np.array([1, 4]))
    assert images.shape == (2, 3, 96, 96) and color.shape == form.shape == (2, 12, 12)
    categories = {int(c) - 1 for c in ((color - 1) * len(FORMS) + form)[color > 0].unique()}
    assert categories <= {shape.category for i in (0, 3) for shape in _scene(i).shapes}
    assert scene.snippets == 5


def _scene(index: int) -> Scene:
    return sample_scene(4, index, categories=BASE, config=TRAINING_CONFIG)


def test_a_register_higher_moves_the_token_by_one_cell() -> None:
    """With any weights: what the audio encoder says of a pattern does not depend on where it is on the mel axis."""
    torch.manual_seed(0)
    encoder = AudioEncoder(TINY.audio, TINY.snippets)
    model = CellClassifier(encoder).eval()
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


def test_embeddings_say_what_the_shared_layer_says() -> None:
    torch.manual_seed(0)
    encoder = AudioEncoder(TINY.audio, TINY.snippets).eval()
    model = CellClassifier(encoder).eval()
    with torch.no_grad():
        model.head.weight.mul_(120)  # some logits beyond saturation
        write_embeddings(encoder, model.head)
        patches = heard_patches(4, range(2), "all")[0].float()
        logits, token = model(patches), encoder.vggish(patches)
    present = (logits.relu() - (logits - SATURATION).relu()) / SATURATION
    assert present.max() > 0.99 and present.min() == 0
    pairs = CELLS * len(FORMS)
    torch.testing.assert_close(token[:, :pairs], PAIR_SCALE * present.flatten(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(token[:, pairs : pairs + len(FORMS)], present.sum(1), atol=1e-3, rtol=1e-4)
    by_register = token[:, pairs + len(FORMS) : pairs + len(FORMS) + CELLS]
    torch.testing.assert_close(by_register, present.sum(2), atol=1e-3, rtol=1e-4)
    assert not token[:, pairs + len(FORMS) + CELLS :].any()


def test_unseen_combinations_are_neither_taught_nor_denied(tmp_path: Path) -> None:
    assert SEEN[1:, 1:].flatten().nonzero().flatten().tolist() == list(BASE) and SEEN[0].all() and SEEN[:, 0].all()
    world = rendered_world(tmp_path, 4, 4, workers=1)
    _, colors, forms = seen_labels(world, np.arange(4), np.zeros(4, np.int64))
    logits = torch.randn(4, len(FORMS) + 1, 12, 12, requires_grad=True)
    loss_among_seen(logits, forms, SEEN[colors]).backward()
    gradient = logits.grad
    assert gradient is not None
    untaught = ~SEEN[colors].movedim(-1, 1)
    assert untaught.any() and not gradient[untaught].any() and gradient[~untaught].any()


def test_other_hues_are_no_colors_of_the_world() -> None:
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    palette = torch.tensor([RGB[c] for c in range(6)], dtype=torch.float32)
    torch.manual_seed(0)
    for rgb in palette:
        images = ((rgb[:, None, None] - mean) / std).expand(400, -1, 2, 2)
        turned = (other_hues(images) * std + mean)[:, :, 0, 0]
        # A shape's color varies by 14 in each channel.
        assert ((turned[:, None] - palette).abs().amax(2) > 14).all()
        assert (turned - rgb).abs().amax(1).max() > 150  # and they go all the way round
    gray = torch.full((3, 1, 1), 90.0)
    torch.testing.assert_close(other_hues(((gray - mean) / std)[None]) * std + mean, gray[None], atol=1e-3, rtol=0)


def test_frames_of_the_fusion_pretraining(tmp_path: Path) -> None:
    world = rendered_world(tmp_path, 4, 4, workers=1)
    torch.manual_seed(0)
    bank = sound_bank(AudioEncoder(TINY.audio, TINY.snippets).eval().requires_grad_(False), 4, 120, 1)
    frames = compared_frames(world, bank, 12, np.random.default_rng(0))
    there = frames.categories >= 0
    register, pattern, sounds = frames.heard.bool().unbind(2)
    assert not (frames.heard.bool().any(2) & ~there).any()
    assert (register & pattern)[sounds].all() and (register & ~sounds).any() and (pattern & ~sounds).any()
    per_pixel = spread(frames.categories, frames.instances, 8)
    assert per_pixel.shape == (12, 12, 12) and ((per_pixel >= 0) == (frames.instances[:, 4::8, 4::8] > 0)).all()


def test_rehearsal_keeps_heads_and_statistics(tmp_path: Path) -> None:
    world = rendered_world(tmp_path, 4, 4, workers=1)
    torch.manual_seed(0)
    bank = sound_bank(AudioEncoder(TINY.audio, TINY.snippets).eval().requires_grad_(False), 4, 120, 1)
    usslm = USSLM(TINY)
    thaw_batch_norm(usslm)
    model = Comparison(usslm, TINY.hidden_dim)
    rehearsal = Rehearsal(model, world, bank)
    before = {name: tensor.clone() for name, tensor in usslm.state_dict().items()}
    assert rehearsal(1, np.random.default_rng(0)) is None
    loss, again = (rehearsal(2, np.random.default_rng(0)) for _ in range(2))
    assert loss is not None and again is not None and torch.equal(loss, again)
    loss.backward()
    assert model.first.weight.grad is None and usslm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in usslm.state_dict().items())
    assert usslm.backbone.stem.conv.weight.grad is not None


def test_rough_crops_show_each_object_under_its_name() -> None:
    crops, labels = rough_crops(6, range(2), 32)
    assert crops.shape[1:] == (3, 32, 32) and crops.dtype == np.uint8 and len(crops) == len(labels)
    shown = {shape.category for i in range(2) for shape in sample_scene(6, i).shapes}
    assert set(labels.tolist()) == shown
    masks = torch.zeros(2, 5, 96, 96, dtype=torch.bool)
    masks[:, :, 30:60, 30:60] = True
    logits = rough_logits(masks, np.random.default_rng(0))
    assert logits.shape == (2, 5, 24, 24)
    assert (logits[:, :, 10:13, 10:13] > 0).all() and (logits[:, :, :4] < 0).all()


def test_a_query_has_the_category_of_what_it_marks() -> None:
    clip = next(clip for i in range(50) if len((clip := render(sample_scene(6, i))).masks) >= 2
                and 0 < clip.sounding.any(1).sum() < len(clip.masks))  # fmt: skip
    loud = int(clip.sounding.any(1).argmax())
    quiet = int((~clip.sounding.any(1)).argmax())
    masks = torch.from_numpy(clip.masks).float()
    both = torch.maximum(masks[loud], masks[quiet])
    nothing = 1 - masks.amax(0)
    queries = torch.stack([masks[quiet], masks[loud], both, nothing, torch.zeros_like(both)])
    logits = torch.nn.functional.avg_pool2d(queries, 4) * 20 - 10
    categories = [int(c) for c in clip.categories]
    got = marked_categories(logits, clip, (96, 96)).tolist()
    assert got == [categories[quiet], categories[loud], categories[loud], -1, -1]
    # Padding of the network's frame is no object.
    assert marked_categories(torch.nn.functional.pad(logits, (0, 8), value=-10.0), clip, (96, 96)).tolist() == got


@needs_weights
def test_crops_by_the_localizer_are_those_that_the_pipeline_names() -> None:
    models = load_models(TINY, WeightsSource()).models
    crops, labels = localizer_crops(torch_runners(models), 6, range(3), 32)
    seen: list[torch.Tensor] = []

    def look(crops: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(crops)
        return {"image_embeddings": torch.zeros(len(crops), TINY.clip.embed_dim)}

    runners = torch_runners(models) | {CLIP_IMAGE_ENCODER: look}
    pipeline = Pipeline(TINY, runners)  # type: ignore[arg-type]
    for i in range(3):
        clip = render(sample_scene(6, i))
        pipeline(clip.frames, clip.waveform, torch.zeros(1, TINY.clip.embed_dim))
    named = torch.cat(seen).flatten(1)
    assert 0 < len(crops) <= len(named)
    distance = torch.cdist(normalized(torch.from_numpy(crops)).flatten(1), named).amin(1)
    assert (distance < 0.02 * named.norm(dim=1).mean()).all()  # stored with 8 bits
    shown = {shape.category for i in range(3) for shape in sample_scene(6, i).shapes}
    assert set(labels.tolist()) <= shown


@needs_weights
def test_shipped_weights_are_small_enough() -> None:
    path = shipped_weights("tiny")
    assert path is not None and path.stat().st_size < 15e6
