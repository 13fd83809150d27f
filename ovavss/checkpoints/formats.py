"""Reads the four kinds of checkpoint file into one form with our names. No code from a file is ever run."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ovavss.checkpoints import restricted_pickle
from ovavss.checkpoints.key_map import is_ignored, to_ours
from ovavss.checkpoints.restricted_pickle import ForbiddenGlobal, NotNumbers, PickledArray
from ovavss.errors import UserError
from ovavss.files import check_regular_file
from ovavss.models.ov_avss.presets import PRESETS, SwinConfig

FORMAT = "ovavss"
SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")
OUR_PREFIXES = ("usslm.", "audio_encoder.vggish.", "clip.")


class Kind(StrEnum):
    """Whose names a file holds."""

    UPSTREAM = "OV-AVSS"
    VGGISH = "VGGish"
    MASK2FORMER = "Mask2Former"
    OURS = "ovavss"


@dataclass(frozen=True)
class Checkpoint:
    """One file's weights.

    tensors: our name -> CPU tensor, in the file's dtype and possibly mapped from it; unmapped: names as in the file,
    without a place in any model; ignored: constants that no model needs; preset: what the file says of itself, if it
    does.
    """

    kind: Kind
    tensors: dict[str, Tensor]
    unmapped: list[str]
    ignored: list[str]
    path: Path
    preset: str | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a `.pth` (published or VGGish), a Mask2Former `.pkl`, or a `.safetensors` with their names or ours.

    The weights' values stay in the file (mapped) where its format allows.

    Raises:
        UserError: no such file, not a file, unknown suffix, damaged, pickled code inside, or no known weights.
    """
    path = Path(path)
    _check_file(path)
    metadata: dict[str, str] = {}
    if path.suffix.lower() == ".safetensors":
        state, strange, metadata = _read_safetensors(path)
    else:
        loaded = _read_pickle(path) if path.suffix.lower() == ".pkl" else _read_torch(path)
        state, strange = _state_dict(path, loaded)
    if not state:
        raise UserError(f"{path} holds no weights: give a file whose state dict is not empty")

    kind = _kind(path, state)
    tensors: dict[str, Tensor] = {}
    unmapped, ignored = list(strange), []
    for name, tensor in state.items():
        ours = name if kind is Kind.OURS else to_ours(_published_name(kind, name))
        if kind is not Kind.OURS and is_ignored(name):
            ignored.append(name)
        elif ours is None or ours in tensors or not ours.startswith(OUR_PREFIXES):
            unmapped.append(name)
        else:
            tensors[ours] = tensor
    if not tensors:
        raise UserError(
            f"{path} holds no weight that OV-AVSS, VGGish or Mask2Former has (its names: {shortlist(state)}): "
            "give one of their checkpoints"
        )
    return Checkpoint(kind, tensors, unmapped, ignored, path, metadata.get("preset"))


def detect_preset(checkpoint: Checkpoint) -> str | None:
    """The preset whose weights these are: the file's own word, else from its names and shapes, else None."""
    return checkpoint.preset or preset_of({name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()})


def preset_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The preset that has a backbone like this (or such a CLIP, if there is no backbone), from our names and shapes."""
    found = [re.match(r"usslm\.backbone\.stages\.(res)?(\d+)\.(\d+)\.", name) for name in shapes]
    blocks = {(match[1], int(match[2]), int(match[3])) for match in found if match}
    for preset in PRESETS.values():
        if blocks:
            backbone = preset.backbone
            if isinstance(backbone, SwinConfig):
                own: set[tuple[str | None, int, int]] = {
                    (None, i, j) for i, depth in enumerate(backbone.depths) for j in range(depth)
                }
                stem = shapes.get("usslm.backbone.patch_embed.weight", (backbone.embed_dim,))
                fits = stem[:1] == (backbone.embed_dim,)
            else:
                own = {("res", i + 2, j) for i, depth in enumerate(backbone.blocks) for j in range(depth)}
                fits = True
            if fits and blocks <= own:
                return preset.name
        elif shapes.get("clip.visual.proj", ())[1:] == (preset.clip.embed_dim,):
            return preset.name
    return None


def shortlist(names: Iterable[str], count: int = 3) -> str:
    """The first few names, for a sentence."""
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint: give a file ({', '.join(SUFFIXES)})")
    check_regular_file(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no checkpoint that can be read: its name must end in {', '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): check its permissions") from None
    if empty:
        raise _damaged(path)


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged, cut short or not a {path.suffix} file: fetch it again")


def _pickled_code(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} holds pickled code ({name}) and is refused: "
        "ask whoever made it for a file of plain weights, best as .safetensors"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception:
        raise _damaged(path) from None
    return *_state_dict(path, loaded), metadata if metadata.get("format") == FORMAT else {}


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Only the zipped format can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:
        text = str(error)
        if "TorchScript" in text:
            raise _pickled_code(path, "a TorchScript program") from None
        forbidden = re.search(r"GLOBAL ([\w.]+)", text)
        name = forbidden[1] if forbidden else None if zipped else _global_in_plain_pickle(path)
        raise (_pickled_code(path, name) if name else _damaged(path)) from None


def _global_in_plain_pickle(path: Path) -> str | None:
    """PyTorch stops at a newer pickle protocol before it sees what the file asks for; this one looks."""
    try:
        with path.open("rb") as file:
            restricted_pickle.load(file)
    except ForbiddenGlobal as error:
        return error.name
    except Exception:
        pass
    return None


def _read_pickle(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return restricted_pickle.load(file)
    except MemoryError:
        raise
    except ForbiddenGlobal as error:
        raise _pickled_code(path, error.name) from None
    except NotNumbers as error:
        raise UserError(f"{path} holds {error} and is refused: give a file of plain weights") from None
    except Exception:
        raise _damaged(path) from None


def _state_dict(path: Path, loaded: object) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name without DDP's `module.`, and the names of entries that are no plain tensors."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        raise UserError(f'{path} holds no state dict: give a file with {{"model": {{name: weights}}}} in it')
    state: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, value in loaded.items():
        tensor = _tensor(value)
        if tensor is None:
            strange.append(name)
        else:
            state[name.removeprefix("module.")] = tensor
    return state, strange


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, PickledArray) and value.array is not None:
        array = value.array
        dtype = np.dtype(np.float32) if array.dtype.kind == "f" and array.dtype.itemsize > 4 else array.dtype
        # A copy: the pickle's bytes are read-only and may be of the other byte order.
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_complex():
        return None
    return value.detach() if value.device.type == "cpu" else None


def _kind(path: Path, state: Mapping[str, Tensor]) -> Kind:
    if any(name.startswith(OUR_PREFIXES) for name in state):
        return Kind.OURS
    if all(name.startswith(("features.", "embeddings.")) for name in state):
        return Kind.VGGISH
    return Kind.MASK2FORMER if path.suffix.lower() == ".pkl" else Kind.UPSTREAM


def _published_name(kind: Kind, name: str) -> str:
    if kind is Kind.VGGISH:
        return f"audio_encoder.audio_backbone.{name}"
    if kind is Kind.MASK2FORMER:
        head, rest = "sem_seg_head.", name.removeprefix("sem_seg_head.")
        if rest != name and not rest.startswith(("predictor.", "pixel_decoder.")):
            name = f"{head}pixel_decoder.{rest}"
        return name.replace(f"{head}predictor.static_query.", f"{head}predictor.query_feat.")
    return name
