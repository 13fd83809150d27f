"""`ovavss segment`: a video in, masks and names out."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovavss.commands.options import (
    AnyPresetName,
    AudioStreamOption,
    ClipWeightsOption,
    ConfidenceThresholdOption,
    FramesPerQueryOption,
    MergeOption,
    PartialOption,
    PresetName,
    SeedOption,
    VideoStreamOption,
    WeightsOption,
    warn,
)
from ovavss.commands.process import command
from ovavss.errors import UserError
from ovavss.files import check_regular_file
from ovavss.models.ov_avss.presets import PRESETS, Crop, Preset, Proposals
from ovavss.models.systems import OPEN_AVS, AnyPreset
from ovavss.runtime.engines import Format, Precision

if TYPE_CHECKING:
    from ovavss.runtime.runner import Runner


class RunnerName(StrEnum):
    """Which runtime runs the graphs."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TORCH = "torch"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


_FORMATS = {
    RunnerName.ONNXRUNTIME: Format.ONNX,
    RunnerName.OPENVINO: Format.ONNX,
    RunnerName.TORCHSCRIPT: Format.TORCHSCRIPT,
    RunnerName.TENSORRT: Format.TENSORRT,
    RunnerName.TENSORRT_RTX: Format.TENSORRT_RTX,
}


def names_in(text: str, path: Path) -> list[str]:
    """The names of a class list: one a line (empty lines are passed over), one line with commas, or a JSON list."""
    if text.lstrip().startswith(("[", "{")):
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"the class list {path} is not a JSON list of names; give one name a line")
        return names
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].split(",") if len(lines) == 1 else lines


def parse_classes(classes: str | None, preset: Preset) -> list[str]:
    """Names from `a,b,c` or from `@FILE` with one a line; without either, the preset's own vocabulary."""
    from ovavss.pipeline.pipeline import check_names

    if classes is None:
        from ovavss.datasets.vocabulary import default_vocabulary

        return list(default_vocabulary(preset))
    if not classes.startswith("@"):
        return check_names(classes.split(",") if classes.strip() else [])
    path = Path(classes[1:])
    check_regular_file(path)
    try:
        return check_names(names_in(path.read_text(encoding="utf-8-sig"), path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the class list {path} cannot be read ({error}); give a UTF-8 text file with one name a line"
        ) from error


# What a run on this machine needs to know and a server knows itself.
_TORCH = ("runner", RunnerName.TORCH)
_LOCAL = ("engines", "runner", "precision", "preset", "weights", "clip_weights", "partial", "seed", "offline")
# What only OV-AVSS has.
_OV_AVSS = (
    *("proposals", "sound_threshold", "score_threshold", "crop", "frames_per_query", "confidence_threshold"),
    *("merge_iou", "square_anchor"),
)


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """UserError where one of these parameters was given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    options = [parameter.opts[0] for parameter in context.command.params if parameter.name in given]
    if options:
        raise UserError(f"{reason}: leave {', '.join(options)} out")


@command
def segment(
    context: typer.Context,
    video: Annotated[Path, typer.Argument(help="Any video with sound.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write; a result of an earlier run there is replaced. Default: the video's name + '.ovavss'."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="'man,piano,...', or @FILE with one name a line.")] = None,
    engines: Annotated[Path | None, typer.Option(help="Folder that build_engines.py wrote.")] = None,
    runner: Annotated[
        RunnerName, typer.Option(help="All but torch need --engines; torch needs no export.")
    ] = RunnerName.ONNXRUNTIME,
    precision: Annotated[Precision, typer.Option(help="Which of the engines.")] = Precision.FP32,
    preset: Annotated[
        AnyPresetName | None,  # type: ignore[valid-type]
        typer.Option(help="'open_avs' needs nothing else; the others go with --runner torch. Default: open_avs."),
    ] = None,
    weights: WeightsOption = None,
    clip_weights: ClipWeightsOption = None,
    partial: PartialOption = False,
    seed: SeedOption = 0,
    proposals: Annotated[
        Proposals, typer.Option(help="Name all queries, or those that the sound head selects.")
    ] = Proposals.ALL,
    sound_threshold: Annotated[float, typer.Option(min=0, max=1, help="With --proposals sounding.")] = 0.5,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Names at or below it stay out of the label map.")
    ] = 0.3,
    crop: Annotated[Crop, typer.Option(help="What of a masked frame CLIP sees.")] = Crop.SQUARE,
    frames_per_query: FramesPerQueryOption = None,
    confidence_threshold: ConfidenceThresholdOption = None,
    merge_iou: MergeOption = None,
    square_anchor: Annotated[
        Literal["top_left", "center"], typer.Option(help="Where a square crop lies; the paper centers it.")
    ] = "top_left",
    frame_position: Annotated[
        Literal["start", "middle", "end"], typer.Option(help="Which frame of a second stands for it.")
    ] = "middle",
    offline: Annotated[
        bool, typer.Option("--offline", help="With open_avs: ask no registry for weights that are not in the cache.")
    ] = False,
    silent: Annotated[bool, typer.Option("--silent", help="Take silence where the video has no sound.")] = False,
    video_stream: VideoStreamOption = None,
    audio_stream: AudioStreamOption = None,
    url: Annotated[str | None, typer.Option(help="A server, grpc://HOST:PORT, in place of --engines.")] = None,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="With --url: seconds that five seconds of video may take.")
    ] = 120,
) -> None:
    """Find, outline and name what sounds in a video."""
    from ovavss.media.video import FramePosition, ReadOptions, probe
    from ovavss.output.results import check_output_folder
    from ovavss.pipeline.segment_video import AnyPipeline, segment_video
    from ovavss.pipeline.steps import Options

    if url is not None:
        refuse_options(context, _LOCAL, "--url takes the model and the runtime of its server")
    else:
        refuse_options(context, ["deadline"], "without --url nothing has a deadline")
    out = check_output_folder(out or Path(f"{video.name}.ovavss"))
    position = FramePosition(frame_position)
    reading = ReadOptions(position, "silence" if silent else "error", video_stream, audio_stream)
    probe(video, reading)
    chosen = preset.value if preset is not None else None  # type: ignore[attr-defined]
    unasked = chosen is None and not (engines or weights or clip_weights) and runner is RunnerName.ONNXRUNTIME
    open_avs = url is None and (chosen == OPEN_AVS or unasked)
    ov_avss = PresetName(chosen if chosen not in (None, OPEN_AVS) else "tiny")
    if classes is not None:
        parse_classes(classes, PRESETS[ov_avss.value])  # before the models, which take seconds to load
    options = Options(
        proposals, sound_threshold, score_threshold, crop=crop, square_anchor=square_anchor,
        frames_per_query=frames_per_query, merge_iou=merge_iou, confidence_threshold=confidence_threshold,
    )  # fmt: skip
    with ExitStack() as stack:
        if open_avs:
            refuse_options(
                context,
                [name for name in _LOCAL if name not in ("preset", "offline") and (name, runner) != _TORCH],
                "preset 'open_avs' brings its own weights and runs in PyTorch",
            )
            refuse_options(context, _OV_AVSS, "only the presets of OV-AVSS have such a switch")
            from ovavss.pipeline.open_avs import open_pipeline

            pipeline: AnyPipeline = open_pipeline(offline=offline)
        elif url is None:
            from ovavss.pipeline.pipeline import Pipeline

            found, runners = open_runners(
                ov_avss, engines, runner, weights or [], clip_weights, partial, seed, precision
            )
            if isinstance(found, Preset):
                pipeline = Pipeline(found, runners, options)
            else:
                from ovavss.pipeline.open_avs import open_pipeline

                pipeline = open_pipeline(runners=runners)
        else:
            from ovavss.serving.client import RemotePipeline

            pipeline = stack.enter_context(RemotePipeline(url, options, deadline))
        if pipeline.preset.name == OPEN_AVS and classes is None:
            from ovavss.pipeline.open_avs import all_names

            names = list(all_names())
        else:
            names = parse_classes(classes, PRESETS.get(pipeline.preset.name, PRESETS["tiny"]))
        settings = {
            "preset": pipeline.preset.name,
            "runner": "torch" if open_avs else runner.value if url is None else "triton",
            "precision": precision.value if url is None else "the server's",
            "proposals": proposals.value,
            "sound_threshold": sound_threshold,
            "score_threshold": score_threshold,
            "crop": crop.value,
            "square_anchor": square_anchor,
            "frames_per_query": frames_per_query,
            "confidence_threshold": confidence_threshold,
            "merge_iou": merge_iou,
            "frame_position": frame_position,
        }
        print(segment_video(video, out, pipeline, names, reading, settings))
        print(f"wrote {out}: result.json, label_maps/, overlay.mp4, overlay.png")


def open_runners(
    preset: PresetName,
    engines: Path | None,
    runner: RunnerName,
    weights: list[Path],
    clip_weights: str | None,
    partial: bool,
    seed: int = 0,
    precision: Precision = Precision.FP32,
) -> "tuple[AnyPreset, dict[str, Runner]]":
    """The runners of an engines folder, or of a model in PyTorch; warns of random weights."""
    if runner is RunnerName.TORCH:
        if engines is not None:
            raise UserError("--engines and --runner torch exclude each other; leave one out")
        if precision is not Precision.FP32:
            raise UserError(f"--runner torch computes in fp32; --precision {precision} is for built engines")
        from ovavss.checkpoints.weights import WeightsSource, load_models
        from ovavss.runtime.engines import torch_runners

        loaded = load_models(PRESETS[preset.value], WeightsSource(weights, clip_weights, partial, seed))
        warn(loaded.warnings)
        return loaded.models.preset, torch_runners(loaded.models)
    if engines is None:
        raise UserError(
            f"--runner {runner} needs --engines DIR (build it with export/build_engines.py), or pass --runner torch"
        )
    if weights or clip_weights:
        raise UserError("--weights and --clip-weights belong to --runner torch; the engines hold their own weights")
    from ovavss.runtime.engines import open_any_engines, read_manifest

    if read_manifest(engines).seed is not None:
        warn(("THESE ENGINES HOLD RANDOM WEIGHTS: masks and names mean nothing, the path is the real one",))
    return open_any_engines(engines, _FORMATS[runner], precision, runner is RunnerName.OPENVINO)
