"""Training: the same seed gives the same weights, killed or not, on one process or two, on both kinds of data."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ovavss.datasets.avsbench_ov import AvsbenchTraining
from ovavss.datasets.sounding_shapes.disk import write_avsbench
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.errors import UserError
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.presets import PRESETS, MaskDecoderConfig, PixelDecoderConfig, Preset, ResNetConfig
from ovavss.models.ov_avss.resnet import FrozenBatchNorm2d
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.training.avsbench_clips import AvsbenchClips, short_sides
from ovavss.training.batch_norm import freeze_batch_norm, thaw_batch_norm, without_counters
from ovavss.training.clips import clip_numbers
from ovavss.training.optimizer import build_optimizer
from ovavss.training.recipes.world import RenderedWorld, WorldClips, rendered_world
from ovavss.training.run import CHECKPOINT, CURVES, LOG, read_log, run
from ovavss.training.schedule import averaged_model, published_steps, warm_hold_cosine
from ovavss.training.trainer import Recipe, Trainer

TINY = PRESETS["tiny"]
# The same modules with the smallest numbers: what is tested does not depend on them.
SMALL = dataclasses.replace(
    TINY,
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem_channels=8, bottleneck_channels=8, out_channels=8),
    pixel_decoder=PixelDecoderConfig(num_layers=1, num_heads=4, num_points=2, ffn_dim=32, num_groups=8),
    mask_decoder=MaskDecoderConfig(num_queries=5, num_layers=1, num_heads=4, ffn_dim=32),
    hidden_dim=32,
)
RECIPE = Recipe(
    iterations=20, batch=2, lr=1e-3, num_points=64, schedule="cosine", warmup=3, batch_norm="trained", ema=0.9, seed=3
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RenderedWorld:
    return rendered_world(tmp_path_factory.mktemp("world"), 5, 12, workers=1)


def clips_of(world: RenderedWorld) -> WorldClips:
    tokens = torch.randn(len(world), 5, TINY.audio_dim, generator=torch.Generator().manual_seed(0))
    return WorldClips(world, tokens)


def trainer_of(recipe: Recipe, preset: Preset = SMALL) -> Trainer:
    torch.manual_seed(1)
    usslm = USSLM(preset)
    if recipe.batch_norm == "trained":
        thaw_batch_norm(usslm.backbone)
    return Trainer(usslm, recipe)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def test_same_weights_twice_and_after_a_kill(world: RenderedWorld, tmp_path: Path) -> None:
    clips = clips_of(world)
    whole, again, killed = (trainer_of(RECIPE) for _ in range(3))
    run(whole, clips, tmp_path / "whole", checkpoint_every=7, log_every=5)
    run(again, clips, tmp_path / "again", checkpoint_every=7, log_every=5)
    assert_same(whole.usslm.state_dict(), again.usslm.state_dict())

    run(killed, clips, tmp_path / "killed", checkpoint_every=7, log_every=5, stop_after=9)
    torch.manual_seed(99)
    resumed = trainer_of(RECIPE)
    run(resumed, clips, tmp_path / "killed", checkpoint_every=7, log_every=5)
    assert_same(whole.usslm.state_dict(), resumed.usslm.state_dict())
    assert_same(whole.averaged(), resumed.averaged())
    logs = [read_log(tmp_path / name / LOG) for name in ("whole", "killed")]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    # A mean over 5 iterations that the kill cut in two is not the same; the others are.
    assert [row["iteration"] for row in logs[0]] == [row["iteration"] for row in logs[1]] == [5, 10, 15, 20]
    assert logs[0][2:] == logs[1][2:]
    assert (tmp_path / "whole" / CURVES).stat().st_size > 5000
    assert (tmp_path / "killed" / CHECKPOINT).exists()


def test_resume_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    trainer_of(RECIPE).save(path)
    with pytest.raises(UserError, match="batch_norm = trained"):
        trainer_of(dataclasses.replace(RECIPE, batch_norm="frozen")).resume(path)
    with pytest.raises(UserError, match="another model"):
        trainer_of(RECIPE, TINY).resume(path)
    trainer_of(dataclasses.replace(RECIPE, iterations=30)).resume(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        trainer_of(RECIPE).resume(path)


def fixed_points(shape: tuple[int, ...]) -> torch.Tensor:
    """The same points for every row, whoever draws them: what one process and two must have in common."""
    line = torch.rand(shape[1:], generator=torch.Generator().manual_seed(shape[1]))
    return line.expand(shape)


def ddp_gradients(world: RenderedWorld) -> dict[str, torch.Tensor]:
    """Of one step over two clips, shared by however many processes there are."""
    trainer = trainer_of(Recipe(iterations=2, batch=2, num_points=64, batch_norm="frozen", max_grad_norm=1e6))
    trainer.rand = fixed_points
    # The class loss is a mean over each process's own queries: the same share of them must be matched.
    chosen = np.flatnonzero(world.sounding.any(2).sum(1) == 1)[:2]
    mine = chosen[trainer.rank :: trainer.world_size]
    clips = clips_of(world)
    clips.flip = False
    trainer.step(clips.batch(mine.tolist(), np.random.default_rng(0)))
    return {name: p.grad for name, p in trainer.usslm.named_parameters() if p.grad is not None}


def ddp_process(rank: int, folder: Path, cache: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    gradients = ddp_gradients(rendered_world(cache, 5, 12))
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(world: RenderedWorld, tmp_path: Path) -> None:
    cache = Path(str(world.frames.filename)).parents[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=ddp_process, args=(rank, tmp_path, cache)) for rank in range(2)]
    for process in processes:
        process.start()
    alone = ddp_gradients(world)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert alone.keys() == together.keys()
    largest = max(gradient.abs().max().item() for gradient in alone.values())
    for name, gradient in alone.items():
        assert (gradient - together[name]).abs().max().item() < 1e-5 * largest, name


def test_an_avsbench_folder_trains(tmp_path: Path) -> None:
    scenes = [sample_scene(8, i, categories="base") for i in range(6)]
    write_avsbench(tmp_path, scenes[:4], "v1m", "train", size=(64, 80))
    write_avsbench(tmp_path, [sample_scene(9, i, categories="base") for i in range(2)], "v1s", "train", size=(96, 64))
    data = AvsbenchTraining(tmp_path)
    encoder = AudioEncoder(TINY.audio, TINY.snippets)
    clips = AvsbenchClips(data, TINY, encoder)
    recipe = dataclasses.replace(RECIPE, iterations=2, batch=3, batch_norm="frozen", num_points=128)
    trainer = trainer_of(recipe, TINY)
    before = {name: tensor.clone() for name, tensor in trainer.usslm.state_dict().items()}
    run(trainer, clips, tmp_path / "run", log_every=1)
    rows = read_log(tmp_path / "run" / LOG)
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)
    after = trainer.usslm.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    batch = clips.batch([0, len(data) - 1], np.random.default_rng(1))
    assert batch.images.shape[:3] == (2, 5, 3) and all(side % 32 == 0 for side in batch.images.shape[3:])
    assert [target.first_frame_only for target in batch.targets] == [False, True]
    for target in batch.targets:
        assert target.masks.dtype == torch.bool and target.masks.shape[2:] == batch.images.shape[3:]


def test_audio_tokens_follow_the_frame_numbers(tmp_path: Path) -> None:
    write_avsbench(tmp_path, [sample_scene(8, 0, snippets=10, categories="base")], "v2", "train")
    data = AvsbenchTraining(tmp_path, keep_empty=True)
    encoder = AudioEncoder(TINY.audio, 10)
    clips = AvsbenchClips(data, TINY, encoder)
    item = data.item(0, np.random.default_rng(4))
    all_tokens = encoder(torch.from_numpy(item.waveform)[None])[0]
    batch = clips.batch([0], np.random.default_rng(4))
    assert torch.allclose(batch.audio[0], all_tokens[torch.from_numpy(item.patches)], atol=1e-5)


def test_short_sides_of_the_presets() -> None:
    assert short_sides(PRESETS["r50"]) == (240, 360, 480)
    assert short_sides(PRESETS["swin_b"]) == (240, 360)


def test_batch_norm_swaps_there_and_back() -> None:
    torch.manual_seed(0)
    usslm = USSLM(TINY).eval()
    for module in usslm.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.normal_()
    images = torch.randn(1, 3, 64, 64)
    state = {name: tensor.clone() for name, tensor in usslm.state_dict().items()}
    expected = usslm.backbone(images)["res5"]
    thaw_batch_norm(usslm)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in usslm.modules())
    assert torch.allclose(usslm.backbone(images)["res5"], expected, atol=1e-5)
    assert_same(state, without_counters(usslm.state_dict()))
    freeze_batch_norm(usslm)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in usslm.modules())
    assert_same(state, usslm.state_dict())


def test_groups_of_the_optimizer() -> None:
    assert isinstance(TINY.backbone, ResNetConfig)
    usslm = USSLM(TINY)
    optimizer = build_optimizer(usslm, 1e-4)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(usslm.parameters()))
    for name, parameter in usslm.named_parameters():
        rate, decay = found[id(parameter)]
        assert rate == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4), name
        kept = ".norm" in name or "_norm." in name or name in (
            "mask_decoder.query_feat.weight", "mask_decoder.query_embed.weight", "mask_decoder.level_embed.weight",
            "mask_decoder.audio_query_embed.weight", "mask_decoder.norm.weight", "mask_decoder.norm.bias",
        )  # fmt: skip
        assert decay == (0.0 if kept else 0.05), name


def test_schedules() -> None:
    assert [published_steps(i, 96_228) for i in (0, 72_170, 72_171, 88_208, 88_209)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.1, 0.01]
    )
    assert [warm_hold_cosine(i, 100, 10) for i in (0, 9, 40, 70, 85)] == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5])


def test_every_clip_once_in_a_pass() -> None:
    numbers = [n for i in range(6) for n in clip_numbers(9, 3, i, 7)]
    assert sorted(numbers[:9]) == sorted(numbers[9:]) == list(range(9))
    assert numbers[:9] != numbers[9:]


def test_averaged_weights_move_faster_at_first_and_count_batches() -> None:
    module = nn.BatchNorm1d(1)
    averaged = averaged_model(module, 0.25)
    expected = 1.0
    for update, weight in enumerate((3.0, -2.0, 5.0), start=1):
        nn.init.constant_(module.weight, weight)
        module.num_batches_tracked.fill_(update)
        averaged.update_parameters(module)
        decay = min(0.25, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight
        assert averaged.module.weight.item() == pytest.approx(expected)
        assert averaged.module.num_batches_tracked.item() == update
