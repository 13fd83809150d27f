"""A sound track, of any rate and channel layout, as 16 kHz mono samples in step with the picture."""

import warnings
from collections.abc import Iterator

import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from ovavss.errors import DataWarning

SAMPLE_RATE = 16_000
_LARGEST_JUMP = 0.05
_SILENCE = 1e-5  # below the smallest step of 16 bits
_LARGEST_SAMPLE = 64.0  # full scale is 1: no recording is 36 dB louder, damaged files are

# Begin and end in seconds, and the frame.
Frames = Iterator[tuple[float, float, AudioFrame]]


class _Downmix:
    """Mean over the channels of each frame, float32 [S], full scale 1.0."""

    def __init__(self) -> None:
        self._packers: dict[tuple[str, str, int], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> np.ndarray:
        channels = frame.layout.nb_channels
        if frame.format.is_planar and channels >= 8:  # PyAV 18 reads beyond the last of eight planes
            format_name = frame.format.packed.name
            key = format_name, frame.layout.name, frame.sample_rate
            packer = self._packers.setdefault(key, AudioResampler(*key))
            return np.concatenate(
                [_mean(packed.to_ndarray().reshape(-1, channels).T) for packed in packer.resample(frame)]
            )
        coded: np.ndarray = frame.to_ndarray()
        return _mean(coded if frame.format.is_planar else coded.reshape(-1, channels).T)


def _mean(coded: np.ndarray) -> np.ndarray:
    mean = coded.mean(0, dtype=np.float64)
    if coded.dtype.kind in "iu":
        full_scale = 2.0 ** (8 * coded.dtype.itemsize - 1)
        mean = mean / full_scale - (1.0 if coded.dtype.kind == "u" else 0.0)
    return mean.astype(np.float32)


class Sound:
    """The sound track as a stream of 16 kHz mono samples that begins with the picture.

    Channels are averaged with equal weights, as the published code does, not mixed down as a player would.
    """

    def __init__(self, frames: Frames | None, zero: float, name: str = "the sound track") -> None:
        self._name, self._warned, self._expected = name, False, frames is not None
        self._chunks = self._resampled(frames or iter(()), zero)
        self._rest = np.zeros(0, np.float32)
        self._peak = 0.0

    def read(self, count: int) -> np.ndarray:
        """The next samples, silence after the end: float32 [count]."""
        parts, have = [self._rest], len(self._rest)
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                chunk = np.zeros(count - have, np.float32)
            parts.append(chunk)
            have += len(chunk)
        samples = np.concatenate(parts)
        self._rest = samples[count:]
        self._peak = max(self._peak, float(np.abs(samples[:count]).max(initial=0)))
        return samples[:count]

    def warn_of_silence(self) -> None:
        """One line where the file has a sound track, and all that was read of it is silence."""
        if self._expected and self._peak < _SILENCE:
            warnings.warn(
                f"{self._name}: the sound track is silent for as long as the picture lasts; nothing can be heard in it",
                DataWarning,
                stacklevel=2,
            )

    def _resampled(self, frames: Frames, zero: float) -> Iterator[np.ndarray]:
        rate = 0
        resampler: soxr.ResampleStream | None = None
        for new_rate, samples in self._placed(frames, zero):
            if new_rate != rate:
                if resampler is not None:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                rate = new_rate
                same = rate == SAMPLE_RATE
                resampler = None if same else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            yield samples if resampler is None else resampler.resample_chunk(samples)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _placed(self, frames: Frames, zero: float) -> Iterator[tuple[int, np.ndarray]]:
        """Chunks at the file's own rate, silence where time stamps leave a gap; starts at `zero`."""
        downmix = _Downmix()
        position, rate = 0, 0  # samples since zero
        for time, _, frame in frames:
            if rate and frame.sample_rate != rate:
                position = round(position * frame.sample_rate / rate)
            rate = frame.sample_rate
            samples = self._repaired(downmix(frame), time - zero, rate)
            start = round((time - zero) * rate)
            if position == 0 or abs(start - position) > _LARGEST_JUMP * rate:
                while start > position:  # piecemeal: a gap may be an hour long
                    silence = np.zeros(min(rate, start - position), np.float32)
                    yield rate, silence
                    position += len(silence)
                samples = samples[max(0, position - start) :]
            position += len(samples)
            if len(samples):
                yield rate, samples

    def _repaired(self, samples: np.ndarray, time: float, rate: int) -> np.ndarray:
        """Samples that are no number, or out of every range, as silence; the first one is told with its time."""
        bad = ~(np.abs(samples) <= _LARGEST_SAMPLE)
        if not bad.any():
            return samples
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name}: the sound holds samples that are not finite or out of range, the first at "
                f"{time + int(bad.argmax()) / rate:.3f} s; they count as silence",
                DataWarning,
                stacklevel=2,
            )
        return np.where(bad, np.float32(0), samples)
