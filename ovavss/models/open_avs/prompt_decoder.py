"""SAM's prompt encoder and mask decoder (Kirillov et al., "Segment Anything", 2023) as one network.

Names of parameters are those of the published checkpoint.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovavss.models.open_avs.tiny_vit import EMBEDDING, ChannelNorm

HEADS, MASKS = 8, 4
# Labels of points: padding (no point), outside the object, inside it, and the corners of a box.
PADDING, OUTSIDE, INSIDE, BOX_START, BOX_END = -1, 0, 1, 2, 3


class _Attention(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(EMBEDDING, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, EMBEDDING)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        heads = (part.reshape(*part.shape[:2], HEADS, -1).transpose(1, 2) for part in parts)
        y: Tensor = self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return y


class _Mlp(nn.Module):
    """The perceptron of a transformer layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(EMBEDDING, hidden), nn.Linear(hidden, EMBEDDING)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lin2(F.relu(self.lin1(x)))
        return y


class _TwoWayLayer(nn.Module):
    """Tokens attend to themselves and to the picture, the picture attends to the tokens."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = _Attention(EMBEDDING)
        self.cross_attn_token_to_image, self.cross_attn_image_to_token = (_Attention(EMBEDDING // 2) for _ in range(2))
        self.mlp = _Mlp(8 * EMBEDDING)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(EMBEDDING) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, prompts: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # the tokens are the prompts themselves
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + prompts
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + positions, tokens + prompts, tokens))
        return tokens, image


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TwoWayLayer(first=index == 0) for index in range(2))
        self.final_attn_token_to_image = _Attention(EMBEDDING // 2)
        self.norm_final_attn = nn.LayerNorm(EMBEDDING)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, positions)
        update = self.final_attn_token_to_image(tokens + prompts, image + positions, image)
        return self.norm_final_attn(tokens + update), image


class _Head(nn.Module):
    """A perceptron of three layers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(EMBEDDING, size) for size in (EMBEDDING, EMBEDDING, outputs))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


class _PromptEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, EMBEDDING // 2))
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, EMBEDDING) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, EMBEDDING), nn.Embedding(1, EMBEDDING)

    def encode_positions(self, xy: Tensor) -> Tensor:
        """Random Fourier features of positions in [0, 1]: float32 [..., 2] -> [..., 256]."""
        matrix: Tensor = self.pe_layer.positional_encoding_gaussian_matrix  # type: ignore[assignment]
        angles = 2 * math.pi * ((2 * xy - 1) @ matrix)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def forward(self, xy: Tensor, labels: Tensor) -> Tensor:
        kinds = torch.cat([self.not_a_point_embed.weight, *(kind.weight for kind in self.point_embeddings)])  # type: ignore[list-item]
        index = labels.long() + 1
        return torch.where((labels < 0)[..., None], 0.0, self.encode_positions(xy)) + kinds[index]


class _MaskDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = _Transformer()
        self.iou_token, self.mask_tokens = nn.Embedding(1, EMBEDDING), nn.Embedding(MASKS, EMBEDDING)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(EMBEDDING, EMBEDDING // 4, 2, 2),
            ChannelNorm(EMBEDDING // 4),
            nn.GELU(),
            nn.ConvTranspose2d(EMBEDDING // 4, EMBEDDING // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(_Head(EMBEDDING // 8) for _ in range(MASKS))
        self.iou_prediction_head = _Head(MASKS)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = image.shape
        own = torch.cat((self.iou_token.weight, self.mask_tokens.weight)).expand(batch, -1, -1)
        tokens, pixels = self.transformer(image.flatten(2).transpose(1, 2), positions, torch.cat((own, prompts), dim=1))
        upscaled = self.output_upscaling(pixels.transpose(1, 2).reshape(batch, channels, height, width))
        kernels = torch.stack([head(tokens[:, 1 + k]) for k, head in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = torch.einsum("bkc,bchw->bkhw", kernels, upscaled)
        return masks, self.iou_prediction_head(tokens[:, 0])


class PromptDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder.

    forward: embedding float32 [B, 256, s, s] of a square; points float32 [B, P, 2], x and y as shares of its side;
    labels float32 [B, P] (see above) -> mask_logits float32 [B, 4, 4s, 4s] of the square (the first for unambiguous
    prompts, then whole, part and sub-part), iou float32 [B, 4], the network's estimate of each mask's quality.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = _PromptEncoder(), _MaskDecoder()

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        side = embedding.shape[-1]
        cells = (torch.arange(side, device=embedding.device) + 0.5) / side
        grid = torch.stack((cells[None].expand(side, -1), cells[:, None].expand(-1, side)), dim=-1)
        positions = self.prompt_encoder.encode_positions(grid).flatten(0, 1)[None]
        image = embedding + self.prompt_encoder.no_mask_embed.weight[..., None, None]
        masks: tuple[Tensor, Tensor] = self.mask_decoder(image, positions, self.prompt_encoder(points, labels))
        return masks
