"""Audio-conditioned transformer decoder (paper, section 3.4, AudioMaskDec): sounding queries to masks."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovavss.models.ov_avss.position_encoding import sine_3d
from ovavss.models.ov_avss.presets import AudioPrompt, MaskDecoderConfig


@dataclass
class Prediction:
    """What the heads read from the queries.

    `sound_logits` [B, N, 2] (0 = sounding, 1 = not), `mask_logits` [B, N, T, h, w] at stride 4, and the `queries`
    [B, N, C] before the final norm.
    """

    sound_logits: Tensor
    mask_logits: Tensor
    queries: Tensor


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class AttentionLayer(nn.Module):
    """Multi-head attention with a residual and post-norm: x = LN(x + attention(x + query position, key, value)).

    forward: x [B, Q, C], key and value [B, K, C], blocked bool [B, Q, K] (True = may not attend) -> [B, Q, C].
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (self._project(t, w, b) for t, w, b in zip((x + position, key, value), weights, biases))
        mask = None if blocked is None else ~blocked[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.norm(x + self.out_proj(out.transpose(1, 2).flatten(2)))

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = F.linear(x, weight, bias)
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)


class FeedForwardLayer(nn.Module):
    """x = LN(x + linear2(relu(linear1(x))))."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


def closed_positions(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Where masked attention may not look: bool [B, N, T * h * w], from mask logits [B, N, T, H, W]."""
    closed = resize(mask_logits, size).sigmoid() < 0.5
    return closed.reshape(*mask_logits.shape[:2], -1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear: [A, B, C, H, W] -> [A, B, C, h, w]."""
    resized = F.interpolate(maps.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
    return resized.unflatten(0, maps.shape[:2])


class MaskDecoderLayer(nn.Module):
    """Masked video attention, query self-attention, audio attention (AudioMaskDec only), FFN."""

    def __init__(self, dim: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        heads = config.num_heads
        self.masked_attention = AttentionLayer(dim, heads)
        self.self_attention = AttentionLayer(dim, heads)
        self.ffn = FeedForwardLayer(dim, config.ffn_dim)
        with_audio = config.audio_prompt is AudioPrompt.AUDIO_MASK_DEC
        # The paper updates the audio in each layer, the published code once before the first.
        each = with_audio and config.audio_self_attention == "each_layer"
        self.audio_self_attention = AttentionLayer(dim, heads) if each else None
        self.audio_attention = AttentionLayer(dim, heads) if with_audio else None


class MaskDecoder(nn.Module):
    """Audio-conditioned transformer decoder.

    The audio prompts of the paper's Table 4: `audio_mask_dec` is the published model (queries attend to audio before
    the first layer and again in each layer); `cross_attention` keeps only the attention before the first layer;
    `concat_add` adds a projection of (query, mean audio) concatenated; `none` uses no audio here. The paper names the
    last three without formulas: these are our readings.

    forward: multi_scale maps [B * T, C, ., .] at strides 32, 16, 8, mask_features [B * T, C, h, w], audio [B, T, C]
    (projected) -> predictions of every head: before layer 0, then after each layer; the last is the output.

    With `last_only` the last alone. The others are then needed at the size of the attention that they mask only; there
    the product is up to 64 times smaller, and the same but for rounding: resizing and product are both linear.
    """

    def __init__(self, dim: int, snippets: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.prompt = config.audio_prompt
        self.query_feat = nn.Embedding(config.num_queries, dim)
        self.query_embed = nn.Embedding(config.num_queries, dim)
        self.level_embed = nn.Embedding(3, dim)
        attends = self.prompt in (AudioPrompt.AUDIO_MASK_DEC, AudioPrompt.CROSS_ATTENTION)
        once = self.prompt is AudioPrompt.AUDIO_MASK_DEC and config.audio_self_attention == "once"
        self.audio_query_embed = nn.Embedding(snippets, dim) if attends else None
        self.audio_to_query = AttentionLayer(dim, config.num_heads) if attends else None
        self.audio_self_attention = AttentionLayer(dim, config.num_heads) if once else None
        self.concat_proj = nn.Linear(2 * dim, dim) if self.prompt is AudioPrompt.CONCAT_ADD else None
        self.layers = nn.ModuleList(MaskDecoderLayer(dim, config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(dim)
        self.sound_head = nn.Linear(dim, 2)
        self.mask_head = MLP(dim, dim, dim, dim)

    def forward(
        self, multi_scale: list[Tensor], mask_features: Tensor, audio: Tensor, last_only: bool = False
    ) -> list[Prediction]:
        batch, frames, dim = audio.shape
        levels = [self._level(index, x, batch, frames) for index, x in enumerate(multi_scale)]
        sizes = [(x.shape[2], x.shape[3]) for x in multi_scale]
        mask_features = mask_features.reshape(batch, frames, *mask_features.shape[1:])
        small = [resize(mask_features, size) for size in sizes[: len(self.layers)]] if last_only else []

        position = self.query_embed.weight[None]
        queries = self.query_feat.weight[None].expand(batch, -1, -1)
        audio_position = audio.new_zeros(1, 1, dim)
        if self.audio_query_embed is not None and self.audio_to_query is not None:
            audio_position = self.audio_query_embed.weight[None]
            queries = self.audio_to_query(queries, position, audio + audio_position, audio)
        elif self.concat_proj is not None:
            pooled = audio.mean(1, keepdim=True).expand(-1, queries.shape[1], -1)
            queries = queries + self.concat_proj(torch.cat([queries, pooled], dim=-1))

        def head(index: int) -> Prediction:
            """The prediction before layer `index`."""
            wanted = small[index % 3] if last_only and index < len(self.layers) else mask_features
            return self._predict(queries, wanted)

        predictions = [head(0)]
        if self.audio_self_attention is not None:
            audio = self.audio_self_attention(audio, audio_position, audio + audio_position, audio)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, MaskDecoderLayer)
            key, value = levels[index % 3]
            masks = predictions[-1].mask_logits.detach()
            closed = masks.flatten(2).sigmoid() < 0.5 if last_only else closed_positions(masks, sizes[index % 3])
            # A query that may look nowhere may look everywhere.
            blocked = closed & ~closed.all(-1, keepdim=True)
            queries = layer.masked_attention(queries, position, key, value, blocked)
            queries = layer.self_attention(queries, position, queries + position, queries)
            if layer.audio_self_attention is not None:
                audio = layer.audio_self_attention(audio, audio_position, audio + audio_position, audio)
            if layer.audio_attention is not None:
                queries = layer.audio_attention(queries, position, audio + audio_position, audio)
            queries = layer.ffn(queries)
            predictions.append(head(index + 1))
        return predictions[-1:] if last_only else predictions

    def _level(self, index: int, features: Tensor, batch: int, frames: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, T * h * w, C] of one level: the level embedding is in both, the position in keys only."""
        dim, height, width = features.shape[1:]
        value = features.reshape(batch, frames, dim, -1).transpose(2, 3) + self.level_embed.weight[index]
        position = sine_3d(frames, height, width, dim, features.device).flatten(2).transpose(1, 2)
        return (value + position).flatten(1, 2), value.flatten(1, 2)

    def _predict(self, queries: Tensor, mask_features: Tensor) -> Prediction:
        normed = self.norm(queries)
        masks = torch.einsum("bnc,btchw->bnthw", self.mask_head(normed), mask_features)
        return Prediction(self.sound_head(normed), masks, queries)
