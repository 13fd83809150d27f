"""The options that several commands share, each defined once; a dataclass of them becomes options of a command."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import Crop, Proposals
from ovavss.models.systems import OPEN_AVS, AnyPresetName
from ovavss.runtime.engines import Precision, RunnerName

if TYPE_CHECKING:
    from ovavss.pipeline.open_avs_options import OpenAvsOptions
    from ovavss.pipeline.steps import Options
    from ovavss.segmenter import Segmenter

_ov_avss = partial(typer.Option, rich_help_panel="How OV-AVSS decides")

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
PrecisionOption = Annotated[Precision, typer.Option(help="Which of the engines.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask no registry for weights and media that are not in the cache.")
]
VideoStreamOption = Annotated[
    int | None,
    typer.Option(min=0, help="Index of the stream with the picture, as ffprobe counts. Default: what a player takes."),
]
AudioStreamOption = Annotated[
    int | None,
    typer.Option(min=0, help="Index of the stream with the sound, as ffprobe counts. Default: what a player takes."),
]
ProposalsOption = Annotated[
    Proposals,
    _ov_avss(
        help="Name all queries, or those that the sound head selects. segment answers with all, as the published code "
        "does; evaluate scores the sounding ones, as the paper does."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of random weights, where no weights are given.")]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which model runs, where, and how it decides: the options that `segment` and `evaluate` share.

    The help texts describe each one. The defaults are those of the published code; `evaluate` selects sounding queries,
    as the paper's scores do.
    """

    preset: Annotated[
        AnyPresetName | None,
        typer.Option(
            help=f"Which model, without --engines. Default: {OPEN_AVS}, which needs nothing else; "
            "of evaluate: tiny, which knows Sounding Shapes.",
        ),
    ] = None
    engines: Annotated[Path | None, typer.Option(help="Folder that build_engines.py wrote.")] = None
    runner: Annotated[
        RunnerName | None,
        typer.Option(help="All but torch need --engines. Default: onnxruntime with --engines, else torch."),
    ] = None
    precision: PrecisionOption = Precision.FP32
    weights: WeightsOption = None
    clip_weights: ClipWeightsOption = None
    partial: PartialOption = False
    offline: OfflineOption = False
    proposals: ProposalsOption = Proposals.ALL
    sound_threshold: Annotated[float, _ov_avss(min=0, max=1, help="With --proposals sounding.")] = 0.5
    score_threshold: Annotated[
        float, _ov_avss(min=0, max=1, help="Names at or below it stay out of the label map.")
    ] = 0.3
    top_k: Annotated[int, _ov_avss(min=1, help="How many pairs of a query and a name are kept.")] = 10
    named_only: Annotated[
        bool, _ov_avss("--named-only", help="Give names at or below the score threshold no mask.")
    ] = False
    crop: Annotated[Crop, _ov_avss(help="What of a masked frame CLIP sees.")] = Crop.SQUARE
    square_anchor: Annotated[
        Literal["top_left", "center"], _ov_avss(help="Where a square crop lies; the paper centers it.")
    ] = "top_left"
    frames_per_query: Annotated[
        int | None, _ov_avss(min=1, help="Name a query by its N most confident frames. Default: by all of them.")
    ] = None
    confidence_threshold: Annotated[
        float | None,
        _ov_avss(min=0, max=1, help="Stop at the frame at which a query's name has this probability."),
    ] = None
    merge_iou: Annotated[
        float | None,
        _ov_avss(min=0, max=1, help="Queries that overlap this much share a crop. Default: none do."),
    ] = None
    clip_batch: Annotated[int, _ov_avss(min=1, help="Crops that go through CLIP at a time.")] = 32
    localizer_batch: Annotated[int, _ov_avss(min=1, help="Windows that go through the localizer at a time.")] = 1
    thresholds: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel="How OpenAVS decides",
            help="A threshold of open_avs, such as min_heard=0.1; may be given several times.",
        ),
    ] = None

    def pipeline_options(self, context: typer.Context, preset: str, **more: Any) -> "Options | OpenAvsOptions":
        """The options of the preset's own system.

        Args:
            context: Of the command.
            preset: The name of the preset that runs.
            **more: Further fields of `Options`.

        Raises:
            UserError: An option was given that only the other system has, or a value does not fit.
        """
        from ovavss.pipeline.steps import Options

        names = [field.name for field in dataclasses.fields(Options) if hasattr(self, field.name)]
        if preset == OPEN_AVS:
            refuse_options(context, names, "only the presets of OV-AVSS have such a switch")
            return parse_open_avs_options(self.thresholds or [])
        refuse_options(context, ["thresholds"], f"only preset '{OPEN_AVS}' has such thresholds")
        return Options(**{name: getattr(self, name) for name in names}, **more)

    def load(self, context: typer.Context, default_preset: str, seed: int = 0, **more: Any) -> "Segmenter":
        """The model, ready to run; arguments as of `pipeline_options`.

        Raises:
            UserError: Options do not fit together, or `ovavss.load` refuses them.
        """
        from ovavss.segmenter import load

        if self.engines is None:
            source = self.preset or default_preset
            if self.runner not in (None, "torch"):
                raise UserError(
                    f"--runner {self.runner} needs --engines DIR (build it with export/build_engines.py), or pass "
                    "--runner torch"
                )
            if self.precision is not Precision.FP32:
                raise UserError(f"--precision {self.precision} is for built engines; leave it out, or pass --engines")
            if source == OPEN_AVS:
                reason = f"preset '{OPEN_AVS}' brings its own weights"
                refuse_options(context, ("weights", "clip_weights", "partial", "seed"), reason)
            options = self.pipeline_options(context, source, **more)
            return load(
                source, weights=self.weights or (), clip_weights=self.clip_weights, partial=self.partial,
                options=options, seed=seed, offline=self.offline,
            )  # fmt: skip
        from ovavss.runtime.engines import read_manifest

        if self.runner == "torch":
            raise UserError("--engines and --runner torch exclude each other; leave one out")
        reason = f"the engines in {self.engines} hold their own preset and weights"
        refuse_options(context, ("preset", "weights", "clip_weights", "partial", "seed"), reason)
        options = self.pipeline_options(context, read_manifest(self.engines).preset, **more)
        return load(self.engines, runner=self.runner, precision=self.precision, options=options)


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Raises UserError where one of these parameters was given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    options = [parameter.opts[0] for parameter in context.command.params if parameter.name in given]
    if options:
        raise UserError(f"{reason}: leave {', '.join(options)} out")


def parse_open_avs_options(assignments: Iterable[str]) -> "OpenAvsOptions":
    """`NAME=VALUE` pairs as the thresholds of OpenAVS.

    Raises:
        UserError: A name is unknown or there twice, or a value is no number of its kind.
    """
    from ovavss.pipeline.open_avs_options import OpenAvsOptions

    kinds = get_type_hints(OpenAvsOptions)
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in kinds:
            raise UserError(f"--set {assignment}: there is no threshold '{name}'; choose from {', '.join(kinds)}")
        if name in values:
            raise UserError(f"--set gives '{name}' twice; leave one out")
        try:
            values[name] = kinds[name](text)
            if not 0 <= values[name] < float("inf"):
                raise ValueError
        except ValueError:
            kind = "an integer" if kinds[name] is int else "a number"
            raise UserError(f"--set {assignment}: '{text}' is not {kind} of at least 0") from None
    return OpenAvsOptions(**values)


def expand_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command in which each parameter that is a dataclass of options is replaced by options, one for each field."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if inspect.isclass(kind) and dataclasses.is_dataclass(kind)}
    if not groups:
        return function
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kinds = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
            for f in dataclasses.fields(groups[name])
        ]

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind)}) for name, kind in groups.items()
        }
        return function(**given, **made)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped
