"""Damaged samples of a sound track count as silence, and a warning names the time of the first."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovavss.errors import DataWarning
from ovavss.media.sound import SAMPLE_RATE, Sound


def frames(samples: np.ndarray) -> Any:
    """Float frames of 1600 samples, as a decoder gives them."""
    for start in range(0, len(samples), 1600):
        part = samples[None, start : start + 1600]
        frame = SimpleNamespace(
            to_ndarray=lambda part=part: part,
            format=SimpleNamespace(is_planar=True),
            layout=SimpleNamespace(nb_channels=1),
            sample_rate=SAMPLE_RATE,
        )
        yield start / SAMPLE_RATE, (start + 1600) / SAMPLE_RATE, frame


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
def test_damaged_samples(number: float) -> None:
    wave = np.linspace(-0.5, 0.5, 2 * SAMPLE_RATE, dtype=np.float32)
    damaged = wave.copy()
    damaged[[24_000, 30_000]] = number
    with pytest.warns(DataWarning, match=r"film\.mkv: the sound holds samples .* the first at 1\.500 s") as told:
        found = Sound(frames(damaged), 0.0, "film.mkv").read(len(wave))
    wave[[24_000, 30_000]] = 0
    assert len(told) == 1
    np.testing.assert_array_equal(found, wave)
