"""Where a model's weights come from: checkpoints, open_clip's files or hub, what ships with the package, or a seed."""

import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from ovavss.checkpoints.formats import Checkpoint, Kind, read_checkpoint, read_state_dict, shortlist
from ovavss.checkpoints.loaded import LoadedModels
from ovavss.checkpoints.loader import CheckpointMismatch, LoadReport, load_into
from ovavss.checkpoints.recognize import clip_model_of
from ovavss.checkpoints.shipped import shipped_weights
from ovavss.errors import UserError
from ovavss.files import check_regular_file
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.clip import build_clip
from ovavss.models.ov_avss.graphs import Models
from ovavss.models.ov_avss.presets import ClipConfig, Preset
from ovavss.models.ov_avss.usslm import USSLM

# OpenAI's archives hold these beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class WeightsSource:
    """What the user asked for. `clip`: a file, the word "hub", or None (the checkpoint's own, else the hub)."""

    files: Sequence[Path] = ()
    clip: str | None = None
    partial: bool = False
    seed: int = 0


def build_models(preset: Preset, seed: int = 0) -> Models:
    """The whole model with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Models(preset, AudioEncoder(preset.audio, preset.snippets), USSLM(preset), build_clip(preset.clip))


def load_models(preset: Preset, source: WeightsSource) -> LoadedModels[Models]:
    """The model with the weights that `source` names.

    With no file at all: what ships with the package, else seeded random weights, which a warning says. Raises UserError
    (CheckpointMismatch carries the table) where a file is missing, broken, or does not fit.
    """
    models = build_models(preset, source.seed)
    files = list(source.files)
    shipped = shipped_weights(preset.name)
    if not files and shipped is not None:
        files = [shipped]
    if not files and source.clip is None:
        warning = f"NO WEIGHTS GIVEN: preset '{preset.name}' runs on random weights (seed {source.seed}); "
        return LoadedModels(models, (), (warning + "masks and names mean nothing, the path is the real one",))

    warnings = []
    checkpoints = [read_checkpoint(path) for path in files]
    has_clip = any(name.startswith("clip.") for file in checkpoints for name in file.tensors)
    if checkpoints:
        modules = models.modules()
        if not has_clip or source.clip is not None:
            del modules["clip"]
        report = load_into(modules, checkpoints, allow_partial=source.partial, preset=preset.name)
        fresh = sorted({*report.fresh, *report.missing})
        if fresh:
            warnings.append(f"{len(fresh)} tensors are not in the given files and keep random values ({fresh[0]}, ...)")
    else:
        warnings.append(f"only CLIP has weights: the localizer and the audio encoder are random (seed {source.seed})")
    if source.clip is not None or not has_clip:
        clip_file = load_clip(models.clip, preset.clip, source.clip)
        files += [clip_file] if clip_file else []
    return LoadedModels(models, tuple(files), tuple(warnings))


def load_clip(clip: nn.Module, config: ClipConfig, source: str | None) -> Path | None:
    """Fill a CLIP model from a file (open_clip's or OpenAI's) or from open_clip's hub; returns the file, if any."""
    if source is None or source == "hub":
        _load_from_hub(clip, config)
        return None
    path = Path(source)
    tensors = {name: tensor for name, tensor in _read_clip(path).items() if name not in _NOT_WEIGHTS}
    checkpoint = Checkpoint(Kind.OURS, {f"clip.{name}": tensor for name, tensor in tensors.items()}, [], [], path)
    try:
        load_into({"clip": clip}, checkpoint, recognize=False)
    except CheckpointMismatch as error:
        holds = _what_clip(tensors, error.report, config.name)
        published = f"give OpenAI's or open_clip's weights of {config.name}"
        advice = published if config.pretrained else "leave --clip-weights out"
        raise UserError(f"{path} does not fit CLIP {config.name}, which this preset takes: {holds}; {advice}") from None
    return path


def _what_clip(tensors: Mapping[str, Tensor], report: LoadReport, expected: str) -> str:
    """What a file of CLIP weights that do not fit holds."""
    if not report.loaded and len(report.shape_mismatch) < 2:
        return "none of its tensors fits"
    model = clip_model_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if report.shape_mismatch:
        other = "a model of other sizes" if model in (None, expected) else model
        return f"it holds {other} ({report.shape_mismatch[0]})"
    if report.missing:
        return f"{len(report.missing)} of its tensors are not in the file ({shortlist(report.missing)})"
    return f"the file holds {len(report.unexpected)} tensors more ({shortlist(report.unexpected)})"


def _read_clip(path: Path) -> dict[str, Tensor]:
    """CLIP's state dict from what OpenAI or open_clip publish, or from inside a checkpoint of the whole model."""
    check_regular_file(path)
    if not path.is_file():
        raise UserError(f"there is no CLIP file {path}; check the path")
    state = _read_torchscript(path) if _is_torchscript(path) else read_state_dict(path)[0]
    for prefix in ("clip.", "clip_adapter.clip_model."):
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if inside:
            return inside
    if not any(name.startswith("visual.") for name in state):
        raise UserError(
            f"{path} holds no CLIP weights (its names: {shortlist(state)}); give OpenAI's or open_clip's file"
        )
    return state


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The weights of OpenAI's archives, which torch.load refuses."""
    try:
        return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be read as CLIP weights (it is a zip archive, but no model that PyTorch saved); "
            "give OpenAI's or open_clip's file"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("Last error: ")[-1].splitlines()[0].split(". ")[0][:160]


def _load_from_hub(clip: nn.Module, config: ClipConfig) -> None:
    if config.pretrained is None:
        raise UserError(f"no hub has weights for the CLIP model of preset '{config.name}'; pass --weights FILE")
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # the sentence below says it once
    try:
        loaded = open_clip.create_model(config.name, pretrained=config.pretrained, require_pretrained=True)
    except Exception as error:  # whatever the hub's client raises
        raise UserError(
            f"CLIP {config.name} could not be fetched from open_clip's hub ({_first_line(error)}); "
            "pass --clip-weights FILE with the weights that OpenAI or open_clip publish"
        ) from error
    finally:
        logging.disable(level)
    clip.load_state_dict(loaded.state_dict())
