"""The options that several scripts share, and how a script is started."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ovavss.commands.process import command

EnginesOption = Annotated[Path, typer.Option("--engines", help="Folder that `ovavss export` wrote.")]
WeightsOption = Annotated[
    list[Path] | None, typer.Option("--weights", help="The files that the engines were built from.")
]
RunnersOption = Annotated[str | None, typer.Option("--runners", help="Only these, joined by commas.")]
NumClipsOption = Annotated[int, typer.Option("--num-clips", min=1, help="Held-out clips of Sounding Shapes.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the clips.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Turns of each row.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="torch.compile too; it takes minutes.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


def run(main: Callable[..., Any]) -> None:
    """Run a script's `main`; a user's mistake is one sentence and exit status 2."""
    typer.run(command(main))
