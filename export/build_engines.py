"""Build what a server or an edge box needs from a preset and its weights: `python export/build_engines.py --help`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.options import ClipOption, PartialOption, PresetName, SeedOption, WeightsOption, command, warn
from ovavss.errors import UserError
from ovavss.model.presets import PRESETS, Preset


def parse_size(option: str, text: str | None, multiple: int = 1) -> tuple[int, int] | None:
    """`HxW`, both multiples of `multiple`."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"{option} {text} is not HEIGHTxWIDTH; give for instance {option} 384x640")
    height, width = int(parts[0]), int(parts[1])
    if height % multiple or width % multiple:
        near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (height, width))
        raise UserError(f"{option} {text}: both sides must be multiples of {multiple}; the nearest is {option} {near}")
    return height, width


def check_folder(out: Path) -> None:
    """Make the folder and prove that it can be written, before the long work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the output folder {out} cannot be written ({error.strerror}); give another with --out"
        ) from error


@command
def build(
    preset: Annotated[PresetName, typer.Option(help="Which model.")],  # type: ignore[valid-type]
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: WeightsOption = None,
    clip: ClipOption = None,
    partial: PartialOption = False,
    seed: SeedOption = 0,
    size: Annotated[
        str | None, typer.Option(help="Fix the network size, e.g. 384x640. Default: dynamic, as published.")
    ] = None,
    verify_size: Annotated[str | None, typer.Option(help="Frame size of the comparison with PyTorch, HxW.")] = None,
) -> None:
    """Export the four graphs to ONNX, check each against PyTorch in ONNX Runtime, and print one table."""
    chosen = PRESETS[preset.value]  # type: ignore[attr-defined]
    network_size = parse_size("--size", size, multiple=32)
    frame_size = parse_size("--verify-size", verify_size) or network_size or _default_frame_size(chosen)
    check_folder(out)
    from ovavss.runtime.weights import WeightsSource, load_models

    loaded = load_models(chosen, WeightsSource(weights or [], clip, partial, seed))
    warn(loaded.warnings)
    from onnx_engines import build_onnx

    start = time.perf_counter()
    build_onnx(loaded, out, network_size, frame_size, seed)
    print(f"wrote {out} in {time.perf_counter() - start:.0f} s")


def _default_frame_size(preset: Preset) -> tuple[int, int]:
    """Frames that need no resize, 4:3."""
    return preset.short_side, preset.short_side * 4 // 3


if __name__ == "__main__":
    typer.run(build)
