"""`use_in` on small random models of `transformers`: the same answers, and one node a layer in an export."""

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.msda import detectors, use_in
from ovavss.msda.detectors import attention_of_levels
from ovavss.msda.libraries import session_options
from ovavss.msda.onnx_node import DOMAIN, PLAIN, FallbackBody, add_bodies
from ovavss.msda.onnx_translation import onnx_translations
from ovavss.msda.operators import plain

transformers = pytest.importorskip("transformers", reason="pip install 'ovavss[hub]'")


def resnet(kind: Any = None) -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    kind = kind or transformers.ResNetConfig
    return kind(out_features=["stage2", "stage3", "stage4"], **sizes)


def deformable_detr() -> nn.Module:
    config = transformers.DeformableDetrConfig(
        backbone_config=resnet(), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5, num_feature_levels=4,
    )  # fmt: skip
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr(family: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        sizes: dict[str, Any] = {
            "backbone_config": resnet(transformers.RTDetrResNetConfig), "d_model": 32, "encoder_hidden_dim": 32,
            "encoder_in_channels": [8, 8, 8], "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 5, "num_denoising": 0,
            "decoder_in_channels": [32, 32, 32], "feat_strides": [8, 16, 32],
        }  # fmt: skip
        if family == "DFine":
            sizes |= {"decoder_n_points": [3, 6, 3], "depth_mult": 1.0, "hidden_expansion": 1.0}
        config = getattr(transformers, f"{family}Config")(**sizes)
        return getattr(transformers, f"{family}ForObjectDetection")(config)

    return make


def mask2former() -> nn.Module:
    backbone = transformers.SwinConfig(
        image_size=64, window_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=2, decoder_layers=2, num_attention_heads=4, num_queries=5,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "Deformable DETR": (deformable_detr, 4),
    "RT-DETR": (rt_detr("RTDetr"), 2),
    "RT-DETR v2": (rt_detr("RTDetrV2"), 2),
    "D-FINE": (rt_detr("DFine"), 2),
    "Mask2Former": (mask2former, 2),
}


@pytest.fixture(autouse=True)
def restored_modules() -> Iterator[None]:
    """Some families share a function of their module, which a test must not leave behind."""
    import importlib

    names = ("mask2former", "rt_detr_v2")
    modules = [importlib.import_module(f"transformers.models.{name}.modeling_{name}") for name in names]
    kept = [dict(vars(module)) for module in modules]
    yield
    for module, content in zip(modules, kept):
        vars(module).update(content)


def random_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # many start at zero, where a wrong attention would not show
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        found = model(pixel_values=images)
    names = ("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits")
    return [found[name] for name in names if name in found]


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = random_model(name), torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    before = outputs_of(model, images)
    assert use_in(model) == MODELS[name][1]
    calls: list[Tensor] = []
    monkeypatch.setattr(detectors, "plain", lambda value, *others: calls.append(value) or plain(value, *others))
    found = outputs_of(model, images)
    assert len(calls) == MODELS[name][1] and len(found) == len(before) == 2
    for ours, theirs in zip(found, before):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


class OnImages(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixel_values=pixel_values)
        return found["logits"], found["pred_boxes"]


def test_one_node_a_layer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    model, images = (
        random_model("Deformable DETR"),
        torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1)),
    )
    before = outputs_of(model, images)
    layers = use_in(model)
    program = torch.onnx.export(
        OnImages(model).eval(), (images,), dynamo=True, opset_version=20, custom_translation_table=onnx_translations(),
        verbose=False,
    )  # fmt: skip
    assert program is not None
    exported = program.model_proto
    add_bodies(exported, 4, FallbackBody.GRID_SAMPLE)
    nodes = [node for node in exported.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [PLAIN] * layers
    file = io.BytesIO()
    onnx.save(exported, file)
    for options in (onnxruntime.SessionOptions(), session_options(["CPUExecutionProvider"])):
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        for ours, theirs in zip(session.run(None, {session.get_inputs()[0].name: images.numpy()}), before):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-3)


def test_a_model_without_it() -> None:
    with pytest.raises(UserError, match="Linear has no deformable attention of `transformers` that is known"):
        use_in(nn.Linear(2, 2))


def test_sampling_of_the_nearest_pixel() -> None:
    nothing = torch.zeros(1, 1, 1, 8)
    with pytest.raises(UserError, match="this model's method is 'discrete'"):
        attention_of_levels(nothing, [(1, 1)], nothing, nothing, [1], "discrete")
