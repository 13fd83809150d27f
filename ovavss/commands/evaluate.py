"""`ovavss evaluate`: the scores of any runner, or of saved predictions, on AVSBench-OV, Sounding Shapes or Sounding
Stamps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.options import (
    AnyPresetName,
    ClipWeightsOption,
    ConfidenceThresholdOption,
    FramesPerQueryOption,
    MergeOption,
    PartialOption,
    PresetName,
    WeightsOption,
)
from ovavss.commands.process import command
from ovavss.commands.segment import RunnerName, open_runners
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import Crop, Preset, Proposals
from ovavss.models.systems import OPEN_AVS
from ovavss.runtime.engines import Precision

if TYPE_CHECKING:
    from ovavss.datasets.sounding_stamps.scenes import StampClip
    from ovavss.evaluation.evaluate import EvaluationClip, Prediction
    from ovavss.pipeline.open_avs import OpenAvsPipeline
    from ovavss.pipeline.segment_video import AnyPipeline
    from ovavss.pipeline.steps import Options


class KindName(StrEnum):
    """Which clips of the synthetic world."""

    MIXED = "mixed"
    SILENT = "silent"
    OFF_SCREEN = "off_screen"


class SoundName(StrEnum):
    """What the model hears."""

    OWN = "own"
    SWAPPED = "swapped"
    SILENT = "silent"
    NOISE10 = "noise10"
    NOISE0 = "noise0"


_STAMPS = "sounding_stamps"


@command
def evaluate(
    json: Annotated[Path | None, typer.Option(help="Write all figures here.")] = None,
    engines: Annotated[Path | None, typer.Option(help="Folder that build_engines.py wrote.")] = None,
    runner: Annotated[RunnerName, typer.Option(help="All but torch need --engines.")] = RunnerName.TORCH,
    precision: Annotated[Precision, typer.Option(help="Which of the engines.")] = Precision.FP32,
    preset: Annotated[
        AnyPresetName,  # type: ignore[valid-type]
        typer.Option(help="'open_avs' brings its own weights; the others go with --runner torch."),
    ] = AnyPresetName.tiny,  # type: ignore[attr-defined]
    weights: WeightsOption = None,
    clip_weights: ClipWeightsOption = None,
    partial: PartialOption = False,
    data: Annotated[
        Path | None,
        typer.Option(help=f"AVSBench-OV folder, or '{_STAMPS}' (fetched once). Default: Sounding Shapes."),
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Score saved label maps instead of a model.")] = None,
    save_predictions: Annotated[Path | None, typer.Option(help="Folder for the label maps.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the generated clips. Default: 1000, of Sounding Stamps 1.")
    ] = None,
    num_clips: Annotated[
        int | None, typer.Option(min=1, help="How many generated clips. Default: 200, of Sounding Stamps 60.")
    ] = None,
    kind: Annotated[KindName, typer.Option(help="Clips of Sounding Shapes.")] = KindName.MIXED,
    sound: Annotated[
        SoundName,
        typer.Option(help="The clip's own sound, another clip's, silence, or (Stamps) noise 10 or 0 dB below its own."),
    ] = SoundName.OWN,
    several: Annotated[float, typer.Option(min=0, max=1, help="Stamps: how likely a thing is shown twice.")] = 0.0,
    parts: Annotated[
        bool, typer.Option("--parts", help="With open_avs and Stamps: what each part costs, the truth in its place.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry for what is not in the cache.")] = False,
    proposals: Annotated[Proposals, typer.Option(help="Which queries are named.")] = Proposals.SOUNDING,
    sound_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.5,
    score_threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.3,
    crop: Annotated[Crop, typer.Option(help="What of a masked frame CLIP sees.")] = Crop.SQUARE,
    frames_per_query: FramesPerQueryOption = None,
    confidence_threshold: ConfidenceThresholdOption = None,
    merge_iou: MergeOption = None,
    picture: Annotated[Path | None, typer.Option(help="Write the confusion matrix as a PNG.")] = None,
) -> None:
    """Score a model on generated clips of Sounding Shapes or Sounding Stamps, or on AVSBench-OV."""
    from rich.console import Console

    from ovavss.evaluation import report
    from ovavss.evaluation.evaluate import WORLD, EvaluationClip, Prediction, avsbench_clips, world_clips
    from ovavss.evaluation.evaluate import evaluate as score
    from ovavss.evaluation.predictions import read_prediction, save_prediction
    from ovavss.files import write_json
    from ovavss.pipeline.steps import Options

    options = Options(
        proposals, sound_threshold, score_threshold, crop=crop, sound_map=True, frames_per_query=frames_per_query,
        merge_iou=merge_iou, confidence_threshold=confidence_threshold,
    )  # fmt: skip
    model = _ModelChoice(
        preset.value, engines, runner, precision, weights or [], clip_weights, partial, offline, options
    )  # type: ignore[attr-defined]
    stamps = data is not None and str(data) == _STAMPS
    if parts and not (stamps and model.preset == OPEN_AVS):
        raise UserError(f"--parts goes with --preset {OPEN_AVS} and --data {_STAMPS}")
    if stamps:
        if predictions is not None or save_predictions is not None or picture is not None:
            raise UserError(f"--predictions, --save-predictions and --picture do not go with --data {_STAMPS}")
        _evaluate_stamps(model, 1 if seed is None else seed, num_clips or 60, sound, several, parts, json)
        return
    if several or sound in (SoundName.NOISE10, SoundName.NOISE0):
        raise UserError(f"--several and the sounds noise10 and noise0 need --data {_STAMPS}")
    table, total, seed = WORLD, num_clips or 200, 1000 if seed is None else seed
    source = world_clips(seed, total, kind.value, sound.value)  # type: ignore[arg-type]
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
        run, _ = model.load(table.names)  # type: ignore[assignment]
    keep = None
    if save_predictions is not None:
        folder = save_predictions

        def keep(name: str, label_map: object) -> None:
            save_prediction(folder, name, label_map)  # type: ignore[arg-type]

    with _progress(total) as advance:
        result = score(run, source, table, advance, keep)
    Console().print(report.class_table(result, table))
    print(report.summary(result))
    if json is not None:
        settings: dict[str, object] = (
            {"seed": seed, "kind": kind, "sound": sound} if data is None else {"data": str(data)}
        )
        settings |= {"proposals": proposals, "sound_threshold": str(sound_threshold), "crop": crop}
        settings |= {"frames_per_query": str(frames_per_query), "merge_iou": str(merge_iou),
                     "confidence_threshold": str(confidence_threshold)}  # fmt: skip
        write_json(json, {"settings": settings, "classes": table.names, **result.figures()})
    if picture is not None:
        report.draw_confusions(result, table.names, picture)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar; the function that it gives takes the number of clips done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


@dataclass(frozen=True)
class _ModelChoice:
    """Which model is scored, as the options say."""

    preset: str
    engines: Path | None
    runner: RunnerName
    precision: Precision
    weights: list[Path]
    clip_weights: str | None
    partial: bool
    offline: bool
    options: "Options"

    def open_avs(self) -> "OpenAvsPipeline":
        """The pipeline of OpenAVS."""
        from ovavss.pipeline.open_avs import open_pipeline

        if self.engines is not None or self.weights or self.clip_weights:
            raise UserError(
                f"preset '{OPEN_AVS}' brings its own weights: leave --engines, --weights and --clip-weights out"
            )
        return open_pipeline(offline=self.offline)

    def load(
        self, names: "Sequence[str] | None"
    ) -> "tuple[Callable[[EvaluationClip | StampClip], Prediction], Sequence[str]]":
        """A function that runs one clip, and the names that it answers: those given, or all that OpenAVS knows."""
        from ovavss.datasets.sounding_stamps.media import stamp_classes
        from ovavss.evaluation.evaluate import Prediction
        from ovavss.pipeline.pipeline import Pipeline

        if self.preset == OPEN_AVS:
            open_avs = self.open_avs()
            names = names or open_avs.names
            pipeline: AnyPipeline = open_avs
        else:
            preset, runners = open_runners(
                PresetName(self.preset), self.engines, self.runner, self.weights, self.clip_weights, self.partial,
                precision=self.precision,
            )  # fmt: skip
            if isinstance(preset, Preset):
                pipeline = Pipeline(preset, runners, self.options)
            else:
                from ovavss.pipeline.open_avs import open_pipeline

                pipeline = open_pipeline(runners=runners)
            names = names or list(stamp_classes())
        vocabulary = pipeline.embed_names(names)

        def run(clip: "EvaluationClip | StampClip") -> Prediction:
            (found,) = pipeline.stream([(clip.frames, clip.waveform)], vocabulary)
            sounds = None if found.sound_map is None else found.sound_map.numpy(force=True)
            return Prediction(found.label_map.numpy(force=True), sounds)

        return run, names


def _evaluate_stamps(
    model: _ModelChoice, seed: int, num_clips: int, sound: SoundName, several: float, parts: bool, json: Path | None
) -> None:
    """Scores Sounding Stamps and prints and writes the figures."""
    from ovavss.datasets.sounding_stamps.media import StampMedia
    from ovavss.datasets.sounding_stamps.scenes import stamp_clips
    from ovavss.evaluation.open_avs_parts import evaluate_parts
    from ovavss.evaluation.sounding_stamps import evaluate_stamps
    from ovavss.files import write_json

    settings = {"data": _STAMPS, "preset": model.preset, "seed": seed, "sound": sound.value, "several": several}
    clips = stamp_clips(StampMedia(model.offline), seed, num_clips, sound.value, several)
    if parts:
        with _progress(num_clips) as advance:
            found = evaluate_parts(model.open_avs(), clips, advance)
        for name, scores in found.rows.items():
            print(f"{name}: {scores.summary()}")
        losses = {name: round(100 * loss, 2) for name, loss in found.losses().items()}
        print("mIoU that each part costs: " + ", ".join(f"{name} {loss}" for name, loss in losses.items()))
        figures = {"rows": {name: scores.figures() for name, scores in found.rows.items()}, "losses": losses}
    else:
        run, names = model.load(None)
        with _progress(num_clips) as advance:
            result = evaluate_stamps(run, names, clips, advance)
        print(result.summary())
        figures = result.figures()
    if json is not None:
        write_json(json, {"settings": settings, **figures})
