"""`ovavss export`, also `python export/build_engines.py`: the exported graphs of a preset and its weights."""

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ovavss.checkpoints.shipped import shipped_weights
from ovavss.commands.options import (
    ClipWeightsOption,
    PartialOption,
    SeedOption,
    WeightsOption,
)
from ovavss.commands.process import command
from ovavss.errors import UserError, warn
from ovavss.export.build_spec import BuildSpec, PlanOptions, request_fingerprint
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.systems import AnyPresetName, find_preset, graph_names
from ovavss.msda.onnx_node import FallbackBody
from ovavss.runtime.engines import MANIFEST, Format, Precision, artifact_key, checked_artifact, read_manifest

if TYPE_CHECKING:
    from ovavss.checkpoints.loaded import LoadedModels

_Choice = TypeVar("_Choice", bound=StrEnum)


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


def parse_choices(option: str, text: str, kind: type[_Choice]) -> tuple[_Choice, ...]:
    """`a,b` as members of an enumeration."""
    chosen = []
    for part in text.split(","):
        try:
            chosen.append(kind(part.strip()))
        except ValueError:
            known = ",".join(kind)
            raise UserError(f"{option} '{part.strip()}' is unknown; choose of {known}, joined by commas") from None
    return tuple(dict.fromkeys(chosen))


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


def is_up_to_date(out: Path, request: BuildSpec, key: str) -> bool:
    """Whether an earlier run of the same command finished here and nothing was changed since."""
    try:
        manifest = read_manifest(out)
        if manifest.request != key:
            return False
        written = (out / MANIFEST).stat().st_ctime_ns
        for graph in graph_names(manifest.preset):
            for form, precision in request.targets(graph):
                artifact = manifest.graphs.get(graph, {}).get(artifact_key(form, precision))
                file = (out / artifact.file).stat() if artifact else None
                # Not a byte is read of a file that nobody touched since. (Who sets its mtime back changes its ctime.)
                if not artifact or not file or file.st_size != artifact.size or file.st_ctime_ns > written:
                    checked_artifact(out, manifest, graph, form, precision)
    except (UserError, OSError):
        return False
    return True


@command
def export(
    preset: Annotated[AnyPresetName, typer.Option(help="Which model.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    formats: Annotated[
        list[str], typer.Option(help="Of onnx,torchscript,tensorrt,tensorrt_rtx; may be given several times.")
    ] = ["onnx"],  # noqa: B006
    precision: Annotated[
        list[str],
        typer.Option(
            help="Of fp32,fp16,bf16: type of the products; int8,fp8: the CLIP image encoder's; may be given several "
            "times."
        ),
    ] = ["fp32"],  # noqa: B006
    weights: WeightsOption = None,
    clip_weights: ClipWeightsOption = None,
    partial: PartialOption = False,
    seed: SeedOption = 0,
    size: Annotated[
        str | None, typer.Option(help="Fix the network size, e.g. 384x640. Default: dynamic, as published.")
    ] = None,
    verify_size: Annotated[str | None, typer.Option(help="Frame size of the comparison with PyTorch, HxW.")] = None,
    attention_body: Annotated[
        FallbackBody | None,
        typer.Option(
            help="How deformable attention is written for runtimes without our plugin. Default: grid_sample in ONNX "
            "files, gather in TensorRT-RTX engines and in TensorRT engines without --plugin."
        ),
    ] = None,
    compute_capability: Annotated[
        str, typer.Option(help="GPUs that TensorRT-RTX builds for (fp8: 8.9 on); no GPU is needed here.")
    ] = "8.6,8.9,12.0",
    plugin: Annotated[Path | None, typer.Option(help="Our TensorRT plugin library.")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="For int8, fp8: videos with sound, or a .npy of CLIP's crops; may be given several times."),
    ] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="TensorRT's timing cache, read and written.")] = None,
    version_compatible: Annotated[bool, typer.Option("--version-compatible", help="TensorRT: loads in later ones.")] = (
        False
    ),
    hardware_compatible: Annotated[bool, typer.Option("--hardware-compatible", help="TensorRT: Ampere and later.")] = (
        False
    ),
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Write each ONNX layer's difference from PyTorch: GRAPH.layers.json."),
    ] = False,
) -> None:
    """Build the graphs in every format asked for, check each against PyTorch, and print one table.

    What is there already and unchanged is kept.
    """
    start = time.perf_counter()
    chosen = find_preset(preset)
    plan = PlanOptions(
        tuple(part.strip() for part in compute_capability.split(",")), plugin, timing_cache, version_compatible,
        hardware_compatible,
    )  # fmt: skip
    plan.check()
    request = BuildSpec(
        parse_choices("--formats", ",".join(formats), Format),
        parse_choices("--precision", ",".join(precision), Precision),
        parse_size("--size", size, multiple=32),
        parse_size("--verify-size", verify_size),
        attention_body,
        plan,
        tuple(calibration or ()),
        layers,
    )
    open_avs = not isinstance(chosen, Preset)
    if open_avs and (
        request.quantized() or request.size or weights or clip_weights or Format.TORCHSCRIPT in request.formats
    ):
        raise UserError(
            "preset 'open_avs' brings its own weights and sizes, in formats onnx, tensorrt and tensorrt_rtx and in "
            "fp32, fp16 and bf16; leave --weights, --clip-weights and --size out"
        )
    if isinstance(chosen, Preset) and request.quantized():
        from ovavss.export.calibration import check_calibration

        check_calibration(chosen, request.calibration)
    elif calibration:
        raise UserError("--calibration is for --precision int8 or fp8; leave it out")
    given = [path for path in weights or [] if path.is_file()]  # a missing one is told of as it is loaded
    shipped = shipped_weights(chosen.name)
    key = request_fingerprint(chosen.name, given or ([shipped] if shipped else []), seed, clip_weights, request)
    if is_up_to_date(out, request, key):
        print(f"{out} is up to date: nothing to build ({time.perf_counter() - start:.1f} s)")
        return
    check_folder(out)
    loaded: LoadedModels[Any]
    if isinstance(chosen, Preset):
        from ovavss.checkpoints.weights import WeightsSource, load_models

        loaded = load_models(chosen, WeightsSource(weights or [], clip_weights, partial, seed))
        for sentence in loaded.warnings:
            warn(sentence)
    else:
        from ovavss.checkpoints.open_avs import load_open_avs

        loaded = load_open_avs(chosen)
    from ovavss.export.build import Builder

    builder = Builder(loaded, out, request, seed)
    builder.run(key)
    print(f"wrote {out} in {time.perf_counter() - start:.0f} s")
    if builder.refused:
        raise typer.Exit(3)
