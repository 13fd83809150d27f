"""Tokens of a frozen audio encoder for the rendered world, computed once."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.presets import AudioEncoderConfig
from ovavss.training.world import training_waveforms

_CHUNK = 64


@torch.no_grad()
def _tokens(config: AudioEncoderConfig, snippets: int, weights: Path, seed: int, clips: range) -> "object":
    torch.set_num_threads(1)
    encoder = AudioEncoder(config, snippets).eval()
    encoder.load_state_dict(torch.load(weights, weights_only=True))
    return encoder(training_waveforms(seed, clips)).numpy()


def world_tokens(
    encoder: AudioEncoder, config: AudioEncoderConfig, seed: int, clips: int, work: Path, workers: int = 2
) -> Tensor:
    """Audio tokens float32 [clips, T, 128] of the training clips of the world `seed`."""
    weights = Path(work) / f"encoder_for_tokens_{seed}.pt"
    torch.save(encoder.state_dict(), weights)
    chunks = [range(start, min(start + _CHUNK, clips)) for start in range(0, clips, _CHUNK)]
    snippets = encoder.log_mel.patches
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(_tokens, config, snippets, weights, seed, chunk) for chunk in chunks]
        parts = [torch.from_numpy(future.result()) for future in futures]
    weights.unlink()
    return torch.cat(parts)
