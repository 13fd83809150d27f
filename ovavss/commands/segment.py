"""`ovavss segment`: a video in, masks and names out."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ovavss.commands.class_names import parse_classes
from ovavss.commands.options import (
    AudioStreamOption,
    ModelOptions,
    SeedOption,
    VideoStreamOption,
    refuse_options,
)
from ovavss.commands.process import command
from ovavss.models.systems import OPEN_AVS

# What a run on this machine needs to know and a server knows itself.
_LOCAL = ("engines", "runner", "precision", "preset", "weights", "clip_weights", "partial", "seed", "offline")


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
    write: Annotated[
        list[str] | None,
        typer.Option(help="Further files: coco, youtube_vis, vtt; joined by commas, or given several times."),
    ] = None,
    seed: SeedOption = 0,
    frame_position: Annotated[
        Literal["start", "middle", "end"], typer.Option(help="Which frame of a second stands for it.")
    ] = "middle",
    silent: Annotated[bool, typer.Option("--silent", help="Take silence where the video has no sound.")] = False,
    video_stream: VideoStreamOption = None,
    audio_stream: AudioStreamOption = None,
    url: Annotated[str | None, typer.Option(help="A server, grpc://HOST:PORT, in place of --engines.")] = None,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="With --url: seconds that five seconds of video may take.")
    ] = 120,
    *,
    model: ModelOptions,
) -> None:
    """Find, outline and name what sounds in a video."""
    from ovavss.media.video import FramePosition, ReadOptions, probe
    from ovavss.models.ov_avss.presets import PRESETS
    from ovavss.output.results import check_output_folder
    from ovavss.output.writers import WRITERS, check_formats

    if url is not None:
        refuse_options(context, _LOCAL, "--url takes the model and the runtime of its server")
    else:
        refuse_options(context, ["deadline"], "without --url nothing has a deadline")
    formats = check_formats(write or [])
    out = check_output_folder(out or Path(f"{video.name}.ovavss"))
    reading = ReadOptions(FramePosition(frame_position), "silence" if silent else "error", video_stream, audio_stream)
    probe(video, reading)
    names = None if classes is None else parse_classes(classes)
    from ovavss.pipeline.segment_video import segment_video  # takes seconds, so mistakes come first
    from ovavss.segmenter import load

    if url is None:
        print("loading the model", file=sys.stderr)
        segmenter = model.load(context, OPEN_AVS, seed)
    else:
        segmenter = load(url, options=model.pipeline_options(context, next(iter(PRESETS))), deadline=deadline)
    with segmenter:
        settings = {
            "preset": segmenter.preset,
            "runner": segmenter.runner,
            "precision": model.precision if url is None else "the server's",
            **asdict(segmenter.options),
            "frame_position": frame_position,
        }
        classes_used = names or segmenter.classes
        counted, summary = segment_video(video, out, segmenter.pipeline, classes_used, reading, settings, formats)
        print(counted)
        summary.print()
        files = ["result.json", "label_maps/", "overlay.mp4", "overlay.png", *(WRITERS[name][0] for name in formats)]
        print(f"wrote {out}: {', '.join(files)}")
