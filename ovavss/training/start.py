"""The models that training starts from: checkpoints for localizer and audio encoder, or a seed."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ovavss.checkpoints.formats import read_checkpoint
from ovavss.checkpoints.loader import load_into
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.presets import Preset
from ovavss.models.ov_avss.usslm import USSLM


def starting_models(
    preset: Preset, weights: Sequence[Path], seed: int, partial: bool = False
) -> tuple[USSLM, AudioEncoder, tuple[str, ...]]:
    """Localizer, audio encoder, and one sentence for each thing that the user should know.

    What a checkpoint of Mask2Former cannot hold starts from the seed, as published; CLIP takes no part in training.

    Raises:
        UserError: a file is missing, broken, or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, usslm = AudioEncoder(preset.audio, preset.snippets), USSLM(preset)
    if not weights:
        return usslm, encoder, (
            f"NO WEIGHTS GIVEN: everything starts from seed {seed}, and the audio encoder, which is not trained here, "
            "stays random",
        )  # fmt: skip
    files = [read_checkpoint(path) for path in weights]
    modules = {"usslm": usslm, "audio_encoder": encoder}
    report = load_into(modules, files, allow_partial=partial, preset=preset.name)
    new = sorted({*report.fresh, *report.missing})
    warnings = (
        [f"{len(new)} tensors are not in the given files and start from seed {seed} ({new[0]}, ...)"] if new else []
    )
    if any(name.startswith("audio_encoder.") for name in new):
        warnings.append("the audio encoder, which is not trained here, stays random; give VGGish's file with --weights")
    return usslm, encoder, tuple(warnings)
