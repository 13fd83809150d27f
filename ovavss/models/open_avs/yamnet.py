"""YAMNet: a MobileNet over log-mel patches that scores the 521 classes of AudioSet.

Hershey et al., "CNN Architectures for Large-Scale Audio Classification", 2017, in the later form with depthwise
separable convolutions. Signal processing is part of the network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovavss.models.open_avs.convolution import SameConv

SAMPLE_RATE = 16_000
WINDOW = 15_600  # samples of one patch: 96 frames of 25 ms, one every 10 ms
CLASSES = 521
_FRAME, _HOP, _FFT, _MELS = 400, 160, 512, 64
_LOG_OFFSET = 0.001
# Output channels and stride of each depthwise separable layer.
_LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _fourier_basis() -> Tensor:
    """Hann window times cosines and sines: float32 [2 * 257, 1, 400], as the weights of a convolution."""
    time = torch.arange(_FRAME, dtype=torch.float64)
    angles = 2 * torch.pi / _FFT * torch.arange(_FFT // 2 + 1, dtype=torch.float64)[:, None] * time
    window = torch.hann_window(_FRAME, periodic=True, dtype=torch.float64)
    return (torch.cat((angles.cos(), angles.sin())) * window)[:, None].float()


class YamNet(nn.Module):
    """YAMNet: log-mel spectrogram and MobileNetV1.

    forward: windows float32 [N, 15600], 16 kHz mono, full scale 1.0 -> scores float32 [N, 521] in [0, 1], which are
    independent of each other.
    """

    basis: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", _fourier_basis(), persistent=False)
        self.register_buffer("mel", torch.zeros(_MELS, _FFT // 2 + 1))
        layers: list[nn.Module] = [SameConv(1, 32, 3, 2)]
        channels = 32
        for outputs, stride in _LAYERS:
            layers += [SameConv(channels, channels, 3, stride, groups=channels), SameConv(channels, outputs)]
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(channels, CLASSES)

    def log_mel(self, windows: Tensor) -> Tensor:
        """float32 [N, 96, 64]: the logarithm of the mel spectrogram's magnitudes."""
        real, imaginary = F.conv1d(windows[:, None], self.basis, stride=_HOP).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).sqrt()
        return (magnitude.transpose(1, 2) @ self.mel.T + _LOG_OFFSET).log()

    def forward(self, windows: Tensor) -> Tensor:
        features = self.layers(self.log_mel(windows)[:, None]).mean((2, 3))
        return self.classify(features).sigmoid()
