"""The public face: `ovavss.load` gives a `Segmenter`, which turns a video into a `Result` or a stream of windows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ovavss.errors import UserError, warn
from ovavss.media.video import FramePosition, ReadOptions, Window, probe, read_windows
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.systems import ALL_PRESETS, OPEN_AVS, AnyPreset, find_preset
from ovavss.output.results import ClipResult
from ovavss.output.tracks import Result
from ovavss.pipeline.names import check_names
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.segment_video import AnyPipeline, to_clip_result
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import FORMAT_OF_RUNNER, Format, Precision, RunnerName

if TYPE_CHECKING:
    from ovavss.checkpoints.loaded import LoadedModels
    from ovavss.pipeline.open_avs_options import OpenAvsOptions
    from ovavss.runtime.runner import Runner


def load(
    source: str | Path = OPEN_AVS,
    *,
    weights: str | Path | Sequence[str | Path] = (),
    clip_weights: str | None = None,
    partial: bool = False,
    runner: RunnerName | None = None,
    precision: str = "fp32",
    options: "Options | OpenAvsOptions | None" = None,
    seed: int = 0,
    offline: bool = False,
    deadline: float = 120.0,
) -> "Segmenter":
    """Loads one of the two systems, from weights or from exported graphs, or connects to a server that runs one.

    Args:
        source: The name of a preset ("open_avs", "r50", "swin_b", "tiny"), which runs in PyTorch; a folder that
            `ovavss export` wrote; or the address of a Triton server, "grpc://host:port".
        weights: One checkpoint, or several, for a preset of OV-AVSS. Default: those that ship with the preset, else
            random ones, which a warning says. "open_avs" fetches its own once, into the user's cache.
        clip_weights: CLIP's weights, where the checkpoint has none: a file, or "hub".
        partial: Load what fits of the checkpoints, and leave the rest random.
        runner: The runtime. Default: "torch" for a preset, "onnxruntime" for a folder.
        precision: Which of the exported graphs: "fp32", "fp16", "bf16", "int8" or "fp8".
        options: Thresholds and switches: `Options` for OV-AVSS, `OpenAvsOptions` for OpenAVS.
        seed: Seed of random weights.
        offline: Ask no registry for weights that are not in the cache.
        deadline: Seconds that a server may take for a window, retries included.

    Returns:
        A segmenter that is ready to run.

    Raises:
        UserError: An argument does not fit the others, or a file, a graph, a runtime or a server is missing or damaged.
    """
    files = [Path(weights)] if isinstance(weights, str | Path) else [Path(path) for path in weights]
    if str(source) in ALL_PRESETS:
        if runner not in (None, "torch") or precision != "fp32":
            raise UserError(f"preset '{source}' runs in PyTorch and fp32; export it and load the folder for others")
        return _load_preset(find_preset(str(source)), files, clip_weights, partial, options, seed, offline)
    if files or clip_weights:
        raise UserError(f"the exported graphs in {source} hold their own weights; leave weights and clip_weights out")
    if "://" in str(source):
        from ovavss.serving.client import RemotePipeline

        if runner is not None or precision != "fp32":
            raise UserError(f"the server {source} chooses runner and precision; leave them out")
        if not isinstance(options, Options | None):
            raise UserError(f"the server {source} takes the options of OV-AVSS; give ovavss.pipeline.steps.Options")
        return Segmenter(RemotePipeline(str(source), options, deadline))
    if runner == "torch":
        raise UserError(
            f"runner 'torch' runs a preset, not the folder {source}; give one of {', '.join(FORMAT_OF_RUNNER)}"
        )
    if not Path(source).is_dir():
        raise UserError(
            f"there is no engines folder {source}: it is neither a preset ({', '.join(ALL_PRESETS)}) nor a folder of "
            f"exported graphs; build it with: python export/build_engines.py --preset PRESET --out {source}"
        )
    from ovavss.runtime.engines import open_any_engines, read_manifest

    if read_manifest(Path(source)).seed is not None:
        warn(f"THE ENGINES IN {source} HOLD RANDOM WEIGHTS: masks and names mean nothing, the path is the real one")
    name = runner or "onnxruntime"
    preset, runners = open_any_engines(Path(source), FORMAT_OF_RUNNER[name], Precision(precision), name == "openvino")
    return Segmenter(_pipeline(preset, runners, options), name)


def _load_preset(
    preset: AnyPreset, files: list[Path], clip: str | None, partial: bool, options: Any, seed: int, offline: bool
) -> "Segmenter":
    from ovavss.models.systems import graph_modules, graph_specs
    from ovavss.runtime.torch_runner import TorchRunner

    loaded: LoadedModels[Any]
    if isinstance(preset, Preset):
        from ovavss.checkpoints.weights import WeightsSource, load_models

        loaded = load_models(preset, WeightsSource(files, clip, partial, seed))
    else:
        if files or clip:
            raise UserError(f"preset '{preset.name}' brings its own weights; leave weights and clip_weights out")
        from ovavss.checkpoints.open_avs import load_open_avs

        loaded = load_open_avs(preset, offline)
    for sentence in loaded.warnings:
        warn(sentence)
    specs, modules = graph_specs(preset), graph_modules(loaded.models)
    runners: dict[str, Runner] = {name: TorchRunner(specs[name], module) for name, module in modules.items()}
    return Segmenter(_pipeline(preset, runners, options), "torch", loaded, seed)


def _pipeline(preset: AnyPreset, runners: "Mapping[str, Runner]", options: Any) -> AnyPipeline:
    if isinstance(preset, Preset):
        return Pipeline(preset, runners, options)
    from ovavss.pipeline.open_avs import open_pipeline

    return open_pipeline(options, runners=runners)


class Segmenter:
    """Finds, outlines and names what sounds in videos. Made by `ovavss.load`.

    One that is connected to a server is also a context manager, which hangs up at its end.

    Attributes:
        pipeline: Runs the graphs and steps on one window after another.
        runner: The runtime of the graphs; "triton" for a server.
    """

    def __init__(
        self, pipeline: AnyPipeline, runner: str = "triton", loaded: "LoadedModels[Any] | None" = None, seed: int = 0
    ) -> None:
        self.pipeline, self.runner = pipeline, runner
        self._loaded, self._seed = loaded, seed

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up, if a server runs the graphs."""
        close = getattr(self.pipeline, "close", None)
        if close is not None:
            close()

    @property
    def preset(self) -> str:
        """The name of the preset."""
        return self.pipeline.preset.name

    @property
    def options(self) -> "Options | OpenAvsOptions":
        """The thresholds and switches."""
        options: Options | OpenAvsOptions = self.pipeline.options
        return options

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that are answered where a call gives none."""
        preset = find_preset(self.preset)
        if isinstance(preset, Preset):
            from ovavss.datasets.vocabulary import default_vocabulary

            return tuple(default_vocabulary(preset))
        from ovavss.pipeline.open_avs import all_names

        return all_names()

    def segment(
        self,
        video: str | Path,
        classes: Sequence[str] | None = None,
        *,
        frame_position: str = "middle",
        silent: bool = False,
        video_stream: int | None = None,
        audio_stream: int | None = None,
    ) -> Result:
        """Segments a whole video. All its masks are in memory at a time; for a long video use `stream`.

        Args:
            video: Any file with pictures and sound.
            classes: The names to choose from. Default: `self.classes`.
            frame_position: Which frame of each second is segmented: "start", "middle" or "end".
            silent: Take silence where the video has no sound track; else that is an error.
            video_stream: The index of the stream with the picture, as ffprobe counts. Default: what a player takes.
            audio_stream: The same for the sound.

        Returns:
            Tracks, label maps and scores.

        Raises:
            UserError: The video cannot be read, or two names cannot be told apart.
        """
        names = self._names(classes)
        reading = _read_options(frame_position, silent, video_stream, audio_stream)
        info = probe(Path(video), reading)
        windows = tuple(self._stream(Path(video), names, reading))
        return Result(Path(video), tuple(names), (info.height, info.width), windows, self.preset, reading)

    def stream(
        self,
        video: str | Path,
        classes: Sequence[str] | None = None,
        *,
        frame_position: str = "middle",
        silent: bool = False,
        video_stream: int | None = None,
        audio_stream: int | None = None,
    ) -> Iterator[ClipResult]:
        """Segments a video window by window, as it is decoded; memory does not grow with its length.

        Args and errors are those of `segment`.

        Yields:
            The detections and the label map of each window.
        """
        reading = _read_options(frame_position, silent, video_stream, audio_stream)
        return self._stream(Path(video), self._names(classes), reading)

    def _stream(self, video: Path, names: list[str], reading: ReadOptions) -> Iterator[ClipResult]:
        waiting: list[Window] = []

        def clips() -> Iterator[tuple[Any, Any]]:
            for window in read_windows(video, self.pipeline.preset.snippets, reading):
                waiting.append(window)
                yield window.frames, window.waveform

        vocabulary = self.pipeline.embed_names(names)
        for segmentation in self.pipeline.stream(clips(), vocabulary):
            yield to_clip_result(segmentation, waiting.pop(0), names)

    def export(
        self, folder: str | Path, formats: Sequence[str] = ("onnx",), precisions: Sequence[str] = ("fp32",)
    ) -> Path:
        """Exports the graphs, each compared with PyTorch, as `ovavss export` does.

        Args:
            folder: Where the artifacts and their manifest go.
            formats: Of "onnx", "torchscript", "tensorrt" and "tensorrt_rtx".
            precisions: Of "fp32", "fp16" and "bf16".

        Returns:
            The folder, which `ovavss.load` takes.

        Raises:
            UserError: This segmenter was loaded from exported graphs, a format cannot be built here, or an artifact
                differs from PyTorch.
        """
        if self._loaded is None:
            raise UserError("this segmenter was loaded from exported graphs; load the preset itself to export it")
        from ovavss.export.build import Builder
        from ovavss.export.build_spec import BuildSpec

        spec = BuildSpec(tuple(map(Format, formats)), tuple(map(Precision, precisions)))
        Path(folder).mkdir(parents=True, exist_ok=True)
        builder = Builder(self._loaded, Path(folder), spec, self._seed)
        builder.run("")
        if builder.refused:
            raise UserError("; ".join(dict.fromkeys(builder.refused.values())))
        return Path(folder)

    def _names(self, classes: Sequence[str] | None) -> list[str]:
        return list(self.classes) if classes is None else check_names(classes)


def _read_options(frame_position: str, silent: bool, video_stream: int | None, audio_stream: int | None) -> ReadOptions:
    if frame_position not in list(FramePosition):
        raise UserError(f"frame_position is '{frame_position}'; give one of {', '.join(FramePosition)}")
    return ReadOptions(FramePosition(frame_position), "silence" if silent else "error", video_stream, audio_stream)
