"""The demonstration behind `make demo`: a real clip, fetched if no video is named, through exported graphs."""

from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.options import command
from ovavss.commands.segment import segment


@command
def demo(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    video: Annotated[Path | None, typer.Option(help="A video of your own.")] = None,
    classes: Annotated[str | None, typer.Option(help="'man,piano,...', or @FILE.")] = None,
) -> None:
    """Segment a real video with sound."""
    from ovavss.data.demo_clip import fetch_demo_clip

    segment(video=video or fetch_demo_clip(), out=out, engines=engines, classes=classes)
    print(f"look at {out / 'overlay.png'} and {out / 'overlay.mp4'}")


if __name__ == "__main__":
    typer.run(demo)
