"""`ovavss segment`: a video in, masks and names out."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.options import ClipOption, PartialOption, PresetName, SeedOption, WeightsOption, command, warn
from ovavss.errors import UserError
from ovavss.model.presets import PRESETS, Crop, Preset, Proposals

if TYPE_CHECKING:
    from ovavss.runtime.pipeline import Pipeline, Segmentation
    from ovavss.runtime.results import ClipResult
    from ovavss.runtime.runner import Runner


class RunnerName(str, Enum):
    """Which runtime runs the graphs."""

    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


class InstantName(str, Enum):
    """Which frame of a second stands for it."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


def parse_classes(classes: str | None, preset: Preset) -> list[str]:
    """Names from `a,b,c` or from `@FILE` with one a line; without either, the vocabulary that the preset was trained for."""
    from ovavss.runtime.pipeline import check_names

    if classes is None:
        from ovavss.runtime.vocabulary import default_vocabulary

        return list(default_vocabulary(preset))
    if not classes.startswith("@"):
        return check_names(classes.split(",") if classes.strip() else [])
    path = Path(classes[1:])
    try:
        return check_names(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the class list {path} cannot be read ({error}); give a UTF-8 text file with one name a line") from error


@command
def segment(
    video: Annotated[Path, typer.Argument(help="Any video with sound.")],
    out: Annotated[Path, typer.Option(help="Folder to write; a result of an earlier run there is replaced.")],
    classes: Annotated[str | None, typer.Option(help="'man,piano,...', or @FILE with one name a line.")] = None,
    engines: Annotated[Path | None, typer.Option(help="Folder that build_engines.py wrote.")] = None,
    runner: Annotated[RunnerName, typer.Option(help="onnxruntime needs --engines; torch needs no export.")] = RunnerName.ONNXRUNTIME,
    preset: Annotated[PresetName, typer.Option(help="With --runner torch.")] = PresetName.tiny,  # type: ignore[attr-defined]
    weights: WeightsOption = None,
    clip: ClipOption = None,
    partial: PartialOption = False,
    seed: SeedOption = 0,
    proposals: Annotated[Proposals, typer.Option(help="Name all queries, or those that the sound head selects.")] = Proposals.ALL,
    sound_threshold: Annotated[float, typer.Option(min=0, max=1, help="With --proposals sounding.")] = 0.5,
    score_threshold: Annotated[float, typer.Option(min=0, max=1, help="Names at or below it stay out of the label map.")] = 0.3,
    crop: Annotated[Crop, typer.Option(help="What of a masked frame CLIP sees.")] = Crop.SQUARE,
    instant: Annotated[InstantName, typer.Option(help="Which frame of a second stands for it.")] = InstantName.MIDDLE,
    silent: Annotated[bool, typer.Option("--silent", help="Take silence where the video has no sound.")] = False,
) -> None:
    """Find, outline and name what sounds in a video."""
    from ovavss.data.media import Instant, probe
    from ovavss.runtime.pipeline import Options
    from ovavss.runtime.results import check_output_folder

    out = check_output_folder(out)
    on_missing = "silence" if silent else "error"
    probe(video, on_missing_audio=on_missing)
    if engines is not None and runner is RunnerName.TORCH:
        raise UserError("--engines and --runner torch exclude each other; leave one out")
    chosen = PRESETS[preset.value]
    if runner is RunnerName.ONNXRUNTIME:
        if engines is None:
            raise UserError("--runner onnxruntime needs --engines DIR (build it with export/build_engines.py), or pass --runner torch")
        if weights or clip:
            raise UserError("--weights and --clip belong to --runner torch; the engines hold their own weights")
        from ovavss.runtime.engines import read_manifest

        chosen = PRESETS[read_manifest(engines).preset]
    names = parse_classes(classes, chosen)
    runners = _runners(chosen, engines, weights or [], clip, partial, seed)
    options = Options(proposals=proposals, sound_threshold=sound_threshold, score_threshold=score_threshold, crop=crop)
    settings = {
        "preset": chosen.name,
        "runner": runner.value,
        "proposals": proposals.value,
        "sound_threshold": sound_threshold,
        "score_threshold": score_threshold,
        "crop": crop.value,
        "instant": instant.value,
    }
    _run(video, out, names, chosen, runners, options, Instant(instant.value), on_missing, settings)


def _runners(
    preset: Preset, engines: Path | None, weights: list[Path], clip: str | None, partial: bool, seed: int
) -> "dict[str, Runner]":
    from ovavss.runtime.engines import open_engines, read_manifest, torch_runners

    if engines is not None:
        if read_manifest(engines).seed is not None:
            warn(("THESE ENGINES HOLD RANDOM WEIGHTS: masks and names mean nothing, the path is the real one",))
        return open_engines(engines)[1]
    from ovavss.runtime.weights import WeightsSource, load_models

    loaded = load_models(preset, WeightsSource(weights, clip, partial, seed))
    warn(loaded.warnings)
    return torch_runners(loaded.models)


def _run(
    video: Path,
    out: Path,
    names: list[str],
    preset: Preset,
    runners: "dict[str, Runner]",
    options: object,
    instant: object,
    on_missing: str,
    settings: dict[str, object],
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ovavss.data.media import probe, read_windows
    from ovavss.runtime.pipeline import Pipeline
    from ovavss.runtime.results import ResultWriter

    pipeline = Pipeline(preset, runners, options)  # type: ignore[arg-type]
    info = probe(video, on_missing_audio=on_missing)  # type: ignore[arg-type]
    windows = -(-info.seconds // preset.snippets)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found = crops = 0
    with Progress(*columns) as progress, ResultWriter(out, video, names, (info.height, info.width), settings) as writer:
        task = progress.add_task("reading names", total=len(names))
        vocabulary = pipeline.embed_names(names, lambda done: progress.update(task, completed=done))
        task = progress.add_task("segmenting", total=windows)
        for window in read_windows(video, preset.snippets, instant, on_missing):  # type: ignore[arg-type]
            segmentation = pipeline(window.frames, window.waveform, vocabulary)
            result = to_clip_result(segmentation, window, names)
            found += len({d.label for d in result.detections if d.score > settings["score_threshold"]})  # type: ignore[operator]
            crops += segmentation.crops
            writer.add(result, window.frames, window.waveform)
            progress.advance(task)
    print(f"{info.seconds} seconds in {windows} windows of {preset.snippets}, {crops} crops named, {found} names above the threshold")
    print(f"wrote {out}: result.json, label_maps/, overlay.mp4, overlay.png")


def to_clip_result(segmentation: "Segmentation", window: object, names: list[str]) -> "ClipResult":
    """What the pipeline found in a window, as the writer takes it."""
    import numpy as np

    from ovavss.runtime.results import ClipResult, Detection

    ranking = segmentation.ranking
    detections = [
        Detection(query, label, names[label], score, mask)
        for query, label, score, mask in zip(
            ranking.query.tolist(), ranking.label.tolist(), ranking.score.tolist(), segmentation.masks.numpy()
        )
    ]
    label_map = segmentation.label_map.numpy().astype(np.uint8 if len(names) <= 255 else np.uint16)
    return ClipResult(window.index, window.start, window.snippets, window.timestamps, detections, label_map)  # type: ignore[attr-defined]
