"""Puts checkpoints into modules: all or, unless told otherwise, nothing; and writes our own."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ovavss.checkpoints.formats import FORMAT, Checkpoint, Kind, detect_preset, read_checkpoint, shortlist
from ovavss.checkpoints.key_map import to_upstream
from ovavss.checkpoints.recognize import preset_of
from ovavss.errors import UserError

__all__ = [
    "Checkpoint",
    "CheckpointMismatch",
    "Kind",
    "LoadReport",
    "Misshaped",
    "detect_preset",
    "load_into",
    "read_checkpoint",
    "save_checkpoint",
    "to_upstream_state",
]

# What a Mask2Former file cannot have, since it hears nothing and its classes are COCO's.
_NOT_IN_MASK2FORMER = re.compile(
    r"usslm\.(?:pixel_decoder\.early_fusion\.|audio_proj\.|mask_decoder\."
    r"(?:audio_to_query\.|audio_self_attention\.|audio_query_embed\.|concat_proj\.|sound_head\."
    r"|layers\.\d+\.audio_(?:self_)?attention\.)).*"
)
_OTHER_MODELS = ("audio_encoder.", "clip.")


@dataclass(frozen=True)
class Misshaped:
    """One entry whose shape is not the module's."""

    name: str
    expected: tuple[int, ...]
    found: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.found)} instead of {list(self.expected)}"


@dataclass
class LoadReport:
    """What a load did with every name: ours, or the file's where we have none for it (unexpected, ignored).

    missing, unexpected, shape_mismatch: problems; fresh: not in a Mask2Former file by its nature, so that the module
    keeps its values; dropped: of another shape in a Mask2Former file; ignored: constants; not_asked: of modules that
    the caller did not give.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatch: list[Misshaped] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    dropped: list[Misshaped] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, unexpected or shape_mismatch."""
        return not (self.missing or self.unexpected or self.shape_mismatch)

    def summary(self) -> str:
        """Counts in one line, those of zero left out."""
        kinds = ("loaded", "missing", "unexpected", "shape_mismatch", "fresh", "dropped", "ignored", "not_asked")
        counts = ((len(getattr(self, kind)), kind.replace("not_asked", "not asked for")) for kind in kinds)
        return ", ".join(f"{count} {kind}" for count, kind in counts if count)

    def table(self, rows: int | None = None) -> Table:
        """The missing, unexpected, shape_mismatch and dropped names, one a row: all, or the first and a count."""
        table = Table(title=Text(f"{self.source}: {self.summary()}"))
        table.add_column("name", overflow="fold")
        for column in ("problem", "shape here", "shape in the file"):
            table.add_column(column)
        found = [(name, "missing", "", "") for name in self.missing]
        found += [(name, "unexpected", "", "") for name in self.unexpected]
        for problem, entries in (("shape_mismatch", self.shape_mismatch), ("dropped", self.dropped)):
            found += [(e.name, problem, str(list(e.expected)), str(list(e.found))) for e in entries]
        for row in found[:rows]:
            table.add_row(*map(Text, row))  # Text, not str: names come from a file and must not be read as markup
        if rows is not None and len(found) > rows:
            table.add_row(f"… and {len(found) - rows} more", "", "", "")
        return table


class CheckpointMismatch(UserError):
    """The file does not fit the modules; `report.table()` shows every name. Nothing has been loaded."""

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(message)
        self.report = report


def load_into(
    modules: Mapping[str, nn.Module],
    checkpoints: Checkpoint | Sequence[Checkpoint],
    *,
    allow_partial: bool = False,
    source: Path | None = None,
    preset: str | None = None,
    recognize: bool = True,
) -> LoadReport:
    """Copies weights into modules, cast to each parameter's dtype and device.

    Everything is checked before the first value is written. Of several checkpoints (a Mask2Former and a VGGish file,
    say) a later one wins where both hold a name.

    Args:
        modules: by the prefix of their names, e.g. {"usslm": ..., "audio_encoder": ..., "clip": ...}.
        checkpoints: what was read of one file, or of several.
        allow_partial: load what fits although something is missing, unexpected or shape_mismatch.
        source: how messages call the file; the checkpoints' own paths if None.
        preset: the name of the preset that the modules were built from, for messages.
        recognize: whether weights that are another preset's are refused as such.

    Raises:
        CheckpointMismatch: something is missing, unexpected or shape_mismatch, and `allow_partial` is false.
        UserError: the weights are another preset's (whatever `allow_partial` says), or none is for these modules.
    """
    files = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    called = str(source) if source is not None else " + ".join(str(file.path) for file in files)
    targets: dict[str, Tensor] = _state(modules)
    prefixes = tuple(f"{prefix}." for prefix in modules)
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    for file in files if recognize else ():
        _check_preset(file, shapes, prefixes, preset)

    report = LoadReport(called)
    fitting: dict[str, Tensor] = {}
    for file in files:
        report.unexpected += file.unmapped
        report.ignored += file.ignored
        for name, tensor in file.tensors.items():
            if not name.startswith(prefixes):
                report.not_asked.append(name)
            elif name not in targets:
                report.unexpected.append(name)
            elif tuple(tensor.shape) != shapes[name]:
                entry = Misshaped(name, shapes[name], tuple(tensor.shape))
                (report.dropped if file.kind is Kind.MASK2FORMER else report.shape_mismatch).append(entry)
            else:
                _check_finite(file, name, tensor)
                fitting[name] = tensor
    report.loaded = list(fitting)
    shape_mismatch = {entry.name for entry in report.shape_mismatch}
    absent = [name for name in targets if name not in fitting and name not in shape_mismatch]
    report.fresh = _fresh(absent, report.loaded) if any(file.kind is Kind.MASK2FORMER for file in files) else []
    fresh = set(report.fresh)
    report.missing = [name for name in absent if name not in fresh]

    _check_report(report, files, shapes, preset, list(modules), allow_partial)
    if any(targets[name].is_meta for name in fitting):
        raise ValueError("modules on the meta device cannot take weights")
    with torch.no_grad():
        for name, tensor in fitting.items():
            targets[name].copy_(tensor)
    return report


def save_checkpoint(path: Path, modules: Mapping[str, nn.Module], preset: str) -> None:
    """Writes the modules' state, dtypes as they are, as `.safetensors` with our names and the preset's name.

    The file appears under its name only when it is complete.

    Raises:
        UserError: another suffix, or the folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"cannot save weights as {path}: give a name that ends in .safetensors")
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in _state(modules).items():
        tensor = tensor.detach().cpu().contiguous()
        # The format has no shared storage.
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={"format": FORMAT, "preset": preset})
        # safetensors leaves a file that only its owner may read.
        temporary.chmod(mode)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"cannot write {path} ({reason}): check that its folder exists and has room") from None
    finally:
        temporary.unlink(missing_ok=True)


def to_upstream_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The modules' tensors (not copied) by their published names, to be saved as {"model": ...}.

    Constants that the published code computes (`relative_position_index`, `criterion.empty_weight`) are left out.

    Raises:
        UserError: a part that the published model lacks, as some of the ablation options have.
    """
    renamed = {name: to_upstream(name) for name in _state(modules)}
    unknown = [name for name, published in renamed.items() if published is None]
    if unknown:
        raise UserError(
            f"the published model has no place for {len(unknown)} of the weights ({shortlist(unknown)}): "
            "save them as .safetensors instead"
        )
    return {str(renamed[name]): tensor for name, tensor in _state(modules).items()}


def _check_finite(file: Checkpoint, name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
        raise UserError(
            f"{file.path}: the tensor '{name}' holds NaN or infinity, so these weights are damaged; "
            "give a checkpoint from before the training diverged, or copy the file again"
        )


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}


def _fresh(absent: list[str], loaded: list[str]) -> list[str]:
    # A whole model that no file brings is new; one that a file brings in part is missing the rest.
    whole = tuple(prefix for prefix in _OTHER_MODELS if not any(name.startswith(prefix) for name in loaded))
    return [name for name in absent if _NOT_IN_MASK2FORMER.fullmatch(name) or name.startswith(whole)]


def _wrong_preset(file: Checkpoint, theirs: str, ours: str) -> UserError:
    return UserError(
        f"{file.path} holds the weights of preset '{theirs}', but the preset here is '{ours}'; pass --preset {theirs}"
    )


def _check_preset(
    file: Checkpoint, shapes: Mapping[str, tuple[int, ...]], prefixes: tuple[str, ...], preset: str | None
) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in file.tensors.items() if name.startswith(prefixes)}
    if all(shapes.get(name) == shape for name, shape in found.items()):
        return
    theirs, ours = preset_of(found), preset_of(shapes)
    if theirs and theirs not in (preset, ours):
        here = preset or ours or "another"
        raise _wrong_preset(file, file.preset if file.preset and file.preset != here else theirs, here)


def _check_report(
    report: LoadReport,
    files: Sequence[Checkpoint],
    shapes: Mapping[str, tuple[int, ...]],
    preset: str | None,
    asked: list[str],
    allow_partial: bool,
) -> None:
    here = preset or preset_of(shapes)
    for file in files:
        if not (report.ok or allow_partial) and file.preset and here and file.preset != here:
            raise _wrong_preset(file, file.preset, here)
    if not report.loaded:
        kinds = " and ".join(file.kind.value for file in files)
        why = "none that fits" if report.shape_mismatch else "none"
        message = f"{report.source} holds {kinds} weights, {why} for {', '.join(asked)}: give another checkpoint"
        raise CheckpointMismatch(message, report)
    if report.ok or allow_partial:
        return
    problems = [
        f"{len(names)} {problem} ({shortlist(map(str, names))})"
        for problem, names in (
            ("missing", report.missing),
            ("unexpected", report.unexpected),
            ("shape_mismatch", report.shape_mismatch),
        )
        if names
    ]
    raise CheckpointMismatch(
        f"{report.source} does not fit the model: {'; '.join(problems)}; pass --partial to load what fits anyway",
        report,
    )
