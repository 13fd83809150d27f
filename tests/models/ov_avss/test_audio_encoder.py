"""Log-mel and VGGish against the published model, and the cases at the edges of a waveform."""

import golden_model
import golden_set
import numpy as np
import pytest
import torch

from ovavss.models.ov_avss.audio_encoder import LogMel, patches_in, samples_for

golden = pytest.mark.golden


@golden
@pytest.mark.parametrize("seconds", [5, 10])
def test_log_mel_and_vggish(seconds: int) -> None:
    file = golden_set.load("01_audio")
    pcm = golden_set.seeds.waveform_i16(f"input:wav{seconds}", float(seconds), golden_set.SALT)
    np.testing.assert_array_equal(pcm, file[f"wav{seconds}_i16"])
    waveform = torch.from_numpy(pcm / np.float32(32768))[None]
    encoder = golden_model.audio_encoder(10)
    log_mel = encoder.log_mel(waveform)[0]
    expected = torch.from_numpy(file[f"mel{seconds}"])
    assert (log_mel[: len(expected)] - expected).abs().max() < 1e-4
    assert (log_mel[len(expected) :] == 0).all(), "missing patches hold log-mel 0.0, not silence"
    assert golden_set.relative_error(file, f"vggish{seconds}", encoder(waveform)[0]) < 2e-5


@golden
def test_patches_for_length() -> None:
    for samples, patches in golden_set.load("01_audio")["patches_for_length"].tolist():
        # The published code always has ten slots; what is counted here is how many hold sound.
        assert patches_in(samples) == patches, samples


@golden
def test_silence() -> None:
    silence = LogMel(5)(torch.zeros(1, 80_000))
    assert silence.numpy() == pytest.approx(float(golden_set.load("01_audio")["mel_of_silence_value"]), abs=1e-6)


def test_batch_and_short_waveforms() -> None:
    log_mel = LogMel(5)
    waveforms = torch.rand(2, 80_000) * 2 - 1
    both = log_mel(waveforms)
    assert torch.equal(both[1:], log_mel(waveforms[1:]))
    short = log_mel(waveforms[:, : samples_for(3)])
    torch.testing.assert_close(short[:, :3], both[:, :3])
    assert (short[:, 3:] == 0).all()
    assert (log_mel(waveforms[:, :100]) == 0).all()
