"""The demonstration behind `make demo`: videos with sound through exported graphs, to masks and names."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.process import command
from ovavss.commands.segment import segment
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import PRESETS, Proposals

# A scene of a held-out world in which some shapes sound and others do not.
WORLD_SEED, SCENE = 1000, 10
REAL_CLASSES = "man,piano,dog"


@command
def demo(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    video: Annotated[Path | None, typer.Option(help="A video of your own.")] = None,
    classes: Annotated[str | None, typer.Option(help="'man,piano,...', or @FILE.")] = None,
) -> None:
    """Segment a video of your own, or a rendered one (the tiny preset) and a real one."""
    from ovavss.runtime.engines import read_manifest

    if video is not None:
        return _segment(video, engines, out / "own", classes)
    if PRESETS[read_manifest(engines).preset].vocabulary == "sounding_shapes":
        _segment(_rendered(out), engines, out / "sounding_shapes", None, Proposals.SOUNDING)
    from ovavss.datasets.demo_clip import fetch_demo_clip

    try:
        real = fetch_demo_clip()
    except UserError as error:
        print(f"no real clip: {error}", file=sys.stderr)
        return None
    return _segment(real, engines, out / "real_clip", classes or REAL_CLASSES)


def _rendered(out: Path) -> Path:
    """A clip of the synthetic world as an MP4 with an AAC track."""
    from ovavss.datasets.sounding_shapes.disk import write_mp4
    from ovavss.datasets.sounding_shapes.scenes import sample_scene

    out.mkdir(parents=True, exist_ok=True)
    return write_mp4(sample_scene(WORLD_SEED, SCENE), out / "sounding_shapes.mp4", fps=25)


def _segment(video: Path, engines: Path, out: Path, classes: str | None, proposals: Proposals = Proposals.ALL) -> None:
    segment(video=video, out=out, engines=engines, classes=classes, proposals=proposals)
    print(f"look at {out / 'overlay.png'} and {out / 'overlay.mp4'}")


if __name__ == "__main__":
    typer.run(demo)
