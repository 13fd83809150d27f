"""The networks with random weights: shapes, and that a picture's size and a batch change nothing they should not."""

import pytest
import torch

from ovavss.models.open_avs.convolution import SameConv
from ovavss.models.open_avs.efficientnet import ClassMaps, EfficientNetLite0
from ovavss.models.open_avs.prompt_decoder import BOX_END, BOX_START, INSIDE, PADDING, PromptDecoder
from ovavss.models.open_avs.ssdlite import ANCHORS, COCO_IDS, SSDLite
from ovavss.models.open_avs.tiny_vit import EMBEDDING, MaskImageEncoder, TinyViT
from ovavss.models.open_avs.yamnet import CLASSES, WINDOW, YamNet


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pictures(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


@pytest.mark.parametrize(("size", "expected"), [(7, 4), (8, 4)])
def test_same_padding_puts_the_odd_pixel_right_and_below(size: int, expected: int) -> None:
    layer = SameConv(1, 1, 3, 2, relu6=False)
    layer.weight.data.zero_()
    layer.weight.data[0, 0, 0, 0] = 1  # picks the upper left pixel of each window
    layer.bias.data.zero_()  # type: ignore[union-attr]
    x = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
    y = layer(x)
    assert y.shape[-2:] == (expected, expected)
    # An odd size is padded on both sides, an even one right and below alone.
    assert y[0, 0, 0, 0] == (0 if size % 2 else 1)


@torch.no_grad()
def test_listener_scores_windows_one_by_one() -> None:
    model = YamNet().eval()
    model.mel.uniform_(0, 0.1)
    windows = torch.randn(3, WINDOW) * 0.1
    scores = model(windows)
    assert scores.shape == (3, CLASSES) and bool(((scores > 0) & (scores < 1)).all())
    torch.testing.assert_close(scores[1:2], model(windows[1:2]))


def test_listener_hears_a_tone_in_its_own_frequency() -> None:
    model = YamNet()
    time = torch.arange(WINDOW) / 16_000
    basis = torch.nn.functional.conv1d((2 * torch.pi * 1000 * time).sin()[None, None], model.basis, stride=160)
    real, imaginary = basis.chunk(2, dim=1)
    assert set((real**2 + imaginary**2).argmax(1).flatten().tolist()) == {32}  # 1000 Hz of 31.25 Hz a bin


@torch.no_grad()
def test_detector_gives_boxes_of_all_anchors_for_any_picture_size() -> None:
    model = SSDLite().eval()
    model.anchors.copy_(torch.tensor([0.25, 0.5, 0.75, 0.9]).expand(ANCHORS, 4))
    for head in model.box_heads:
        head.predict.weight.zero_()  # type: ignore[union-attr, operator]
        head.predict.bias.zero_()  # type: ignore[union-attr, operator]
    boxes, scores = model(pictures(90, 160, 2))
    assert boxes.shape == (2, ANCHORS, 4) and scores.shape == (2, ANCHORS, COCO_IDS)
    # Offsets of zero give the anchors themselves, in the order x0, y0, x1, y1.
    torch.testing.assert_close(boxes, torch.tensor([0.5, 0.25, 0.9, 0.75]).expand(2, ANCHORS, 4))


@torch.no_grad()
def test_class_map_is_a_distribution_in_every_cell() -> None:
    maps = ClassMaps(EfficientNetLite0(), ((96, 128), (144, 192))).eval()(pictures(50, 70))
    assert [tuple(each.shape) for each in maps] == [(1, 1000, 3, 4), (1, 1000, 5, 6)]
    for each in maps:
        torch.testing.assert_close(each.sum(1), torch.ones_like(each[:, 0]))


@torch.no_grad()
def test_mask_encoder_pads_to_a_square_and_the_decoder_takes_prompts_together() -> None:
    encoder, decoder = MaskImageEncoder(TinyViT(), 128).eval(), PromptDecoder().eval()
    embedding = encoder(pictures(60, 80, 2))
    assert embedding.shape == (2, EMBEDDING, 8, 8)
    points, labels = torch.rand(2, 2, 2), torch.tensor([[BOX_START, BOX_END], [INSIDE, PADDING]])
    masks, iou = decoder(embedding, points, labels.float())
    assert masks.shape == (2, 4, 32, 32) and iou.shape == (2, 4)
    alone, _ = decoder(embedding[1:], points[1:], labels[1:].float())
    torch.testing.assert_close(masks[1:], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_padding_point_has_no_place() -> None:
    decoder = PromptDecoder().eval()
    decoder.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.normal_()  # type: ignore[operator, union-attr]
    embedding = torch.randn(1, EMBEDDING, 4, 4)
    labels = torch.tensor([[INSIDE, PADDING]]).float()
    first = decoder(embedding, torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]), labels)
    second = decoder(embedding, torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]), labels)
    torch.testing.assert_close(first, second)
    moved = decoder(embedding, torch.tensor([[[0.1, 0.9], [0.0, 0.0]]]), labels)
    assert not torch.allclose(first[0], moved[0])
