"""`ovavss train`: the localizer on a folder in the AVSBench-OV layout, or all of `tiny` on the synthetic world."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovavss.commands.options import PartialOption, WeightsOption
from ovavss.commands.process import command
from ovavss.errors import UserError, warn
from ovavss.models.ov_avss.presets import PRESETS, PresetName

if TYPE_CHECKING:
    from ovavss.models.ov_avss.presets import Preset
    from ovavss.training.trainer import Recipe


@command
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log, curves and weights; a run there goes on.")],
    preset: Annotated[PresetName, typer.Option(help="Which model.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Folder in the AVSBench-OV layout. Default: tiny on Sounding Shapes.")
    ] = None,
    weights: WeightsOption = None,
    partial: PartialOption = False,
    iterations: Annotated[int | None, typer.Option(min=1, help="Published: 96228.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Clips an iteration, all processes. Published: 1.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate. Published: 1e-4.")] = None,
    backbone_factor: Annotated[
        float | None, typer.Option(min=0, help="Its share for the backbone. Published: 0.1.")
    ] = None,
    schedule: Annotated[
        Literal["steps", "cosine"] | None, typer.Option(help="Published: steps, x0.1 after 3/4 and 11/12.")
    ] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Iterations of warm-up, with --schedule cosine.")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(min=0, help="Largest gradient norm. Published: 0.01.")] = None,
    points: Annotated[int | None, typer.Option(min=1, help="Points of a mask in the loss. Published: 12544.")] = None,
    no_object_weight: Annotated[
        float | None, typer.Option(min=0, help="Class weight of 'not sounding'. Published: 0.1.")
    ] = None,
    mask_loss: Annotated[Literal["bce", "focal"] | None, typer.Option(help="Published: bce; the paper: focal.")] = None,
    batch_norm: Annotated[
        Literal["frozen", "trained"] | None,
        typer.Option(help="Published: frozen. trained: for a new backbone."),
    ] = None,
    ema: Annotated[float | None, typer.Option(min=0, max=0.99999, help="Decay of averaged weights; 0: none.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Half precision on CUDA.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Everything random follows from it. Published: 42.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Iterations between checkpoints.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a process.")] = None,
    clip_names: Annotated[
        Literal["all", "base"], typer.Option(help="Names that tiny's CLIP sees on Sounding Shapes.")
    ] = "all",
) -> None:
    """Train a model, by default as published; tiny on Sounding Shapes has a recipe of its own.

    A killed run continues when the same command is given again. On several GPUs:
    torchrun --nproc-per-node N -m ovavss train ...
    """
    import torch

    chosen = PRESETS[preset]
    if data is None and chosen.recipe is None:
        raise UserError(f"preset '{chosen.name}' needs --data, a folder in the AVSBench-OV layout")
    if data is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("tiny on Sounding Shapes trains in one process: run it without torchrun")
    if data is None and weights:
        raise UserError("--weights needs --data: on Sounding Shapes, tiny starts from nothing")
    if threads is not None:
        torch.set_num_threads(threads)
    given = {
        "iterations": iterations, "batch": batch, "lr": lr, "backbone_factor": backbone_factor, "schedule": schedule,
        "warmup": warmup, "max_grad_norm": max_grad_norm, "num_points": points, "no_object_weight": no_object_weight,
        "mask_loss": mask_loss, "batch_norm": batch_norm, "ema": ema, "seed": seed, "amp": amp or None,
    }  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if data is None:
        from ovavss.training.recipes.tiny import LOCALIZER

        _train_world(out, chosen, replace(LOCALIZER, **changes), checkpoint_every or 250, clip_names)
    else:
        from ovavss.training.trainer import Recipe

        recipe = replace(Recipe(), **changes)
        _train_data(out, chosen, data, recipe, tuple(weights or ()), partial, checkpoint_every or 2000)


def _train_world(
    out: Path, preset: "Preset", localizer: "Recipe", checkpoint_every: int, names: Literal["all", "base"]
) -> None:
    from ovavss.training.recipes.tiny import TinyRecipe
    from ovavss.training.recipes.tiny_stages import TinyTraining, write_weights

    training = TinyTraining(preset, TinyRecipe(seed=localizer.seed, localizer=localizer), out)
    usslm = training.localizer(checkpoint_every)
    path = out / (f"{preset.name}.safetensors" if names == "all" else f"{preset.name}_base_names.safetensors")
    write_weights(path, training.audio_encoder(), usslm, training.adapted_clip(usslm, names), preset)
    print(f"weights are in {path}")


def _train_data(
    out: Path,
    preset: "Preset",
    data: Path,
    recipe: "Recipe",
    weights: tuple[Path, ...],
    partial: bool,
    checkpoint_every: int,
) -> None:
    from ovavss.checkpoints.loader import save_checkpoint
    from ovavss.datasets.avsbench_ov import AvsbenchTraining
    from ovavss.training.avsbench_clips import AvsbenchClips
    from ovavss.training.batch_norm import freeze_batch_norm, thaw_batch_norm, without_counters
    from ovavss.training.processes import join_processes
    from ovavss.training.run import run
    from ovavss.training.start import starting_models
    from ovavss.training.trainer import Trainer

    with join_processes() as device:
        usslm, encoder, warnings = starting_models(preset, weights, recipe.seed, partial)
        clips = AvsbenchClips(AvsbenchTraining(data, num_frames=preset.snippets), preset, encoder)
        if recipe.batch_norm == "trained":
            thaw_batch_norm(usslm)
        trainer = Trainer(usslm, recipe, device)
        if trainer.rank == 0:
            for sentence in warnings:
                warn(sentence)
        run(trainer, clips, out, checkpoint_every=checkpoint_every)
        if trainer.rank == 0:
            state = without_counters(trainer.averaged())
            freeze_batch_norm(usslm)
            usslm.load_state_dict(state)
            path = out / f"{preset.name}.safetensors"
            save_checkpoint(path, {"usslm": usslm, "audio_encoder": encoder}, preset.name)
            print(f"weights are in {path}")
