"""`ovavss train`: the localiser on a folder in the AVSBench-OV layout, or all of `tiny` on the synthetic world."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.options import PartialOption, PresetName, WeightsOption, command, warn
from ovavss.errors import UserError
from ovavss.model.presets import PRESETS

if TYPE_CHECKING:
    from ovavss.model.presets import Preset
    from ovavss.training.trainer import Recipe


class Schedule(StrEnum):
    """Course of the learning rate."""

    STEPS = "steps"
    COSINE = "cosine"


class BatchNormMode(StrEnum):
    """What the ResNet's batch norm does."""

    FROZEN = "frozen"
    TRAINED = "trained"


class MaskLossName(StrEnum):
    """Pixel loss of the masks: published code, or paper."""

    BCE = "bce"
    FOCAL = "focal"


@command
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log, curves and weights; a run there goes on.")],
    preset: Annotated[PresetName, typer.Option(help="Which model.")] = PresetName.tiny,  # type: ignore[attr-defined]
    data: Annotated[
        Path | None, typer.Option(help="Folder in the AVSBench-OV layout. Without it: tiny on the synthetic world.")
    ] = None,
    weights: WeightsOption = None,
    partial: PartialOption = False,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Default: 96228; tiny on its world has its own.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips an iteration, over all processes.")] = 1,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate; a tenth of it for the backbone.")] = 1e-4,
    schedule: Annotated[Schedule, typer.Option(help="steps: x0.1 after 3/4 and 11/12.")] = Schedule.STEPS,
    points: Annotated[int, typer.Option(min=1, help="Points of a mask in the loss.")] = 12_544,
    mask_loss: Annotated[MaskLossName, typer.Option(help="bce: published code; focal: paper.")] = MaskLossName.BCE,
    batch_norm: Annotated[
        BatchNormMode, typer.Option(help="frozen: a pretrained backbone; trained: from nothing.")
    ] = BatchNormMode.FROZEN,
    ema: Annotated[float, typer.Option(min=0, max=0.99999, help="Decay of averaged weights; 0: none.")] = 0.0,
    amp: Annotated[bool, typer.Option("--amp", help="Half precision on CUDA.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 42,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")] = 2000,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a process.")] = None,
) -> None:
    """Train a model. On several GPUs: torchrun --nproc-per-node N -m ovavss train ..."""
    import torch

    chosen = PRESETS[preset.value]
    if threads is not None:
        torch.set_num_threads(threads)
    if data is None:
        if chosen.name != "tiny":
            raise UserError(f"preset '{chosen.name}' needs --data, a folder in the AVSBench-OV layout")
        _train_world(out, chosen, iterations)
        return
    from ovavss.training.trainer import Recipe

    recipe = Recipe(
        iterations=iterations or Recipe.iterations,
        batch=batch,
        lr=lr,
        schedule=schedule.value,
        num_points=points,
        mask_loss=mask_loss.value,
        batch_norm=batch_norm.value,
        ema=ema,
        amp=amp,
        seed=seed,
    )
    _train_data(out, chosen, data, recipe, tuple(weights or ()), partial, checkpoint_every)


def _train_world(out: Path, preset: "Preset", iterations: int | None) -> None:
    from dataclasses import replace

    from ovavss.training.tiny import LOCALISER, TinyRecipe, TinyTraining, write_weights

    localiser = LOCALISER if iterations is None else replace(LOCALISER, iterations=iterations)
    training = TinyTraining(preset, TinyRecipe(localiser=localiser), out)
    usslm = training.localiser()
    write_weights(out / "tiny.safetensors", training.audio_encoder(), usslm, training.clip(), preset)
    print(f"weights are in {out / 'tiny.safetensors'}")


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
    from ovavss.data.avsbench_ov import AvsbenchTraining
    from ovavss.training.avsbench_clips import AvsbenchClips
    from ovavss.training.batch_norm import freeze_batch_norm, thaw_batch_norm, without_counters
    from ovavss.training.processes import join_processes
    from ovavss.training.run import run
    from ovavss.training.start import starting_models
    from ovavss.training.trainer import Trainer

    with join_processes() as device:
        usslm, encoder, warnings = starting_models(preset, weights, recipe.seed, partial)
        warn(warnings)
        clips = AvsbenchClips(AvsbenchTraining(data, num_frames=preset.snippets), preset, encoder)
        if recipe.batch_norm == "trained":
            thaw_batch_norm(usslm)
        trainer = Trainer(usslm, recipe, device)
        run(trainer, clips, out, checkpoint_every=checkpoint_every)
        if trainer.rank == 0:
            state = without_counters(trainer.averaged())
            freeze_batch_norm(usslm)
            usslm.load_state_dict(state)
            path = out / f"{preset.name}.safetensors"
            save_checkpoint(path, {"usslm": usslm, "audio_encoder": encoder}, preset.name)
            print(f"weights are in {path}")
