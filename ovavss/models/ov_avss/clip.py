"""The two CLIP graphs, over an open_clip model."""

import open_clip
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.presets import ClipConfig


def build_clip(config: ClipConfig) -> open_clip.CLIP:
    """The open_clip model of a preset with random weights."""
    return open_clip.CLIP(**(config.architecture or open_clip.get_model_config(config.name)))


def tokenizer(config: ClipConfig) -> open_clip.SimpleTokenizer:
    """Maps sentences to tokens int64 [n, context_length]."""
    return open_clip.SimpleTokenizer(context_length=config.context_length)


class ClipImageEncoder(nn.Module):
    """Graph 3. forward: crops float32 [n, 3, S, S], CLIP-normalized -> unit vectors float32 [n, D]."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.visual = clip.visual

    def forward(self, crops: Tensor) -> Tensor:
        return F.normalize(self.visual(crops), dim=-1)


class ClipTextEncoder(nn.Module):
    """Graph 4. forward: tokens int64 [n, context_length] -> unit vectors float32 [n, D]."""

    attn_mask: Tensor

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask))
        # The sentence ends at its largest token; a one-hot sum, because gathering by row has many spellings in ONNX.
        end = F.one_hot(tokens.argmax(-1), x.shape[1]).to(x.dtype)
        return F.normalize((end[..., None] * x).sum(1) @ self.text_projection, dim=-1)
