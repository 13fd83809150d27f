"""What several commands ask for and how they tell a mistake."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ovavss.errors import DataWarning, UserError
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
    typer.Option("--clip", help="CLIP weights: a file, or 'hub'. Default: the checkpoint's own, else the hub."),
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
SeedOption = Annotated[int, typer.Option(help="Seed of random weights, where no weights are given.")]


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that prints a user's mistake as one sentence and exits with 2; everything else keeps its traceback."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with user_errors():
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def user_errors() -> Iterator[None]:
    """Prints a UserError (with its table of keys, if it has one) and exits with 2."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            show = warnings.showwarning
            warnings.showwarning = lambda message, category, *rest, **more: (
                print(f"warning: {message}", file=sys.stderr)
                if issubclass(category, DataWarning)
                else show(message, category, *rest, **more)
            )
            yield
    except UserError as error:
        report = getattr(error, "report", None)
        if report is not None:
            from rich.console import Console

            Console(stderr=True).print(report.table())
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


def warn(sentences: tuple[str, ...]) -> None:
    """Loud lines on standard error."""
    from rich.console import Console

    for sentence in sentences:
        Console(stderr=True).print(f"[bold white on red] {sentence} ", soft_wrap=True, highlight=False)
