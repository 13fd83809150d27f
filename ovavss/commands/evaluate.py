"""`ovavss evaluate`: base, novel, harmonic and mean IoU of any runner, or of saved predictions."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.options import (
    ClipWeightsOption,
    ConfidenceThresholdOption,
    FramesPerQueryOption,
    MergeOption,
    PartialOption,
    PresetName,
    WeightsOption,
    command,
)
from ovavss.commands.segment import RunnerName, open_runners
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import Crop, Proposals
from ovavss.runtime.engines import Precision

if TYPE_CHECKING:
    from ovavss.datasets.avsbench_ov import CategoryTable
    from ovavss.evaluation.evaluate import EvaluationClip, Prediction
    from ovavss.pipeline.pipeline import Options


class KindName(StrEnum):
    """Which clips of the synthetic world."""

    MIXED = "mixed"
    SILENT = "silent"
    OFF_SCREEN = "off_screen"


class SoundName(StrEnum):
    """What the model hears."""

    OWN = "own"
    SILENCE = "silence"
    OTHER = "other"


@command
def evaluate(
    json: Annotated[Path | None, typer.Option(help="Write all figures here.")] = None,
    engines: Annotated[Path | None, typer.Option(help="Folder that build_engines.py wrote.")] = None,
    runner: Annotated[RunnerName, typer.Option(help="All but torch need --engines.")] = RunnerName.TORCH,
    precision: Annotated[Precision, typer.Option(help="Which of the engines.")] = Precision.FP32,
    preset: Annotated[PresetName, typer.Option(help="With --runner torch.")] = PresetName.tiny,  # type: ignore[attr-defined]
    weights: WeightsOption = None,
    clip: ClipWeightsOption = None,
    partial: PartialOption = False,
    data: Annotated[Path | None, typer.Option(help="AVSBench-OV folder. Default: Sounding Shapes.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Score saved label maps instead of a model.")] = None,
    save_predictions: Annotated[Path | None, typer.Option(help="Folder for the label maps.")] = None,
    seed: Annotated[int, typer.Option(help="World of the held-out clips.")] = 1000,
    clips: Annotated[int, typer.Option(min=1, help="How many clips of that world.")] = 200,
    kind: Annotated[KindName, typer.Option(help="Clips of the world.")] = KindName.MIXED,
    sound: Annotated[SoundName, typer.Option(help="The clip's own sound, silence, or another clip's.")] = SoundName.OWN,
    proposals: Annotated[Proposals, typer.Option(help="Which queries are named.")] = Proposals.SOUNDING,
    sound_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.5,
    score_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.3,
    crop: Annotated[Crop, typer.Option(help="What of a masked frame CLIP sees.")] = Crop.SQUARE,
    frames_per_query: FramesPerQueryOption = None,
    confidence_threshold: ConfidenceThresholdOption = None,
    merge_iou: MergeOption = None,
    picture: Annotated[Path | None, typer.Option(help="Write the confusion matrix as a PNG.")] = None,
) -> None:
    """Score a model on held-out clips of the synthetic world, or on AVSBench-OV."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ovavss.evaluation import report
    from ovavss.evaluation.evaluate import WORLD, EvaluationClip, Prediction, avsbench_clips, world_clips
    from ovavss.evaluation.evaluate import evaluate as score
    from ovavss.evaluation.predictions import read_prediction, save_prediction
    from ovavss.files import write_json
    from ovavss.pipeline.pipeline import Options

    table, total = WORLD, clips
    source = world_clips(seed, clips, kind.value, sound.value)
    if data is not None:
        from ovavss.datasets.avsbench_ov import AVSBENCH_OV, AvsbenchTest, read_categories

        dataset = AvsbenchTest(data, table=read_categories(data, known=(AVSBENCH_OV, WORLD)))
        table, total, source = dataset.table, len(dataset), avsbench_clips(dataset)
    if predictions is not None:
        if not predictions.is_dir():
            raise UserError(f"there is no folder of predictions {predictions}; check the path")
        folder_read = predictions

        def run(clip: EvaluationClip) -> Prediction:
            return Prediction(read_prediction(folder_read, clip, len(table.names)))
    else:
        options = Options(
            proposals, sound_threshold, score_threshold, crop=crop, sound_map=True, frames_per_query=frames_per_query,
            merge_iou=merge_iou, confidence_threshold=confidence_threshold,
        )  # fmt: skip
        run = _model(  # type: ignore[assignment]
            preset, engines, runner, weights or [], clip, partial, precision, table, options
        )
    keep = None
    if save_predictions is not None:
        folder = save_predictions

        def keep(name: str, label_map: object) -> None:
            save_prediction(folder, name, label_map)  # type: ignore[arg-type]

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        result = score(run, source, table, lambda done: progress.update(task, completed=done), keep)
    Console().print(report.class_table(result, table))
    print(report.summary(result))
    if json is not None:
        settings = {"seed": seed, "kind": kind, "sound": sound} if data is None else {"data": str(data)}
        settings |= {"proposals": proposals, "sound_threshold": str(sound_threshold), "crop": crop}
        settings |= {"frames_per_query": str(frames_per_query), "merge_iou": str(merge_iou),
                     "confidence_threshold": str(confidence_threshold)}  # fmt: skip
        write_json(json, {"settings": settings, "classes": table.names, **result.figures()})
    if picture is not None:
        report.draw_confusions(result, table.names, picture)


def _model(
    preset: PresetName,
    engines: Path | None,
    runner: RunnerName,
    weights: list[Path],
    clip_weights: str | None,
    partial: bool,
    precision: Precision,
    table: "CategoryTable",
    options: "Options",
) -> "Callable[[EvaluationClip], Prediction]":
    """A function that runs one clip against the table's vocabulary."""
    from ovavss.evaluation.evaluate import EvaluationClip, Prediction
    from ovavss.pipeline.pipeline import Pipeline

    chosen, runners = open_runners(preset, engines, runner, weights, clip_weights, partial, precision=precision)
    pipeline = Pipeline(chosen, runners, options)
    vocabulary = pipeline.embed_names(table.names)

    def run(clip: EvaluationClip) -> Prediction:
        found = pipeline(clip.frames, clip.waveform, vocabulary)
        sounds = None if found.sound_map is None else found.sound_map.numpy(force=True)
        return Prediction(found.label_map.numpy(force=True), sounds)

    return run
