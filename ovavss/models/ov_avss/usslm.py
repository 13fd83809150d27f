"""USSLM, the universal sound source localization module (paper, figure 2): video and audio to sounding masks."""

from torch import Tensor, nn

from ovavss.models.ov_avss.mask_decoder import MLP, MaskDecoder, Prediction
from ovavss.models.ov_avss.pixel_decoder import PixelDecoder
from ovavss.models.ov_avss.presets import Preset, SwinConfig
from ovavss.models.ov_avss.resnet import ResNet
from ovavss.models.ov_avss.swin import Swin


class USSLM(nn.Module):
    """Backbone, early fusion, pixel decoder and audio-conditioned mask decoder.

    forward: images float32 [B, T, 3, H, W], normalized and padded (H, W multiples of 32), audio float32 [B, T, 128] ->
    predictions of every head, the last one the output: sound_logits [B, N, 2], mask_logits [B, N, T, H/4, W/4].
    `last_only`: that one alone, for less work.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        backbone, dim, fusion = preset.backbone, preset.hidden_dim, preset.fusion
        self.backbone = Swin(backbone) if isinstance(backbone, SwinConfig) else ResNet(backbone)
        self.projected_audio = fusion.projected_audio
        fused_dim = dim if self.projected_audio else preset.audio_dim
        self.pixel_decoder = PixelDecoder(backbone.channels, dim, fused_dim, preset.pixel_decoder, fusion)
        self.audio_proj = MLP(preset.audio_dim, dim, dim)
        self.mask_decoder = MaskDecoder(dim, preset.snippets, preset.mask_decoder)

    def forward(self, images: Tensor, audio: Tensor, last_only: bool = False) -> list[Prediction]:
        batch, frames = audio.shape[:2]
        if self.projected_audio:
            audio = self.audio_proj(audio)
        decoded = self.pixel_decoder(self.backbone(images.flatten(0, 1)), audio.flatten(0, 1))
        audio = decoded.audio.reshape(batch, frames, -1)
        if not self.projected_audio:
            audio = self.audio_proj(audio)
        return self.mask_decoder(decoded.multi_scale, decoded.mask_features, audio, last_only)
