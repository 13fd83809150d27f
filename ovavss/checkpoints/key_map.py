"""Names of the published checkpoint against ours, one readable table that is read in both directions.

`{i}`, `{j}`, `{k}` stand for a number, `{p}` for the last part of a name, `{rest}` for any parts.
"""

import re

_PIXEL = "sem_seg_head.pixel_decoder"
_ENCODER = f"{_PIXEL}.transformer.encoder"
_FUSION = f"{_ENCODER}.vl_layer.b_attn"
_PREDICTOR = "sem_seg_head.predictor"

# published name, our name
TABLE: tuple[tuple[str, str], ...] = (
    # ResNet-50
    ("backbone.stem.conv1.weight", "usslm.backbone.stem.conv.weight"),
    ("backbone.stem.conv1.norm.{p}", "usslm.backbone.stem.norm.{p}"),
    ("backbone.res{i}.{j}.shortcut.weight", "usslm.backbone.stages.res{i}.{j}.shortcut.conv.weight"),
    ("backbone.res{i}.{j}.shortcut.norm.{p}", "usslm.backbone.stages.res{i}.{j}.shortcut.norm.{p}"),
    ("backbone.res{i}.{j}.conv{k}.weight", "usslm.backbone.stages.res{i}.{j}.conv{k}.conv.weight"),
    ("backbone.res{i}.{j}.conv{k}.norm.{p}", "usslm.backbone.stages.res{i}.{j}.conv{k}.norm.{p}"),
    # Swin-B
    ("backbone.patch_embed.proj.{p}", "usslm.backbone.patch_embed.{p}"),
    ("backbone.patch_embed.norm.{p}", "usslm.backbone.patch_norm.{p}"),
    ("backbone.layers.{i}.blocks.{j}.norm{k}.{p}", "usslm.backbone.stages.{i}.{j}.norm{k}.{p}"),
    ("backbone.layers.{i}.blocks.{j}.mlp.fc{k}.{p}", "usslm.backbone.stages.{i}.{j}.fc{k}.{p}"),
    ("backbone.layers.{i}.blocks.{j}.attn.{rest}", "usslm.backbone.stages.{i}.{j}.attn.{rest}"),
    ("backbone.layers.{i}.downsample.{rest}", "usslm.backbone.merges.{i}.{rest}"),
    ("backbone.norm{i}.{p}", "usslm.backbone.norms.{i}.{p}"),
    # Early fusion
    (f"{_FUSION}.gamma_v", "usslm.pixel_decoder.early_fusion.block.visual_gamma"),
    (f"{_FUSION}.gamma_l", "usslm.pixel_decoder.early_fusion.block.audio_gamma"),
    (f"{_FUSION}.layer_norm_v.{{p}}", "usslm.pixel_decoder.early_fusion.block.visual_norm.{p}"),
    (f"{_FUSION}.layer_norm_l.{{p}}", "usslm.pixel_decoder.early_fusion.block.audio_norm.{p}"),
    (f"{_FUSION}.attn.v_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.visual_proj.{p}"),
    (f"{_FUSION}.attn.l_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.audio_proj.{p}"),
    (f"{_FUSION}.attn.values_v_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.visual_values.{p}"),
    (f"{_FUSION}.attn.values_l_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.audio_values.{p}"),
    (f"{_FUSION}.attn.out_v_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.visual_out.{p}"),
    (f"{_FUSION}.attn.out_l_proj.{{p}}", "usslm.pixel_decoder.early_fusion.block.attention.audio_out.{p}"),
    # Pixel decoder; its input projections are numbered from res5
    (f"{_PIXEL}.input_proj.0.0.{{p}}", "usslm.pixel_decoder.input_proj.res5.conv.{p}"),
    (f"{_PIXEL}.input_proj.0.1.{{p}}", "usslm.pixel_decoder.input_proj.res5.norm.{p}"),
    (f"{_PIXEL}.input_proj.1.0.{{p}}", "usslm.pixel_decoder.input_proj.res4.conv.{p}"),
    (f"{_PIXEL}.input_proj.1.1.{{p}}", "usslm.pixel_decoder.input_proj.res4.norm.{p}"),
    (f"{_PIXEL}.input_proj.2.0.{{p}}", "usslm.pixel_decoder.input_proj.res3.conv.{p}"),
    (f"{_PIXEL}.input_proj.2.1.{{p}}", "usslm.pixel_decoder.input_proj.res3.norm.{p}"),
    (f"{_PIXEL}.transformer.level_embed", "usslm.pixel_decoder.level_embed"),
    (f"{_ENCODER}.layers.{{i}}.self_attn.{{rest}}", "usslm.pixel_decoder.layers.{i}.attention.{rest}"),
    (f"{_ENCODER}.layers.{{i}}.norm{{k}}.{{p}}", "usslm.pixel_decoder.layers.{i}.norm{k}.{p}"),
    (f"{_ENCODER}.layers.{{i}}.linear{{k}}.{{p}}", "usslm.pixel_decoder.layers.{i}.linear{k}.{p}"),
    (f"{_PIXEL}.adapter_1.weight", "usslm.pixel_decoder.lateral.conv.weight"),
    (f"{_PIXEL}.adapter_1.norm.{{p}}", "usslm.pixel_decoder.lateral.norm.{p}"),
    (f"{_PIXEL}.layer_1.weight", "usslm.pixel_decoder.output.conv.weight"),
    (f"{_PIXEL}.layer_1.norm.{{p}}", "usslm.pixel_decoder.output.norm.{p}"),
    (f"{_PIXEL}.mask_features.{{p}}", "usslm.pixel_decoder.mask_features.{p}"),
    # Audio-conditioned mask decoder
    (f"{_PREDICTOR}.audio_proj.layers.{{i}}.{{p}}", "usslm.audio_proj.layers.{i}.{p}"),
    (f"{_PREDICTOR}.query_feat.weight", "usslm.mask_decoder.query_feat.weight"),
    (f"{_PREDICTOR}.query_embed.weight", "usslm.mask_decoder.query_embed.weight"),
    (f"{_PREDICTOR}.audio_query_embed.weight", "usslm.mask_decoder.audio_query_embed.weight"),
    (f"{_PREDICTOR}.level_embed.weight", "usslm.mask_decoder.level_embed.weight"),
    (f"{_PREDICTOR}.decoder_norm.{{p}}", "usslm.mask_decoder.norm.{p}"),
    (f"{_PREDICTOR}.class_embed.{{p}}", "usslm.mask_decoder.sound_head.{p}"),
    (f"{_PREDICTOR}.mask_embed.{{rest}}", "usslm.mask_decoder.mask_head.{rest}"),
    (f"{_PREDICTOR}.v2a.multihead_attn.{{rest}}", "usslm.mask_decoder.audio_to_query.{rest}"),
    (f"{_PREDICTOR}.v2a.norm.{{p}}", "usslm.mask_decoder.audio_to_query.norm.{p}"),
    (f"{_PREDICTOR}.a2a.self_attn.{{rest}}", "usslm.mask_decoder.audio_self_attention.{rest}"),
    (f"{_PREDICTOR}.a2a.norm.{{p}}", "usslm.mask_decoder.audio_self_attention.norm.{p}"),
    (
        f"{_PREDICTOR}.transformer_cross_attention_layers.{{i}}.multihead_attn.{{rest}}",
        "usslm.mask_decoder.layers.{i}.masked_attention.{rest}",
    ),
    (
        f"{_PREDICTOR}.transformer_cross_attention_layers.{{i}}.norm.{{p}}",
        "usslm.mask_decoder.layers.{i}.masked_attention.norm.{p}",
    ),
    (
        f"{_PREDICTOR}.transformer_self_attention_layers.{{i}}.self_attn.{{rest}}",
        "usslm.mask_decoder.layers.{i}.self_attention.{rest}",
    ),
    (
        f"{_PREDICTOR}.transformer_self_attention_layers.{{i}}.norm.{{p}}",
        "usslm.mask_decoder.layers.{i}.self_attention.norm.{p}",
    ),
    (
        f"{_PREDICTOR}.transformer_audio_cross_attention_layers.{{i}}.multihead_attn.{{rest}}",
        "usslm.mask_decoder.layers.{i}.audio_attention.{rest}",
    ),
    (
        f"{_PREDICTOR}.transformer_audio_cross_attention_layers.{{i}}.norm.{{p}}",
        "usslm.mask_decoder.layers.{i}.audio_attention.norm.{p}",
    ),
    (f"{_PREDICTOR}.transformer_ffn_layers.{{i}}.linear{{k}}.{{p}}", "usslm.mask_decoder.layers.{i}.ffn.linear{k}.{p}"),
    (f"{_PREDICTOR}.transformer_ffn_layers.{{i}}.norm.{{p}}", "usslm.mask_decoder.layers.{i}.ffn.norm.{p}"),
    # VGGish and CLIP
    ("audio_encoder.audio_backbone.{rest}", "audio_encoder.vggish.{rest}"),
    ("clip_adapter.clip_model.{rest}", "clip.{rest}"),
)

# In the file, but constants or of no use to the model: never loaded, never missed.
IGNORED = (
    r"(?:.*\.)?relative_position_index",
    r"clip_adapter\.pixel_(?:mean|std)",
    r"pixel_(?:mean|std)",
    r"criterion\.empty_weight",
)

_PARTS = {"i": r"\d+", "j": r"\d+", "k": r"\d+", "p": r"[^.]+", "rest": r".+"}


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_PARTS[m[1]]})", escaped))


_TO_OURS = [(_pattern(upstream), ours) for upstream, ours in TABLE]
# The published `norm` of an attention layer lies beside the attention, ours inside: its rows go first on the way back.
_TO_UPSTREAM = sorted(
    ((_pattern(ours), upstream) for upstream, ours in TABLE), key=lambda row: "(?P<rest>" in row[0].pattern
)


def _translate(name: str, rows: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rows:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict())
    return None


def is_ignored(name: str) -> bool:
    """Whether the published name is one that needs no place in our model."""
    return any(re.fullmatch(pattern, name) for pattern in IGNORED)


def to_ours(name: str) -> str | None:
    """Our name of a published one, None if the table has no row for it."""
    return _translate(name, _TO_OURS)


def to_upstream(name: str) -> str | None:
    """The published name of ours, None if the table has no row for it."""
    return _translate(name, _TO_UPSTREAM)
