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
from ovavss.checkpoints.recognize import preset_of
from ovavss.checkpoints.restricted_pickle import ForbiddenGlobal, NotNumbers, PickledArray
from ovavss.errors import UserError
from ovavss.files import check_regular_file

FORMAT = "ovavss"
SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")
# Where training programs put weights, and what wrappers of modules put before names.
_WEIGHT_ENTRIES = (
    *("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params"),
    *("model_ema", "ema", "ema.module", "ema_model", "ema_state_dict", "params_ema", "shadow"),
)
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|net|ema)\.)+|(?<=\.)(?:module|_orig_mod)\.")
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
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no checkpoint that can be read: its name must end in {', '.join(SUFFIXES)}")
    state, strange, metadata = read_state_dict(path)
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


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    """The tensors of any file of weights by its own names, the names of entries that are no tensors, and our notes.

    Raises:
        UserError: no such file, damaged, pickled code inside, or no tensors.
    """
    _check_file(path)
    metadata: dict[str, str] = {}
    if path.suffix.lower() == ".safetensors":
        state, strange, metadata = _read_safetensors(path)
    else:
        loaded = _read_pickle(path) if path.suffix.lower() == ".pkl" else _read_torch(path)
        state, strange = _state_dict(path, loaded)
    if not state:
        raise UserError(f"{path} holds no weights: give a file whose state dict is not empty")
    return state, strange, metadata


def detect_preset(checkpoint: Checkpoint) -> str | None:
    """The preset whose weights these are: the file's own word, else from its names and shapes, else None."""
    return checkpoint.preset or preset_of({name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()})


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
            # Only the zipped format can be mapped. NumPy's numbers and arrays are read by holders that run nothing.
            with torch.serialization.safe_globals(restricted_pickle.numpy_holders()):
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
    """Tensors by name without what wrappers put before names, and the names of entries that are no plain tensors."""
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        kind = type(loaded).__name__
        raise UserError(
            f'{path} holds no state dict but a {kind}: give a file with {{"model": {{name: weights}}}} in it'
        )
    found = _find_weights(loaded)
    if _count_weights(found) == 0:
        entries = f"its entries: {shortlist(loaded)}" if loaded else "it is empty"
        raise UserError(f"{path} holds no weights ({entries}): give a file with a state dict in it")
    state: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, value in found.items():
        tensor = _tensor(value)
        if tensor is None:
            strange.append(name)
        else:
            state[_WRAPPERS.sub("", name)] = tensor
    return state, strange


def _find_weights(loaded: Mapping[str, object], depth: int = 4) -> Mapping[str, object]:
    """The mapping of names to tensors in what a training program saved: under a usual entry, else the largest."""
    inner = {
        name: _find_weights(value, depth - 1)
        for name, value in loaded.items()
        if isinstance(value, Mapping) and depth and all(isinstance(key, str) for key in value)
    }
    for entry in _WEIGHT_ENTRIES:
        if _count_weights(inner.get(entry, {})):
            return inner[entry]
    return max((loaded, *inner.values()), key=_count_weights)


def _count_weights(mapping: Mapping[str, object]) -> int:
    return sum(isinstance(value, Tensor | PickledArray) for value in mapping.values())


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
