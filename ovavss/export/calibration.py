"""What INT8 and FP8 are calibrated on: crops as CLIP sees them, of videos, of a file, or of the synthetic world."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, USSLM_GRAPH, Preset

if TYPE_CHECKING:
    from ovavss.runtime.runner import Runner

# Of the crops, one in nine is kept from the quantizer, to compare its result on: 256 and 32.
_HELD_OUT = 9
CROPS, LEAST = 32 * _HELD_OUT, 4 * _HELD_OUT
# Clips of a world that no training and no published figure uses.
WORLD_SEED, WORLD_CLIPS = 8000, 48
_LARGEST = 3.0  # black and white are -1.8 and 2.2 in CLIP's normalization

Cut = Callable[[int], np.ndarray]
"""At most so many crops of one window, chosen at random: float32 [n, 3, S, S]."""


def check_calibration(preset: Preset, files: Sequence[Path]) -> None:
    """UserError where there is nothing to calibrate on, or a file cannot be it, before the long work."""
    if not files and preset.calibration is None:
        raise UserError(
            f"--precision int8 and fp8 of preset '{preset.name}' need --calibration: videos with sound like those that "
            "the model will see, or a .npy of CLIP's crops"
        )
    for path in files:
        if path.suffix == ".npy":
            _open_crops(path, preset.clip.image_size)
        else:
            _windows_of(path, preset.snippets)


def calibrating(crops: np.ndarray) -> np.ndarray:
    """Those that the quantizer sees."""
    return np.delete(crops, np.s_[::_HELD_OUT], axis=0)


def held_out(crops: np.ndarray) -> np.ndarray:
    """Those that it does not see."""
    return crops[::_HELD_OUT]


def calibration_crops(preset: Preset, files: Sequence[Path], runners: Mapping[str, "Runner"]) -> np.ndarray:
    """Crops float32 [n, 3, S, S], CLIP-normalized, the same for the same files; n is 288, or a few less.

    As many from each file, and of a video evenly over its windows, from all regions of a window; a window that holds
    too few leaves the rest to the next. `runners`: of the audio encoder and the localizer. Memory does not grow with
    the videos. Raises UserError where a file cannot be read, holds no such crops, or there are fewer than 36.
    """
    rng = np.random.default_rng(0)
    size = preset.clip.image_size
    parts = [np.zeros((0, 3, size, size), np.float32)]
    have = 0
    sources = [_source(path, preset, runners, rng) for path in files] or [_world(preset, runners, rng)]
    for number, (windows, cuts) in enumerate(sources):
        for index, cut in enumerate(cuts):
            due = CROPS * (number + min(1.0, (index + 1) / windows)) / len(sources)
            if round(due) > have:
                parts.append(cut(round(due) - have))
                have += len(parts[-1])
    if have < LEAST:
        raise UserError(f"--calibration gives {have} crops of the {LEAST} that are needed; give more or longer videos")
    return np.concatenate(parts)


def _source(
    path: Path, preset: Preset, runners: Mapping[str, "Runner"], rng: np.random.Generator
) -> tuple[int, Iterator[Cut]]:
    """How many windows a file has, and each of them."""
    if path.suffix == ".npy":
        return 1, iter([_of_file(path, preset.clip.image_size, rng)])
    from ovavss.media.video import read_windows

    windows = read_windows(path, preset.snippets)
    cuts = (_of_window(preset, runners, rng, window.frames, window.waveform) for window in windows)
    return _windows_of(path, preset.snippets), cuts


def _world(preset: Preset, runners: Mapping[str, "Runner"], rng: np.random.Generator) -> tuple[int, Iterator[Cut]]:
    from ovavss.datasets.sounding_shapes.rendering import render
    from ovavss.datasets.sounding_shapes.scenes import sample_scene

    clips = (render(sample_scene(WORLD_SEED, index, categories="base")) for index in range(WORLD_CLIPS))
    return WORLD_CLIPS, (_of_window(preset, runners, rng, clip.frames, clip.waveform) for clip in clips)


def _windows_of(path: Path, snippets: int) -> int:
    from ovavss.media.video import ReadOptions, probe

    info = probe(path, ReadOptions(on_missing_audio="silence"))
    if info.channels is None:
        raise UserError(f"{path} has no sound track; calibrate on videos with sound")
    return -(-info.seconds // snippets)


def _open_crops(path: Path, size: int) -> np.ndarray:
    try:
        crops = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not a .npy array"
        raise UserError(f"the calibration crops {path} cannot be read ({reason}); give a .npy, or videos") from error
    if crops.dtype != np.float32 or crops.shape[1:] != (3, size, size):
        found = f"{crops.dtype} {list(crops.shape)}"
        raise UserError(f"{path} holds {found}, not this preset's crops, float32 [n, 3, {size}, {size}]")
    return crops


def _of_file(path: Path, size: int, rng: np.random.Generator) -> Cut:
    def cut(wanted: int) -> np.ndarray:
        crops = _open_crops(path, size)
        chosen = np.array(crops[np.sort(rng.permutation(len(crops))[:wanted])])
        if not np.abs(chosen).max(initial=0) <= _LARGEST:  # NaN neither
            raise UserError(
                f"{path} holds values that are no pixels as CLIP normalizes them (NaN, or beyond -2 and 2.3)"
            )
        return chosen

    return cut


def _of_window(
    preset: Preset, runners: Mapping[str, "Runner"], rng: np.random.Generator, frames: np.ndarray, waveform: np.ndarray
) -> Cut:
    import torch

    from ovavss.pipeline.steps import Options, crop_regions, encode_audio, localize, select_regions

    def cut(wanted: int) -> np.ndarray:
        audio = encode_audio(runners[AUDIO_ENCODER], torch.from_numpy(waveform)[None])
        (clip,) = localize(runners[USSLM_GRAPH], torch.from_numpy(frames)[None], audio)
        regions = select_regions(clip.mask_logits, clip.sound_scores, Options()).crops
        some = regions.select(torch.from_numpy(np.sort(rng.permutation(len(regions))[:wanted])))
        return crop_regions(clip, some, preset.clip.image_size, Options()).numpy(force=True)

    return cut
