"""The demonstration behind `make demo`: a video with sound, to masks and names."""

from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.app import app
from ovavss.commands.process import command
from ovavss.models.ov_avss.presets import PRESETS

# A scene of a held-out world in which some shapes sound and others do not.
WORLD_SEED, SCENE = 1000, 10
REAL_CLASSES = "person,piano,dog"


@command
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    engines: Annotated[
        Path | None, typer.Option(help="Folder of exported graphs. Default: open_avs, in PyTorch.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Default: a rendered clip for tiny, else a real one.")] = None,
    classes: Annotated[str | None, typer.Option(help="'person,piano,...', or @FILE.")] = None,
) -> None:
    """Segment a video and say where to find the pictures."""
    options = ["--out", str(out), *(["--engines", str(engines)] if engines else [])]
    if video is None and engines is not None and _knows_shapes(engines):
        video = _rendered(out.parent)
        options += ["--proposals", "sounding"]
    elif video is None:
        from ovavss.datasets.demo_clip import fetch_demo_clip

        video, classes = fetch_demo_clip(), classes or REAL_CLASSES
    app(["segment", str(video), *options, *(["--classes", classes] if classes else [])], standalone_mode=False)
    print(f"look at {out / 'overlay.png'} and {out / 'overlay.mp4'}")


def _knows_shapes(engines: Path) -> bool:
    from ovavss.runtime.engines import read_manifest

    preset = PRESETS.get(read_manifest(engines).preset)
    return preset is not None and preset.vocabulary == "sounding_shapes"


def _rendered(folder: Path) -> Path:
    """A clip of the synthetic world as an MP4 with an AAC track."""
    from ovavss.datasets.sounding_shapes.disk import write_mp4
    from ovavss.datasets.sounding_shapes.scenes import sample_scene

    folder.mkdir(parents=True, exist_ok=True)
    return write_mp4(sample_scene(WORLD_SEED, SCENE), folder / "sounding_shapes.mp4", fps=25)


if __name__ == "__main__":
    typer.run(demo)
