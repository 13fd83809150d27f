"""`ovavss evaluate`: scores on AVSBench-OV, Sounding Shapes or Sounding Stamps.

Of any runner, or of saved predictions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovavss.commands.options import ModelOptions, ProposalsOption
from ovavss.commands.process import command
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import Proposals
from ovavss.models.systems import OPEN_AVS

if TYPE_CHECKING:
    import numpy as np

    from ovavss.datasets.sounding_stamps.scenes import StampClip
    from ovavss.evaluation.evaluate import EvaluationClip, Prediction
    from ovavss.segmenter import Segmenter

Sound = Literal["own", "swapped", "silent", "noise10", "noise0"]
_STAMPS, _DEFAULT_PRESET = "sounding_stamps", "tiny"


@dataclass(frozen=True)
class EvaluationOptions(ModelOptions):
    """As of `segment`, but the paper's scores are those of sounding queries."""

    proposals: ProposalsOption = Proposals.SOUNDING


@command
def evaluate(
    context: typer.Context,
    json: Annotated[Path | None, typer.Option(help="Write all figures here.")] = None,
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
    kind: Annotated[
        Literal["mixed", "silent", "off_screen"], typer.Option(help="Which clips of Sounding Shapes.")
    ] = "mixed",
    sound: Annotated[
        Sound,
        typer.Option(help="The clip's own sound, another clip's, silence, or (Stamps) noise 10 or 0 dB below its own."),
    ] = "own",
    several: Annotated[float, typer.Option(min=0, max=1, help="Stamps: how likely a thing is shown twice.")] = 0.0,
    parts: Annotated[
        bool, typer.Option("--parts", help="With open_avs and Stamps: what each part costs, the truth in its place.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Write the confusion matrix as a PNG.")] = None,
    *,
    model: EvaluationOptions,
) -> None:
    """Score a model on generated clips of Sounding Shapes or Sounding Stamps, or on AVSBench-OV."""
    from rich.console import Console

    from ovavss.evaluation import report
    from ovavss.evaluation.evaluate import WORLD, EvaluationClip, Prediction, avsbench_clips, world_clips
    from ovavss.evaluation.evaluate import evaluate as score
    from ovavss.evaluation.predictions import read_prediction, save_prediction
    from ovavss.files import write_json

    stamps = data is not None and str(data) == _STAMPS
    if parts and not (stamps and model.preset == OPEN_AVS):
        raise UserError(f"--parts goes with --preset {OPEN_AVS} and --data {_STAMPS}")
    if stamps:
        if predictions is not None or save_predictions is not None or picture is not None:
            raise UserError(f"--predictions, --save-predictions and --picture do not go with --data {_STAMPS}")
        clips = _Stamps(1 if seed is None else seed, num_clips or 60, sound, several)
        _evaluate_stamps(context, model, clips, parts, json)
        return
    if several or sound == "noise10" or sound == "noise0":
        raise UserError(f"--several and the sounds noise10 and noise0 need --data {_STAMPS}")
    table, total, seed = WORLD, num_clips or 200, 1000 if seed is None else seed
    source = world_clips(seed, total, kind, sound)
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
        run = _runs_clips(model.load(context, _DEFAULT_PRESET, sound_map=True), table.names)  # type: ignore[assignment]
    keep = None
    if save_predictions is not None:
        folder = save_predictions

        def keep(name: str, label_map: "np.ndarray") -> None:
            save_prediction(folder, name, label_map)

    with _progress(total) as advance:
        result = score(run, source, table, advance, keep)
    Console().print(report.class_table(result, table))
    print(report.summary(result))
    if json is not None:
        settings: dict[str, object] = (
            {"seed": seed, "kind": kind, "sound": sound} if data is None else {"data": str(data)}
        )
        settings |= {"proposals": model.proposals, "sound_threshold": str(model.sound_threshold), "crop": model.crop}
        settings |= {"frames_per_query": str(model.frames_per_query), "merge_iou": str(model.merge_iou),
                     "confidence_threshold": str(model.confidence_threshold)}  # fmt: skip
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


def _runs_clips(segmenter: "Segmenter", names: "Sequence[str]") -> "Callable[[EvaluationClip | StampClip], Prediction]":
    """A function that runs one clip with these names."""
    from ovavss.evaluation.evaluate import Prediction

    pipeline = segmenter.pipeline
    vocabulary = pipeline.embed_names(names)

    def run(clip: "EvaluationClip | StampClip") -> Prediction:
        (found,) = pipeline.stream([(clip.frames, clip.waveform)], vocabulary)
        sounds = None if found.sound_map is None else found.sound_map.numpy(force=True)
        return Prediction(found.label_map.numpy(force=True), sounds)

    return run


@dataclass(frozen=True)
class _Stamps:
    """Which clips of Sounding Stamps."""

    seed: int
    num_clips: int
    sound: Sound
    several: float


def _evaluate_stamps(
    context: typer.Context, model: EvaluationOptions, chosen: _Stamps, parts: bool, json: Path | None
) -> None:
    """Scores Sounding Stamps and prints and writes the figures."""
    from ovavss.datasets.sounding_stamps.media import StampMedia, stamp_classes
    from ovavss.datasets.sounding_stamps.scenes import stamp_clips
    from ovavss.evaluation.open_avs_parts import evaluate_parts
    from ovavss.evaluation.sounding_stamps import evaluate_stamps
    from ovavss.files import write_json
    from ovavss.pipeline.open_avs import OpenAvsPipeline

    media = StampMedia(model.offline)
    segmenter = model.load(context, _DEFAULT_PRESET)
    clips = stamp_clips(media, chosen.seed, chosen.num_clips, chosen.sound, chosen.several)
    if parts:
        assert isinstance(segmenter.pipeline, OpenAvsPipeline)
        with _progress(chosen.num_clips) as advance:
            found = evaluate_parts(segmenter.pipeline, clips, advance)
        for name, scores in found.rows.items():
            print(f"{name}: {scores.summary()}")
        losses = {name: round(100 * loss, 2) for name, loss in found.losses().items()}
        print("mIoU that each part costs: " + ", ".join(f"{name} {loss}" for name, loss in losses.items()))
        figures = {"rows": {name: scores.figures() for name, scores in found.rows.items()}, "losses": losses}
    else:
        names = segmenter.classes if segmenter.preset == OPEN_AVS else tuple(stamp_classes())
        run = _runs_clips(segmenter, names)
        with _progress(chosen.num_clips) as advance:
            result = evaluate_stamps(run, names, clips, advance)
        print(result.summary())
        figures = result.figures()
    if json is not None:
        settings = {"data": _STAMPS, "preset": segmenter.preset, **asdict(chosen)}
        write_json(json, {"settings": settings, **figures})
