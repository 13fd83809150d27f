"""The options that several commands share."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.systems import ALL_PRESETS

# The presets of both systems.
AnyPresetName = Enum("AnyPresetName", {name: name for name in ALL_PRESETS}, type=str)  # type: ignore[misc]
PresetName = Enum("PresetName", {name: name for name in PRESETS}, type=str)  # type: ignore[misc]

WeightsOption = Annotated[
    list[Path] | None,
    typer.Option("--weights", help="Checkpoint: .pth, .pkl or .safetensors; may be given several times."),
]
ClipWeightsOption = Annotated[
    str | None,
    typer.Option("--clip-weights", help="CLIP weights: a file, or 'hub'. Default: the checkpoint's own, else the hub."),
]
PartialOption = Annotated[
    bool, typer.Option("--partial", help="Load what fits of a checkpoint, leave the rest random.")
]
FramesPerQueryOption = Annotated[
    int | None,
    typer.Option(min=1, help="Name a query by its N most confident frames. Default: by all of them."),
]
ConfidenceThresholdOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Look at a query's frames one after another, until its name has this probability."),
]
MergeOption = Annotated[
    float | None,
    typer.Option("--merge-iou", min=0, max=1, help="Queries that overlap this much share a crop. Default: none do."),
]
VideoStreamOption = Annotated[
    int | None,
    typer.Option(min=0, help="Index of the stream with the picture, as ffprobe counts. Default: what a player takes."),
]
AudioStreamOption = Annotated[
    int | None,
    typer.Option(min=0, help="Index of the stream with the sound, as ffprobe counts. Default: what a player takes."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of random weights, where no weights are given.")]


def warn(sentences: tuple[str, ...]) -> None:
    """Loud lines on standard error."""
    from rich.console import Console

    for sentence in sentences:
        Console(stderr=True).print(f"[bold white on red] {sentence} ", soft_wrap=True, highlight=False)
