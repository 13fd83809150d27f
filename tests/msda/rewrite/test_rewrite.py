"""`ovavss rewrite`: values before and after in ONNX Runtime, what is refused and why, and what the command says."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from running import ops, rewritten, run, text_feeds
from spellings import CHANNELS, HEADS, POINTS, LevelByLevel, PointsSplit, Spelling, Stacked, text_model
from torch.export import Dim

from ovavss.errors import UserError
from ovavss.msda.libraries import custom_op_library, session_options
from ovavss.msda.onnx_node import PLAIN, FallbackBody
from ovavss.msda.rewrite.model import rewrite

# What exporters write --------------------------------------------------------------------------------------------


def tensors(batch: int, queries: int, *sizes: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(batch)
    maps = [torch.randn(batch, HEADS * CHANNELS, *size) for size in sizes]
    locations = torch.rand(batch, queries, HEADS, len(sizes), POINTS, 2) * 1.4 - 0.2
    return (*maps, locations, torch.rand(batch, queries, HEADS, len(sizes), POINTS))


NAMES = ("fine", "coarse", "locations", "weights")
CASES = [
    (spelling, dynamic, batch)
    for spelling, (dynamic, batch) in product((LevelByLevel, Stacked, PointsSplit), ((False, 2), (False, 1), (True, 2)))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spelling", "dynamic", "batch"), CASES)
def test_exported(spelling: type[Spelling], dynamic: bool, batch: int) -> None:
    example = tensors(batch, 7, (6, 10), (3, 5))
    first, several = Dim("batch"), {0: Dim("batch"), 1: Dim("queries")}
    shapes = (
        {0: first, 2: Dim("h0"), 3: Dim("w0")},
        {0: first, 2: Dim("h1"), 3: Dim("w1")},
        several,
        several,
    )
    program = torch.onnx.export(
        spelling().eval(),
        example,
        dynamo=True,
        opset_version=18 if spelling is Stacked else 20,
        input_names=NAMES,
        dynamic_shapes=shapes if dynamic else None,
        verbose=False,
    )
    assert program is not None
    before = program.model_proto
    others = [example] + ([tensors(1, 4, (9, 2), (5, 4)), tensors(3, 1, (4, 4), (1, 2))] if dynamic else [])
    for body in FallbackBody:
        after, report = rewritten(before, body)
        assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, HEADS, POINTS)]
        assert not report.left
        assert ops(after).count(PLAIN) == 1
        assert "GridSample" not in ops(after)
        # The op takes the model's own tensors: nothing is moved before it or behind it.
        assert "Transpose" not in ops(after)[ops(after).index(PLAIN) :]
        for inputs in others:
            feeds = {name: tensor.numpy() for name, tensor in zip(NAMES, inputs)}
            np.testing.assert_allclose(run(after, feeds), run(before, feeds), atol=1e-5)


# Written by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", FallbackBody)
@pytest.mark.parametrize("opset", [16, 17, 18, 20, 22])
def test_opsets(opset: int, body: FallbackBody) -> None:
    mode = "linear" if opset >= 20 else "bilinear"
    before = text_model(opset, f'mode = "{mode}"')
    after, report = rewritten(before, body)
    assert len(report.replaced) == 1
    assert ops(after) == [PLAIN]
    assert [o.version for o in after.functions[0].opset_import] == [opset]
    for batch, queries in ((3, 5), (1, 1)):
        feeds = text_feeds(batch, queries)
        np.testing.assert_allclose(run(after, feeds), run(before, feeds), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        # Grids that are given, not computed from locations.
        {"doubled = Mul (locations, two)": "", "grids = Sub (doubled, one)": "grids = Identity (locations)"},
        # Another layout of the value: heads before tokens.
        {
            "float[B, 40, 2, 8] value": "float[B, 2, 40, 8] value",
            "Split <axis = 1> (value, parts)": "Split <axis = 2> (value, parts)",
            "flat0 = Reshape (value0, flat)": "flat0 = Transpose <perm = [0, 2, 1, 3]> (value0)",
            "flat1 = Reshape (value1, flat)": "flat1 = Transpose <perm = [0, 2, 1, 3]> (value1)",
            "turned0 = Transpose <perm = [0, 2, 1]> (flat0)": "turned0 = Transpose <perm = [0, 2, 3, 1]> (flat0)",
            "turned1 = Transpose <perm = [0, 2, 1]> (flat1)": "turned1 = Transpose <perm = [0, 2, 3, 1]> (flat1)",
        },
        # The sum is not moved to [B, Q, M * D].
        {
            "=> (float[B, Q, 16] out)": "=> (float[N, 8, Q] out)",
            "wide = Reshape (summed, out_shape)": "",
            "out = Transpose <perm = [0, 2, 1]> (wide)": "out = Identity (summed)",
        },
        # The other kind of slices.
        {
            "value0, value1 = Split <axis = 1> (value, parts)": """
                zero1 = Constant <value_ints = [0]> ()
                split1 = Constant <value_ints = [28]> ()
                end1 = Constant <value_ints = [9223372036854775807]> ()
                value0 = Slice (value, zero1, split1, head)
                value1 = Slice (value, split1, end1, head)"""
        },
    ],
)
def test_layouts(changes: dict[str, str]) -> None:
    before = text_model(changes=changes)
    after, report = rewritten(before)
    assert [(o.levels, o.heads, o.points) for o in report.replaced] == [(2, 2, 3)]
    feeds = text_feeds()
    if "float[B, 40, 2, 8] value" in changes:
        feeds["value"] = np.ascontiguousarray(feeds["value"].transpose(0, 2, 1, 3))
    np.testing.assert_allclose(run(after, feeds), run(before, feeds), atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "changes", "reason"),
    [
        ("align_corners = 1", {}, "align_corners is 1"),
        ('padding_mode = "border"', {}, "padding is border"),
        ('mode = "nearest"', {}, "mode is nearest"),
        (
            "align_corners = 0",
            {"weighted = Mul (samples, shares)": "weighted = Add (samples, shares)"},
            "its samples go into an Add, not into a product",
        ),
        (
            "align_corners = 0",
            {"int64[2] parts = {28, 12}": "int64[2] parts = {12, 28}", "value0, value1": "value1, value0"},
            "not consecutive parts",
        ),
        (
            "align_corners = 0",
            {
                "float[B, 40, 2, 8] value": "float[B, 45, 2, 8] value",
                "int64[2] parts = {28, 12}": "int64[3] parts = {28, 12, 5}",
                "value0, value1": "value0, value1, unused",
            },
            "not shown to fill",
        ),
        (
            "align_corners = 0",
            {"place1 = Gather <axis = 3> (grids, second)": "place1 = Gather <axis = 3> (grids, first)"},
            "not the entries of one axis, in the order",
        ),
        (
            "align_corners = 0",
            {"summed = ReduceSum <keepdims = 0> (weighted, last)": "summed = ReduceSum <keepdims = 0> (weighted, head)",
             "=> (float[B, Q, 16] out)": "=> (float[X, Y, Z] out)",
             "out_shape)": "flat)", },
            "the sum is not over all levels and points",
        ),
        (
            "align_corners = 0",
            {
                "shares_by_head = Transpose <perm = [0, 2, 1, 3, 4]> (weights)":
                    "shares_by_head = Transpose <perm = [0, 1, 2, 3, 4]> (weights)",
                "float[B, Q, 2, 2, 3] weights": "float[B, 2, 2, 3, Q] weights",
            },
            "its weights are not shown to differ between batch entries and heads",
        ),
        (
            "align_corners = 0",
            {"=> (float[B, Q, 16] out)": "=> (float[B, Q, 16] out, float[N, 8, Q, 3] sample0)"},
            "used in several places, or are an output",
        ),
    ],
)  # fmt: skip
def test_refused(attributes: str, changes: dict[str, str], reason: str) -> None:
    before = text_model(attributes=attributes, changes=changes)
    after, report = rewritten(before)
    assert not report.replaced
    assert after == before
    assert [refused.node for refused in report.left] == ["sample0", "sample1"]
    assert any(re.search(reason, refused.reason) for refused in report.left), report.left


def test_what_our_kernels_do_not_take() -> None:
    changes = {
        "float[B, 40, 2, 8] value": "float[B, 40, 4, 4] value",
        "{-1, 8, 4, 7}": "{-1, 4, 4, 7}",
        "{-1, 8, 3, 4}": "{-1, 4, 3, 4}",
        "locations, float[B, Q, 2, 2, 3] weights": "locations, float[B, Q, 4, 2, 3] weights",
        "float[B, Q, 2, 2, 3, 2] locations": "float[B, Q, 4, 2, 3, 2] locations",
    }
    _, report = rewritten(text_model(changes=changes))
    assert {refused.reason for refused in report.left} == {"its heads have 4 channels; our kernels take multiples of 8"}


def test_a_grid_sample_that_is_no_attention() -> None:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], name="warp")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2, 4, 4]), ("grid", [1, 3, 3, 2]), ("y", [1, 2, 3, 3]))
    ]
    graph = helper.make_graph([node], "warp", values[:2], values[2:])
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    after, report = rewritten(before)
    assert after == before
    assert [(refused.node, refused.reason) for refused in report.left] == [
        ("warp", "its samples are used in several places, or are an output")
    ]


def test_double_stays() -> None:
    text = {f"float[B, {rest}": f"double[B, {rest}" for rest in ("40", "Q, 2, 2, 3, 2", "Q, 2, 2, 3]", "Q, 16")}
    text |= {"float two": "double two", "float one": "double one"}
    _, report = rewritten(text_model(changes=text))
    assert {refused.reason for refused in report.left} == {"its maps are double; the op computes in float32"}


def test_twice() -> None:
    once, _ = rewritten(text_model())
    again, report = rewritten(once)
    assert again == once
    assert not report.replaced
    assert not report.left


def test_old_opset() -> None:
    model = text_model()
    model.opset_import[0].version = 15
    with pytest.raises(UserError, match=r"opset 15; GridSample is ONNX's own from opset 16 on: export it again"):
        rewrite(model, Path(), FallbackBody.GRID_SAMPLE)


def test_with_the_custom_op() -> None:
    if custom_op_library() is None:
        pytest.skip("the ONNX Runtime operator is not built: run `make plugins`")
    before = text_model()
    after, _ = rewritten(before)
    feeds = text_feeds()
    got = run(after, feeds, session_options(["CPUExecutionProvider"]))
    np.testing.assert_allclose(got, run(before, feeds), atol=1e-5)
