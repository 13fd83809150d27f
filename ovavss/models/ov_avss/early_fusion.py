"""Audio-visual early fusion (paper, section 3.3 and Table 3): bi-directional attention between pixels and audio."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.presets import Fusion, FusionConfig

LOGIT_LIMIT = 50_000.0


class BiAttention(nn.Module):
    """Multi-head attention in both directions over one matrix of logits.

    forward: visual [N, V, C], audio [N, A, D] -> what each side receives: [N, V, C] (or [N, 1, C] where it is the same
    for every pixel) and [N, A, D].
    """

    def __init__(self, visual_dim: int, audio_dim: int, config: FusionConfig) -> None:
        super().__init__()
        embed = config.embed_dim
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.scale = (embed // config.num_heads) ** -0.5
        self.visual_proj = nn.Linear(visual_dim, embed)
        self.audio_proj = nn.Linear(audio_dim, embed)
        self.visual_values = nn.Linear(visual_dim, embed)
        self.audio_values = nn.Linear(audio_dim, embed)
        self.visual_out = nn.Linear(embed, visual_dim)
        self.audio_out = nn.Linear(embed, audio_dim)
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        visual_query, audio_query = (
            self._heads(self.visual_proj(visual) * self.scale),
            self._heads(self.audio_proj(audio)),
        )
        logits = (visual_query @ audio_query.transpose(-2, -1)).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        audio_weights = self._drop(logits.transpose(-2, -1).softmax(-1))
        to_audio = self.audio_out(self._merge(audio_weights @ self._heads(self.visual_values(visual))))
        if audio.shape[1] == 1 and not (self.training and self.dropout > 0):
            # A softmax over one audio token is 1: every pixel receives the same vector.
            return self.visual_out(self.audio_values(audio)), to_audio
        visual_weights = self._drop(logits.softmax(-1))
        return self.visual_out(self._merge(visual_weights @ self._heads(self.audio_values(audio)))), to_audio

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def _drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)


class FusionBlock(nn.Module):
    """LayerNorm on both streams, bi-attention, and a residual scaled by a learned gamma.

    With `residual="normalized"` (published code) the residual is the normalized input, with `"plain"` (paper) the
    input itself.
    forward: visual [N, V, C], audio [N, A, D] -> both, same shapes.
    """

    def __init__(self, visual_dim: int, audio_dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.normalized_residual = config.residual == "normalized"
        self.visual_norm = nn.LayerNorm(visual_dim)
        self.audio_norm = nn.LayerNorm(audio_dim)
        self.attention = BiAttention(visual_dim, audio_dim, config)
        self.visual_gamma = nn.Parameter(torch.full((visual_dim,), 1 / 6))
        self.audio_gamma = nn.Parameter(torch.full((audio_dim,), 1 / 6))

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        visual_input, audio_input = self.visual_norm(visual), self.audio_norm(audio)
        to_visual, to_audio = self.attention(visual_input, audio_input)
        if self.normalized_residual:
            visual, audio = visual_input, audio_input
        return visual + self.visual_gamma * to_visual, audio + self.audio_gamma * to_audio


class EarlyFusion(nn.Module):
    """The fusion strategies of the paper's Table 3, over visual tokens of all levels (res5 first).

    `none`; `add`: the projected audio token is added to every pixel; `single_level`: bi-attention with res5 alone;
    `multi_level`: bi-attention with all levels concatenated (the published model). The paper names the first three
    without formulas: these are our readings.

    forward: visual [N, V, C], audio [N, D], tokens of res5 -> both, same shapes.
    """

    def __init__(self, visual_dim: int, audio_dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.kind = config.kind
        if self.kind is Fusion.ADD:
            self.audio_to_visual = nn.Linear(audio_dim, visual_dim)
        elif self.kind is not Fusion.NONE:
            self.block = FusionBlock(visual_dim, audio_dim, config)

    def forward(self, visual: Tensor, audio: Tensor, coarsest: int) -> tuple[Tensor, Tensor]:
        if self.kind is Fusion.NONE:
            return visual, audio
        if self.kind is Fusion.ADD:
            return visual + self.audio_to_visual(audio)[:, None], audio
        if self.kind is Fusion.SINGLE_LEVEL:
            fused, audio_out = self.block(visual[:, :coarsest], audio[:, None])
            return torch.cat([fused, visual[:, coarsest:]], dim=1), audio_out[:, 0]
        fused, audio_out = self.block(visual, audio[:, None])
        return fused, audio_out[:, 0]
