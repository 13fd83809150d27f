"""What a request to the ensemble may hold: limits, parameters, and lists of names as bytes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
import soxr

from ovavss.errors import UserError
from ovavss.models.ov_avss.audio_encoder import SAMPLE_RATE
from ovavss.models.ov_avss.presets import Crop, Proposals
from ovavss.pipeline.names import check_names
from ovavss.pipeline.steps import Options

SMALLEST_SIDE, LARGEST_SIDE, LARGEST_AREA = 16, 4096, 4096 * 2304  # pixels of a frame
SAMPLE_RATES = (8_000, 192_000)
MOST_NAMES, LONGEST_NAME = 2_000, 200  # characters


class MaskFormat(StrEnum):
    """How the masks of a response are packed, each as a row of uint8.

    `bits`, row by row from the top left, most significant bit first; `rle`, COCO's compressed counts in ASCII, filled
    up with zeros.
    """

    BITS = "bits"
    RLE = "rle"


@dataclass(frozen=True)
class _Range:
    kind: type
    least: float
    most: float

    def check(self, name: str, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (self.kind is int and value != int(value)) or not self.least <= value <= self.most:
            kind = "whole number" if self.kind is int else "number"
            raise UserError(f"parameter '{name}' must be a {kind} from {self.least} to {self.most}, not {value!r}")
        return self.kind(value)


@dataclass(frozen=True)
class _Choice:
    values: tuple[str, ...]

    def check(self, name: str, value: Any) -> str:
        if value not in self.values:
            raise UserError(f"parameter '{name}' must be one of {', '.join(self.values)}, not {value!r}")
        return str(value)


class _Flag:
    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UserError(f"parameter '{name}' must be true or false, not {value!r}")
        return value


_UNIT = _Range(float, 0, 1)
PARAMETERS: dict[str, _Range | _Choice | _Flag] = {
    "proposals": _Choice(tuple(Proposals)),
    "sound_threshold": _UNIT,
    "score_threshold": _UNIT,
    "top_k": _Range(int, 1, 100),
    "crop": _Choice(tuple(Crop)),
    "square_anchor": _Choice(("top_left", "center")),
    "frames_per_query": _Range(int, 1, 100),
    "merge_iou": _UNIT,
    "named_only": _Flag(),
    "masks": _Choice(tuple(MaskFormat)),
}
_ENUMS = {"proposals": Proposals, "crop": Crop}


def read_parameters(text: str) -> tuple[Options, MaskFormat]:
    """The options of a request from its parameters, a JSON object. UserError where one is unknown or out of range."""
    given: dict[str, Any] = json.loads(text) if text else {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in PARAMETERS:
            raise UserError(f"parameter '{name}' is unknown; choose of {', '.join(PARAMETERS)}")
        checked: Any = PARAMETERS[name].check(name, value)
        values[name] = _ENUMS[name](checked) if name in _ENUMS else checked
    masks = MaskFormat(values.pop("masks", MaskFormat.BITS))
    return Options(**values), masks


def write_parameters(options: Options, masks: MaskFormat) -> dict[str, Any]:
    """Request parameters for these options, without those that are at their defaults.

    Raises UserError where an option that the server does not take is set.
    """
    default, parameters = Options(), {} if masks is MaskFormat.BITS else {"masks": masks.value}
    for option in fields(Options):
        value = getattr(options, option.name)
        if value == getattr(default, option.name):
            continue
        if option.name not in PARAMETERS:
            raise UserError(f"the server has no option '{option.name}'; leave it out, or run the graphs here")
        parameters[option.name] = value.value if isinstance(value, StrEnum) else value
    return parameters


def names_to_bytes(names: Sequence[str]) -> np.ndarray:
    """Names as one UTF-8 text, one a line: uint8 [L]. UserError where a name holds a line break."""
    for name in names:
        if "\n" in name:
            raise UserError(f"class name {name!r} holds a line break; remove it")
    return np.array(bytearray("\n".join(names).encode()), np.uint8)


def names_from_bytes(text: np.ndarray) -> list[str]:
    """Names of a request or response, uint8 [L]. UserError where they are not UTF-8."""
    try:
        content = bytes(text).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"input 'names' is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return content.split("\n") if content else []


def read_vocabulary(text: np.ndarray) -> list[str]:
    """The class names of a request. UserError where they are too many, too long, empty or there twice."""
    names = names_from_bytes(text)
    if len(names) > MOST_NAMES:
        raise UserError(f"input 'names' holds {len(names)} names; send at most {MOST_NAMES}")
    for index, name in enumerate(names):
        if len(name) > LONGEST_NAME:
            raise UserError(f"input 'names': name {index + 1} has {len(name)} characters; send at most {LONGEST_NAME}")
        if not name.isprintable():
            raise UserError(f"input 'names': name {index + 1} holds characters that cannot be printed; remove them")
    if not names:
        raise UserError("input 'names' is empty; leave it out for the default vocabulary, or send a name a line")
    return check_names(names)


def check_clip(frames: np.ndarray, waveform: np.ndarray, rate: int, snippets: int) -> None:
    """Checks the clip of a request.

    Raises:
        UserError: The frames are not uint8 [T, H, W, 3] or are too small or large; or the waveform is not float32 [S],
            is empty or longer than T seconds, or holds a sample that is not finite.
    """
    shape = frames.shape
    if frames.dtype != np.uint8 or len(shape) != 4 or (shape[0], shape[3]) != (snippets, 3):
        raise UserError(
            f"input 'frames' is {frames.dtype} {list(shape)}; send uint8 [{snippets}, height, width, 3], "
            "one frame a second"
        )
    height, width = shape[1], shape[2]
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE or height * width > LARGEST_AREA:
        raise UserError(
            f"input 'frames' is {width} x {height} pixels; send frames with sides from {SMALLEST_SIDE} to "
            f"{LARGEST_SIDE} and at most {LARGEST_AREA} pixels"
        )
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise UserError(f"input 'sample_rate' is {rate} Hz; send one from {low} to {high}")
    if waveform.dtype != np.float32 or waveform.ndim != 1:
        raise UserError(f"input 'waveform' is {waveform.dtype} {list(waveform.shape)}; send float32 [samples], mono")
    if not 1 <= len(waveform) <= snippets * rate:
        raise UserError(
            f"input 'waveform' has {len(waveform)} samples; send 1 to {snippets * rate} ({snippets} s at {rate} Hz)"
        )
    if not np.isfinite(waveform).all():
        first = int(np.flatnonzero(~np.isfinite(waveform))[0])
        raise UserError(
            f"input 'waveform' holds NaN or infinite samples, the first at {first}; send finite ones, full scale 1.0"
        )


def clip_waveform(waveform: np.ndarray, rate: int, snippets: int) -> np.ndarray:
    """The sound of a clip at 16 kHz: float32 [T * 16000], silence after its end. One at 16 kHz is taken as it is."""
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE)
    samples = np.zeros(snippets * SAMPLE_RATE, np.float32)
    samples[: len(waveform)] = waveform[: len(samples)]
    return samples
