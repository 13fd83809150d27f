"""Audio encoder: log-mel patches of a raw waveform, then VGGish (paper, section 3.2)."""

import math

import torch
from torch import Tensor, nn

from ovavss.models.ov_avss.presets import AUDIO_PATCH, AudioEncoderConfig

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH_FRAMES, MEL_BINS = AUDIO_PATCH


def samples_for(patches: int) -> int:
    """Fewest samples that hold `patches` patches of 0.96 s: 77 040 for 5."""
    return (PATCH_FRAMES * patches - 1) * HOP + WINDOW


def patches_in(samples: int) -> int:
    """Whole patches that `samples` samples hold; the rest is dropped."""
    frames = max(0, 1 + (samples - WINDOW) // HOP)
    return max(0, 1 + (frames - PATCH_FRAMES) // PATCH_FRAMES)


def mel_filters() -> Tensor:
    """HTK mel filters, float64 [257, 64]: triangles linear in mel, the DC row zero."""
    hertz = torch.arange(FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / FFT
    bins = 1127.0 * torch.log1p(hertz / 700.0)[:, None]
    low, high = (1127.0 * math.log1p(hertz / 700.0) for hertz in (LOWEST_HZ, HIGHEST_HZ))
    edges = torch.linspace(low, high, MEL_BINS + 2, dtype=torch.float64)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    filters = torch.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)).clamp(min=0)
    filters[0] = 0
    return filters


def fourier_basis() -> tuple[Tensor, Tensor]:
    """Windowed cosines [200, 257] and sines [199, 257], float64, of the time from a window's middle.

    The (periodic Hann) window is the same on both sides of its sample 200 and zero at sample 0, so the spectrum's
    magnitude is that of cosines with sums of two samples, and of sines with their differences: half the products.
    """
    time = torch.arange(WINDOW // 2, dtype=torch.float64)[:, None]
    window = 0.5 + 0.5 * torch.cos(2 * math.pi * time / WINDOW)
    angle = 2 * math.pi / FFT * torch.arange(FFT // 2 + 1, dtype=torch.float64) * time
    return angle.cos() * window, (angle.sin() * window)[1:]


def _windows(waveform: Tensor, count: int) -> Tensor:
    """The first `count` windows of 400 samples, 160 apart: float32 [B, count, 400]."""
    step = math.gcd(WINDOW, HOP)
    pieces = waveform.reshape(waveform.shape[0], -1, step)
    every = HOP // step
    last = every * (count - 1) + 1
    return torch.cat([pieces[:, start : start + last : every] for start in range(WINDOW // step)], dim=2)


class LogMel(nn.Module):
    """Log-mel patches of 0.96 s.

    forward: waveform float32 [B, S] at 16 kHz, full scale 1.0 -> float32 [B, patches, 96, 64]. Patches that the
    waveform is too short for hold the literal log-mel value 0.0, as in the published code (silence would be log 0.01).
    """

    cosines: Tensor
    sines: Tensor
    filters: Tensor
    mirrored: Tensor

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.patches = patches
        # Matrix products instead of an STFT operator: every runtime has them, and they are exact in float32 to 2e-5.
        heard = slice(int(LOWEST_HZ * FFT / SAMPLE_RATE) + 1, math.ceil(HIGHEST_HZ * FFT / SAMPLE_RATE))
        cosines, sines = fourier_basis()
        self.register_buffer("cosines", cosines[:, heard].float(), persistent=False)
        self.register_buffer("sines", sines[:, heard].float(), persistent=False)
        self.register_buffer("filters", mel_filters()[heard].float(), persistent=False)
        self.register_buffer("mirrored", torch.arange(WINDOW // 2 - 1, 0, -1), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        present = min(self.patches, patches_in(waveform.shape[-1]))
        missing = waveform.new_zeros(waveform.shape[0], self.patches - present, PATCH_FRAMES, MEL_BINS)
        if present == 0:
            return missing
        windows = _windows(waveform[:, : samples_for(present)], present * PATCH_FRAMES)
        middle = WINDOW // 2
        before, after = windows[..., self.mirrored], windows[..., middle + 1 :]
        cosine = torch.cat([windows[..., middle : middle + 1], after + before], dim=-1) @ self.cosines
        sine = (after - before) @ self.sines
        magnitude = (cosine.square() + sine.square()).sqrt()
        log_mel = torch.log(magnitude @ self.filters + LOG_OFFSET)
        log_mel = log_mel.reshape(-1, present, PATCH_FRAMES, MEL_BINS)
        return log_mel if present == self.patches else torch.cat([log_mel, missing], dim=1)


class VGGish(nn.Module):
    """VGGish without PCA and quantization, the last ReLU kept.

    forward: log-mel patches float32 [N, 96, 64] -> float32 [N, 128].
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 1
        for layer, window in config.steps():
            if isinstance(layer, int):
                padding = (window[0] // 2, window[1] // 2)
                features += [nn.Conv2d(channels, layer, window, padding=padding), nn.ReLU()]
                channels = layer
            else:
                features.append(nn.MaxPool2d(window, window))
        embeddings: list[nn.Module] = []
        size = config.flattened
        for out in config.fully_connected:
            embeddings += [nn.Linear(size, out), nn.ReLU()]
            size = out
        self.features = nn.Sequential(*features)
        self.embeddings = nn.Sequential(*embeddings)

    def forward(self, log_mel: Tensor) -> Tensor:
        features = self.features(log_mel[:, None])
        # The original flattens time, mel, channel.
        return self.embeddings(features.permute(0, 2, 3, 1).flatten(1))


class AudioEncoder(nn.Module):
    """Graph 1: one audio token for each one-second snippet.

    forward: waveform float32 [B, S] at 16 kHz, full scale 1.0 -> audio float32 [B, T, 128].
    """

    def __init__(self, config: AudioEncoderConfig, snippets: int) -> None:
        super().__init__()
        self.log_mel = LogMel(snippets)
        self.vggish = VGGish(config)

    def forward(self, waveform: Tensor) -> Tensor:
        log_mel = self.log_mel(waveform)
        audio = self.vggish(log_mel.flatten(0, 1))
        return audio.reshape(-1, self.log_mel.patches, audio.shape[-1])
