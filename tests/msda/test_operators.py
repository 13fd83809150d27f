"""The PyTorch operators: their registration, gradients, torch.compile, torch.export and ONNX."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from ovavss.msda.layer import MSDeformAttn
from ovavss.msda.ms_deform_attn import ms_deform_attn, ms_deform_attn_fused
from ovavss.msda.onnx_node import DOMAIN, FUSED, PLAIN, FallbackBody, add_bodies
from ovavss.msda.onnx_translation import onnx_translations
from ovavss.msda.operators import fused, level_shapes_tensor, plain

SHAPES = [(5, 4), (3, 2)]


def inputs_of(form: str, dtype: torch.dtype = torch.float32, batch: int = 2, queries: int = 3) -> tuple[Tensor, ...]:
    """Away from the pixels' centers, where the gradient of the coordinates jumps."""
    random = torch.Generator().manual_seed(0)
    places = (batch, queries, 2, len(SHAPES), 3)

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=random, dtype=dtype)

    value = draw(batch, sum(h * w for h, w in SHAPES), 2, 8) - 0.5
    shapes = torch.tensor(SHAPES)
    if form == "plain":
        return value, shapes, 1.2 * draw(*places, 2) - 0.1, draw(*places)
    return value, shapes, draw(1, queries, 1, 2), 4 * draw(*places, 2) - 2, draw(*places)


OPERATORS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], str]] = {
    "plain": (plain, ms_deform_attn, PLAIN),
    "fused": (fused, ms_deform_attn_fused, FUSED),
}


@pytest.mark.parametrize("form", OPERATORS)
def test_value_and_registration(form: str) -> None:
    operator, reference, _ = OPERATORS[form]
    value, shapes, *others = inputs_of(form)
    torch.testing.assert_close(
        operator(value, shapes, *others), reference(value, SHAPES, *others), atol=1e-5, rtol=1e-5
    )
    inputs = tuple(t.requires_grad_() if t.is_floating_point() else t for t in inputs_of(form))
    torch.library.opcheck(operator, inputs)


@pytest.mark.parametrize("form", OPERATORS)
def test_gradients(form: str) -> None:
    operator, reference, _ = OPERATORS[form]
    value, shapes, *others = inputs_of(form, torch.float64, batch=1)
    leaves = [t.requires_grad_() for t in (value, *others)]
    assert torch.autograd.gradcheck(lambda v, *rest: operator(v, shapes, *rest), leaves)
    outputs = [operator(value, shapes, *others), reference(value, SHAPES, *others)]
    ours, theirs = (torch.autograd.grad(out.square().sum(), leaves) for out in outputs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", OPERATORS)
def test_gradient_of_some_inputs(form: str) -> None:
    operator, reference, _ = OPERATORS[form]
    value, shapes, *others = inputs_of(form, torch.float64)
    others[-1].requires_grad_()
    outputs = [operator(value, shapes, *others), reference(value, SHAPES, *others)]
    ours, theirs = (torch.autograd.grad(out.sum(), others[-1])[0] for out in outputs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", OPERATORS)
def test_compile_without_graph_break(form: str) -> None:
    operator = OPERATORS[form][0]
    inputs = inputs_of(form)
    compiled = torch.compile(lambda *given: operator(*given) * 2, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), operator(*inputs) * 2)


class Layer(nn.Module):
    """The layer on maps of any size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = MSDeformAttn(16, num_heads=2, num_levels=2, num_points=3)
        nn.init.normal_(self.attention.sampling_offsets.weight, std=0.3)
        nn.init.normal_(self.attention.attention_weights.weight, std=0.3)

    def forward(self, query: Tensor, references: Tensor, near: Tensor, far: Tensor) -> Tensor:
        src = torch.cat([m.flatten(2).transpose(1, 2) for m in (near, far)], 1)
        return self.attention(query, references, src, [(m.shape[2], m.shape[3]) for m in (near, far)])


def layer_inputs(batch: int, queries: int, *sizes: tuple[int, int]) -> tuple[Tensor, ...]:
    torch.manual_seed(queries)
    maps = [torch.randn(batch, 16, *size) for size in sizes]
    return torch.randn(batch, queries, 16), torch.rand(batch, queries, 1, 2), *maps


NAMES = ("query", "references", "near", "far")
DYNAMIC = (
    {0: Dim("batch"), 1: Dim("queries")},
    {0: Dim("batch"), 1: Dim("queries")},
    {0: Dim("batch"), 2: Dim("h0"), 3: Dim("w0")},
    {0: Dim("batch"), 2: Dim("h1"), 3: Dim("w1")},
)
OTHERS = [(2, 7, (6, 10), (3, 5)), (1, 4, (9, 2), (5, 4)), (3, 1, (4, 4), (1, 2))]


@pytest.mark.parametrize("grad", [True, False])
def test_compiled_layer(grad: bool) -> None:
    layer = Layer()
    inputs = layer_inputs(*OTHERS[0])
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        expected, found = layer(*inputs), compiled(*inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        if grad:
            ours, theirs = (
                torch.autograd.grad(out.square().sum(), list(layer.parameters())) for out in (found, expected)
            )
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_exported_layer_is_one_node_and_computes() -> None:
    layer = Layer().eval()
    program = torch.export.export(layer, layer_inputs(*OTHERS[0]), dynamic_shapes=DYNAMIC)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("ovavss.ms_deform_attn_fused.default") == 1
    assert not any("grid_sampler" in target for target in targets)
    for sizes in OTHERS:
        inputs = layer_inputs(*sizes)
        torch.testing.assert_close(program.module()(*inputs), layer(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("body", FallbackBody)
def test_onnx_of_the_layer(body: FallbackBody) -> None:
    layer = Layer().eval()
    program = torch.onnx.export(
        layer, layer_inputs(*OTHERS[0]), dynamo=True, opset_version=20, input_names=NAMES, dynamic_shapes=DYNAMIC,
        custom_translation_table=onnx_translations(), verbose=False,
    )  # fmt: skip
    assert program is not None
    check(program.model_proto, FUSED, body, [(layer_inputs(*sizes), layer(*layer_inputs(*sizes))) for sizes in OTHERS])


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_the_plain_operator() -> None:
    class Plain(nn.Module):
        def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            return plain(value, level_shapes_tensor(SHAPES), locations, weights)

    value, shapes, *others = inputs_of("plain")
    program = torch.onnx.export(
        Plain(), (value, *others), dynamo=True, opset_version=18,
        custom_translation_table=onnx_translations(), verbose=False,
    )  # fmt: skip
    assert program is not None
    expected = plain(value, shapes, *others)
    check(program.model_proto, PLAIN, FallbackBody.GRID_SAMPLE, [((value, *others), expected)], opset=18)


def check(
    model: onnx.ModelProto,
    name: str,
    body: FallbackBody,
    cases: list[tuple[tuple[Tensor, ...], Tensor]],
    opset: int = 20,
) -> None:
    """One node of ours, no GridSample but in its body, and the values of the cases."""
    add_bodies(model, len(SHAPES), body, opset)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node if node.domain == DOMAIN] == [name]
    assert not any(node.op_type == "GridSample" for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs, expected in cases:
        feeds = {i.name: tensor.numpy() for i, tensor in zip(session.get_inputs(), inputs)}
        np.testing.assert_allclose(session.run(None, feeds)[0], expected.detach().numpy(), atol=1e-5)
