"""Compares an artifact with PyTorch on inputs that look real."""

import numpy as np
import torch
from polygraphy.comparator import IterationResult, OutputCompareResult, SimpleCompareFunc
from polygraphy.logger import G_LOGGER
from torch import Tensor

from ovavss.errors import UserError
from ovavss.export.open_avs import open_avs_inputs
from ovavss.models.graphs import GraphSpec
from ovavss.models.ov_avss.clip import tokenizer
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.ov_avss.prompts import prompts
from ovavss.models.systems import AnyPreset
from ovavss.runtime.engines import QUANTIZED, Precision
from ovavss.runtime.runner import Runner

# For the whole localizer (mean and 99 % of the mask logits' errors, sound scores, flipped signs): bounds of the golden
# set's README, since one flipped attention decision makes a maximum meaningless. Half precision: about 5 and 40 times.
MASK_MEAN, MASK_P99, SOUND_MAX, SIGN_FLIPS = 3e-3, 2e-2, 1e-2, 2e-4
SLACK = {Precision.FP32: 1.0, Precision.FP16: 10.0, Precision.BF16: 80.0}
# Of the other graphs: relative to the largest value. Not of INT8 and FP8.
RELATIVE = {Precision.FP32: 1.0, Precision.FP16: 100.0, Precision.BF16: 800.0}
# Names go by the cosine of embeddings, so INT8 and FP8 are measured by 1 - cosine to PyTorch's, on crops that the
# quantizer did not see. Tiny has 5e-5 and 2e-4 in the mean, with the mIoU of float32; INT8 with ranges half as large as
# they should be has 0.07, two crops are 0.6 apart. So the bound finds what is broken; quality is for bench/parity.py.
COSINE_MEAN, COSINE_MAX = "cosine_distance_mean", "cosine_distance_max"
COSINE_BOUND = 1e-2


class VerificationError(UserError):
    """An artifact that does not compute what PyTorch computes."""


def example_inputs(name: str, preset: AnyPreset, frame_size: tuple[int, int], batch: int = 2) -> dict[str, Tensor]:
    """Inputs that look real, the same on every machine: smooth moving pictures, chirps, sentences."""
    if not isinstance(preset, Preset):
        return open_avs_inputs(name, preset, frame_size, batch)
    generator = torch.Generator().manual_seed(0)
    if name == AUDIO_ENCODER:
        time = torch.arange(preset.snippets * 16_000) / 16_000
        rates = torch.rand(batch, 1, generator=generator) * 900 + 100
        noise = 0.01 * torch.randn(batch, len(time), generator=generator)
        return {"waveform": 0.3 * torch.sin(2 * torch.pi * rates * time * (1 + time)) + noise}
    if name == CLIP_TEXT_ENCODER:
        words = ("violin", "hair-dryer", "man", "emergency-car")
        sentences = [sentence for word in words for sentence in prompts(word)]
        return {"tokens": tokenizer(preset.clip)(sentences[:batch])}
    coarse = torch.rand(batch * preset.snippets, 3, 9, 13, generator=generator)
    if name == CLIP_IMAGE_ENCODER:
        size = (preset.clip.image_size, preset.clip.image_size)
        return {"crops": 4 * torch.nn.functional.interpolate(coarse[:batch], size=size, mode="bicubic") - 2}
    assert name == USSLM_GRAPH, name
    pictures = torch.nn.functional.interpolate(coarse, size=frame_size, mode="bicubic").clamp(0, 1)
    pictures = pictures + 0.05 * torch.randn(pictures.shape, generator=generator)
    frames = (pictures.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1)
    audio = torch.rand(batch, preset.snippets, preset.audio_dim, generator=generator)
    return {"frames": frames.reshape(batch, preset.snippets, *frame_size, 3), "audio": audio}


def compare(
    spec: GraphSpec,
    reference: Runner,
    runner: Runner,
    inputs: dict[str, Tensor],
    precision: Precision = Precision.FP32,
) -> dict[str, float]:
    """The measured differences of two runners on the same inputs.

    Raises VerificationError beyond the tolerance of the graph's specification.
    """
    expected = {name: tensor.numpy(force=True) for name, tensor in reference(**inputs).items()}
    actual = {name: tensor.numpy(force=True) for name, tensor in runner(**inputs).items()}
    if spec.name == USSLM_GRAPH:
        return _compare_localizer(expected, actual, SLACK[precision])
    if precision in QUANTIZED:
        return _compare_directions(spec, expected, actual)
    differences, tolerance = {}, spec.tolerance * RELATIVE[precision]
    for name, error in _errors(expected, actual).items():
        differences[name] = error.max_absdiff / float(np.abs(expected[name]).max())
        _require(differences[name] <= tolerance, spec.name, name, differences[name], tolerance)
    return differences


def _errors(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> dict[str, OutputCompareResult]:
    """Polygraphy's statistics of each output's absolute errors."""
    a, b = ({name: np.ascontiguousarray(array) for name, array in found.items()} for found in (expected, actual))
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):  # its own tolerances and report are not asked for
        return dict(
            SimpleCompareFunc(check_error_stat="quantile", error_quantile=0.99)(IterationResult(a), IterationResult(b))
        )


def _compare_directions(
    spec: GraphSpec, expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]
) -> dict[str, float]:
    """Of unit vectors."""
    name = spec.outputs[0].name
    apart = 1 - (expected[name].astype(np.float64) * actual[name]).sum(-1)
    differences = {COSINE_MEAN: float(apart.mean()), COSINE_MAX: float(apart.max())}
    _require(differences[COSINE_MEAN] <= COSINE_BOUND, spec.name, name, differences[COSINE_MEAN], COSINE_BOUND)
    return differences


def _compare_localizer(
    expected: dict[str, np.ndarray], actual: dict[str, np.ndarray], slack: float
) -> dict[str, float]:
    for name in ("resized_frames", "image_size"):
        differing = float((expected[name] != actual[name]).mean())
        _require(differing == 0, USSLM_GRAPH, name, differing, 0)
    errors = _errors(*({name: found[name] for name in ("mask_logits", "sound_scores")} for found in (expected, actual)))
    masks = errors["mask_logits"]
    measured = {
        "mask_logits_mean": (float(masks.mean_absdiff), MASK_MEAN),
        "mask_logits_p99": (float(masks.quantile_absdiff), MASK_P99),
        "sound_scores_max": (float(errors["sound_scores"].max_absdiff), SOUND_MAX),
        "sign_flips": (float(((expected["mask_logits"] > 0) != (actual["mask_logits"] > 0)).mean()), SIGN_FLIPS),
    }
    for name, (value, bound) in measured.items():
        _require(value <= slack * bound, USSLM_GRAPH, name, value, slack * bound)
    return {name: value for name, (value, _) in measured.items()} | {"mask_logits_max": float(masks.max_absdiff)}


def _require(holds: bool, graph: str, output: str, value: float, bound: float) -> None:
    if not holds:
        raise VerificationError(f"{graph}: '{output}' differs from PyTorch by {value:.2e}, more than {bound:.0e}")
