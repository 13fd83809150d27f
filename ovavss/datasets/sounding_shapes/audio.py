"""The sounds of the synthetic world: color is a pitch register, form is a pattern in time and timbre.

Everything is laid out in units of the mel bins of the VGGish front end (64 HTK bins, 125-7500 Hz). The six registers
are the cells of eight bins from 8-15 to 48-55 and a pattern fills the six inner bins of its cell, so a form in another
color is, in the log-mel patch, the same picture moved by whole cells along the mel axis: pooling by eight bins keeps
registers apart and treats all of them alike. The patterns (periods at tempo 1):

| form     | pattern                                                        |
|----------|----------------------------------------------------------------|
| disc     | one steady line in the middle of the register                  |
| square   | two lines, both on and off together, every 0.24 s              |
| triangle | one line that climbs through the register, every 0.32 s        |
| star     | three lines plucked together, dying away, every 0.32 s         |
| cross    | a trill: low line, high line in turn, 0.08 s each              |
| ring     | a steady band of noise as wide as the register                 |

They differ in time *and* in which of the bins they use, and every one repeats at least three times in a patch of
0.96 s, so it can be told at any phase. Gains are measured once so that all 36 sounds are equally strong in mel
magnitude, whatever the register.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ovavss.media.sound import SAMPLE_RATE

STATE_SECONDS = 0.96  # one VGGish patch
MEL_BINS = 64
REGISTER_BINS = 8
REGISTER_STARTS = tuple(REGISTER_BINS * (1 + i) for i in range(6))  # an empty cell on either side of all six
REGISTER_HALF_WIDTH = 2.5  # bins used on each side of the center

_WINDOW, _HOP, _FFT = 400, 160, 512
_MEL_LOW, _MEL_HIGH = (1127.0 * np.log1p(f / 700.0) for f in (125.0, 7500.0))
_MEL_STEP = (_MEL_HIGH - _MEL_LOW) / (MEL_BINS + 1)
_LOOP = 1 << 17  # samples of the carrier loops; frequencies are rounded so that they close on themselves
_TARGET = 2.0  # mean mel magnitude over a register's inner bins while the sound is strong
_SPREAD = 1.0  # depth of the weak FM that makes a line about two bins wide in every register
_FADE = 128  # samples (8 ms) of fade at a switch


@dataclass(frozen=True)
class Sound:
    """One sound of a clip.

    ``on``: bool per snippet; state i holds over [0.96 i, 0.96 (i + 1)) seconds, the last one until the end.
    ``level_db``: gain in dB around the equalised level. ``phase``: where the pattern starts, in [0, 1).
    ``tempo``: speed of the pattern, 1 = as in the table above.
    """

    category: int
    on: tuple[bool, ...]
    level_db: float = 0.0
    phase: float = 0.0
    tempo: float = 1.0


def bin_to_hz(mel_bin: np.ndarray | float) -> np.ndarray:
    """Center frequency in Hz of a (fractional) mel bin."""
    return np.asarray(700.0 * np.expm1((_MEL_LOW + (np.asarray(mel_bin) + 1.0) * _MEL_STEP) / 1127.0))


@cache
def _mel_matrix() -> np.ndarray:
    mel = 1127.0 * np.log1p(np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT) / 700.0)
    position = (mel[:, None] - _MEL_LOW) / _MEL_STEP - (np.arange(MEL_BINS) + 1.0)
    matrix = np.maximum(0.0, 1.0 - np.abs(position))
    matrix[0] = 0.0
    return matrix.astype(np.float32)


def mel_magnitude(waveform: np.ndarray) -> np.ndarray:
    """Mel magnitudes float32 [frames, 64] of a 16 kHz waveform float [S]: the VGGish front end without its log."""
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(np.asarray(waveform, np.float32), _WINDOW)[::_HOP]
    return (np.abs(np.fft.rfft(pieces * window, _FFT)).astype(np.float32)) @ _mel_matrix()


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """ln(mel + 0.01) float32 [frames, 64] of a 16 kHz waveform float [S]; a frame every 10 ms."""
    return np.log(mel_magnitude(waveform) + np.float32(0.01))


def register_center(register: int) -> float:
    """Middle of a register (0-5) in mel bins: a half, since a register has an even number of bins."""
    return REGISTER_STARTS[register] + (REGISTER_BINS - 1) / 2


def _line(mel_bin: float) -> np.ndarray:
    """A looped line float [131072] at a fractional mel bin, widened by weak FM at a rate of one bin."""
    grid = SAMPLE_RATE / _LOOP
    hz = round(float(bin_to_hz(mel_bin)) / grid)
    width = round(float(bin_to_hz(mel_bin + 0.5) - bin_to_hz(mel_bin - 0.5)) / grid)
    turn = 2.0 * np.pi * np.arange(_LOOP) / _LOOP
    return np.sin(hz * turn + _SPREAD * np.sin(width * turn))


def _noise(center: float, form: int) -> np.ndarray:
    """A looped band of noise: a line per half bin, each flickering on its own in the same way in every register."""
    rng = np.random.Generator(np.random.PCG64([form, 1]))  # without the register: the same flicker everywhere
    out = np.zeros(_LOOP)
    turn = 2.0 * np.pi * np.arange(_LOOP) / _LOOP
    slow = round(12.0 * _LOOP / SAMPLE_RATE)  # flicker up to 12 Hz, which a 25 ms window follows
    for offset in np.arange(-REGISTER_HALF_WIDTH, REGISTER_HALF_WIDTH + 0.5, 1.0):
        spectrum = np.zeros(_LOOP, np.complex128)
        spectrum[:slow] = rng.standard_normal(slow) + 1j * rng.standard_normal(slow)
        envelope = np.fft.ifft(spectrum)
        hz = round(float(bin_to_hz(center + offset)) * _LOOP / SAMPLE_RATE) - slow // 2
        out += (envelope * np.exp(1j * (hz * turn))).real
    return out / np.abs(out).max()


@cache
def _carrier(form: int, register: int) -> np.ndarray:
    """The looped carrier float32 [131072] of a form whose pattern only shapes loudness; empty for the moving lines."""
    center = register_center(register)
    if form == 0:
        loop = _line(center)
    elif form == 1:
        loop = _line(center - 2) + _line(center + 2)
    elif form == 3:
        loop = _line(center - 2.5) + _line(center) + _line(center + 2.5)
    elif form == 5:
        loop = _noise(center, form)
    else:
        loop = np.zeros(0)
    return loop.astype(np.float32)


def _edges(length: int, fade: int) -> np.ndarray:
    """Loudness 1 with linear ramps at both ends: float [length]."""
    index = np.arange(length)
    return np.clip(np.minimum(index + 1, length - index) / fade, 0.0, 1.0)


def _period(form: int, register: int, tempo: float) -> np.ndarray:
    """One period float32 of the pattern: the loudness for carriers, the sound itself for moving lines."""
    center = register_center(register)
    seconds = (0.0, 0.24, 0.32, 0.32, 0.16, 0.0)[form]
    length = max(1, round(seconds * SAMPLE_RATE / tempo))
    if form == 1:
        half = length // 2
        return np.concatenate([_edges(half, 96), np.zeros(length - half)]).astype(np.float32)
    if form == 3:
        index = np.arange(length)
        return (np.minimum(1.0, (index + 1) / 48) * np.exp(-index / (0.06 * SAMPLE_RATE))).astype(np.float32)
    if form in (2, 4):
        bins = np.linspace(-2.6, 2.6, length) if form == 2 else np.where(np.arange(length) < length // 2, -2.0, 2.0)
        width = bin_to_hz(center + bins + 0.5) - bin_to_hz(center + bins - 0.5)
        turns = 2.0 * np.pi / SAMPLE_RATE * np.cumsum([bin_to_hz(center + bins), width], axis=1)
        sound = np.sin(turns[0] + _SPREAD * np.sin(turns[1]))
        # A fade hides the jump of the line, which would click over all registers.
        halves = [length] if form == 2 else [length // 2, length - length // 2]
        return (sound * np.concatenate([_edges(n, 96) for n in halves])).astype(np.float32)
    return np.ones(1, np.float32)


def _wrap(loop: np.ndarray, start: int, samples: int) -> np.ndarray:
    start %= len(loop)
    copies = -(-(start + samples) // len(loop))
    return (loop if copies == 1 else np.tile(loop, copies))[start : start + samples]


def _pattern(form: int, register: int, phase: float, tempo: float, samples: int) -> np.ndarray:
    period = _period(form, register, tempo)
    out = _wrap(period, int(phase * len(period)), samples) if len(period) > 1 else period
    carrier = _carrier(form, register)
    return out * _wrap(carrier, int(phase * _LOOP), samples) if len(carrier) else out


@cache
def _gain(form: int, register: int) -> float:
    """Makes the strong third of the frames equally strong in every register and form (rounded: same on any machine)."""
    start = REGISTER_STARTS[register]
    magnitude = mel_magnitude(_pattern(form, register, 0.0, 1.0, 2 * SAMPLE_RATE))
    band = magnitude[:, start + 1 : start + REGISTER_BINS - 1].mean(1)
    return float(f"{_TARGET / np.sort(band)[-len(band) // 3 :].mean():.4g}")


@cache
def _background() -> np.ndarray:
    """A loop of noise, float32 [131072] of RMS 1, equally strong in all mel bins."""
    rng = np.random.Generator(np.random.PCG64([2, 1]))
    hz = np.fft.rfftfreq(_LOOP, 1.0 / SAMPLE_RATE)
    spectrum = np.exp(2j * np.pi * rng.random(len(hz))) / (700.0 + hz)
    spectrum[hz < 60.0] = 0.0
    noise = np.fft.irfft(spectrum, _LOOP)
    return (noise / noise.std()).astype(np.float32)


def _switches(on: Sequence[bool], samples: int) -> np.ndarray:
    """Loudness 0-1 of the states, float32 [S], with 8 ms ramps that start at each switch."""
    bounds = [round(i * STATE_SECONDS * SAMPLE_RATE) for i in range(len(on))] + [samples]
    out = np.empty(samples, np.float32)
    for i, state in enumerate(on):
        out[bounds[i] : bounds[i + 1]] = state
    for i in range(1, len(on)):
        if on[i] != on[i - 1]:
            start = bounds[i]
            ramp = np.arange(_FADE, dtype=np.float32) / _FADE
            out[start : start + _FADE] = ramp if on[i] else 1.0 - ramp
    return out


def synthesize(sounds: Sequence[Sound], samples: int, noise_db: float = -60.0, noise_phase: float = 0.0) -> np.ndarray:
    """Mixes sounds over a noise floor: float32 [S] at 16 kHz, within about +-0.7.

    ``sounds`` whose ``category`` is color * 6 + form; ``noise_db``: RMS of the floor in dB below full scale;
    ``noise_phase``: which part of the noise loop is used, in [0, 1).
    """
    out = _wrap(_background(), int(noise_phase * _LOOP), samples) * np.float32(10.0 ** (noise_db / 20.0))
    for sound in sounds:
        register, form = divmod(sound.category, 6)
        gain = np.float32(_gain(form, register) * 10.0 ** (sound.level_db / 20.0))
        out += _pattern(form, register, sound.phase, sound.tempo, samples) * (_switches(sound.on, samples) * gain)
    return np.clip(out, -1.0, 1.0)
