"""Every size of one model in one place, and the names of the graphs that each has."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

AUDIO_ENCODER, USSLM_GRAPH = "audio_encoder", "usslm"
CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER = "clip_image_encoder", "clip_text_encoder"
GRAPHS = (AUDIO_ENCODER, USSLM_GRAPH, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER)


class Fusion(StrEnum):
    """Audio-visual early fusion (paper, Table 3)."""

    NONE = "none"
    ADD = "add"
    SINGLE_LEVEL = "single_level"
    MULTI_LEVEL = "multi_level"


class AudioPrompt(StrEnum):
    """How audio reaches the object queries (paper, Table 4)."""

    NONE = "none"
    CONCAT_ADD = "concat_add"
    CROSS_ATTENTION = "cross_attention"
    AUDIO_MASK_DEC = "audio_mask_dec"


class Crop(StrEnum):
    """What of a masked frame CLIP sees (paper, Table 5)."""

    NONE = "none"
    CROP_RESIZE = "crop_resize"
    SQUARE = "square"


class Proposals(StrEnum):
    """Which queries are classified: all (published code) or those that the sound head selects (paper)."""

    ALL = "all"
    SOUNDING = "sounding"


AUDIO_PATCH = (96, 64)  # log-mel frames and bins of one snippet
Kernel = tuple[int, int]  # (time, mel)
AudioLayer = int | str | tuple[int | str, Kernel]


@dataclass(frozen=True)
class AudioEncoderConfig:
    """VGGish: 3x3 convolutions, `M` is a 2x2 max pooling; then fully connected layers, all with ReLU.

    A layer may bring its own (odd) kernel or pooling window over (time, mel): `(48, (3, 1))`, `("M", (12, 1))`.
    """

    layers: tuple[AudioLayer, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M")
    fully_connected: tuple[int, ...] = (4096, 4096, 128)

    def steps(self) -> list[tuple[int | str, Kernel]]:
        """The layers, each with its kernel or window."""
        return [x if isinstance(x, tuple) else (x, (2, 2) if x == "M" else (3, 3)) for x in self.layers]

    @property
    def flattened(self) -> int:
        """Numbers that the last convolution or pooling leaves of one patch."""
        channels, time, mel = 1, *AUDIO_PATCH
        for layer, window in self.steps():
            if isinstance(layer, int):
                channels = layer
            else:
                time, mel = time // window[0], mel // window[1]
        return channels * time * mel

    @property
    def width(self) -> int:
        """Width of one audio token."""
        return self.fully_connected[-1] if self.fully_connected else self.flattened


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet with frozen batch norm and the stride in the 3x3 convolution."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_channels: int = 64
    bottleneck_channels: int = 64
    out_channels: int = 256

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of res2..res5."""
        return tuple(self.out_channels * 2**i for i in range(4))


@dataclass(frozen=True)
class SwinConfig:
    """Swin transformer."""

    embed_dim: int = 128
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    num_heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window_size: int = 12
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.3

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of res2..res5."""
        return tuple(self.embed_dim * 2**i for i in range(4))


@dataclass(frozen=True)
class FusionConfig:
    """Audio-visual early fusion.

    The published code fuses the raw audio token and keeps the normalized residual; with `projected_audio=True` and
    `residual="plain"` it is the paper's form.
    """

    kind: Fusion = Fusion.MULTI_LEVEL
    embed_dim: int = 1024
    num_heads: int = 8
    dropout: float = 0.1
    residual: Literal["normalized", "plain"] = "normalized"
    projected_audio: bool = False


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Multi-scale deformable attention encoder over res5, res4, res3, and the step up to stride 4."""

    num_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    ffn_dim: int = 1024
    num_groups: int = 32


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Audio-conditioned transformer decoder; `audio_self_attention="each_layer"` is the paper's form."""

    num_queries: int = 100
    num_layers: int = 9
    num_heads: int = 8
    ffn_dim: int = 2048
    audio_prompt: AudioPrompt = AudioPrompt.AUDIO_MASK_DEC
    audio_self_attention: Literal["once", "each_layer"] = "once"


@dataclass(frozen=True)
class ClipConfig:
    """An open_clip model: the name of its config, and the sizes that the graphs need without building it.

    `pretrained` is open_clip's tag of the weights; a model of our own has none but an `architecture`, the arguments of
    `open_clip.CLIP`.
    """

    name: str
    image_size: int
    embed_dim: int
    context_length: int = 77
    pretrained: str | None = None
    architecture: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Preset:
    """One model.

    `short_side`, `long_side`: the test-time resize in pixels. `snippets`: T, the seconds of a clip. `frame_aspect`:
    width to height of the frames that it is measured with. `vocabulary`: the class names that it was trained for, a
    table of `ovavss.datasets`. `calibration`: the rendered clips that a reduced precision may be calibrated on where
    the user gives none. `recipe`: the module of `ovavss.training.recipes` that trains it from nothing.
    """

    name: str
    backbone: ResNetConfig | SwinConfig
    clip: ClipConfig
    audio: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    hidden_dim: int = 256
    snippets: int = 5
    short_side: int = 360
    long_side: int = 1333
    frame_aspect: tuple[int, int] = (16, 9)
    vocabulary: Literal["avsbench_ov", "sounding_shapes"] = "avsbench_ov"
    calibration: Literal["sounding_shapes"] | None = None
    recipe: Literal["tiny"] | None = None

    @property
    def audio_dim(self) -> int:
        """Width of one audio token (128 in the paper)."""
        return self.audio.width


_TINY_CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="r50",
            backbone=ResNetConfig(),
            # The plain configs of open_clip load OpenAI's weights without complaint and are wrong: no QuickGELU.
            clip=ClipConfig(name="ViT-B-16-quickgelu", image_size=224, embed_dim=512, pretrained="openai"),
        ),
        Preset(
            name="swin_b",
            backbone=SwinConfig(),
            clip=ClipConfig(name="ViT-L-14-336-quickgelu", image_size=336, embed_dim=768, pretrained="openai"),
        ),
        Preset(
            name="tiny",
            # Most blocks at stride 8: there an object spans three cells, and each must tell its form.
            backbone=ResNetConfig(blocks=(1, 3, 2, 1), stem_channels=32, bottleneck_channels=24, out_channels=48),
            clip=ClipConfig(name="tiny", image_size=32, embed_dim=64, context_length=32, architecture=_TINY_CLIP),
            # Nothing after the second pooling looks across mel: each eighth of the mel axis gets 16 values by
            # the same weights, so that a pattern is known in any register. The fully connected layers turn them into
            # which pattern is in which register, which patterns there are, and which registers sound.
            audio=AudioEncoderConfig(
                layers=(16, "M", 32, "M", (64, (3, 1)), "M", (64, (3, 1)), (16, (3, 1)), ("M", (12, 1))),
                fully_connected=(96, 64),
            ),
            fusion=FusionConfig(embed_dim=128, num_heads=4, dropout=0.0),
            pixel_decoder=PixelDecoderConfig(num_layers=2, num_heads=4, num_points=2, ffn_dim=384, num_groups=8),
            mask_decoder=MaskDecoderConfig(num_queries=10, num_layers=3, num_heads=4, ffn_dim=256),
            hidden_dim=96,
            short_side=96,
            long_side=384,
            frame_aspect=(1, 1),
            vocabulary="sounding_shapes",
            calibration="sounding_shapes",
            recipe="tiny",
        ),
    )
}

PresetName = Literal["r50", "swin_b", "tiny"]
"""The keys of `PRESETS`, as commands take them."""
