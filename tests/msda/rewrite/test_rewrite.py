"""`ovavss rewrite`: values before and after in ONNX Runtime, what is refused and why, and what the command says."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from page_model import page, page_model
from spellings import CHANNELS, HEADS, POINTS, LevelByLevel, PointsSplit, Spelling, Stacked, text_model
from torch.export import Dim
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.errors import UserError
from ovavss.msda.libraries import custom_op_library, session_options
from ovavss.msda.onnx_node import DOMAIN, PLAIN, FallbackBody
from ovavss.msda.rewrite.model import Report, rewrite

Feeds = dict[str, np.ndarray]


def run(model: onnx.ModelProto | Path, feeds: Feeds, options: onnxruntime.SessionOptions | None = None) -> np.ndarray:
    return run_all(model, feeds, options)[0]


def run_all(
    model: onnx.ModelProto | Path, feeds: Feeds, options: onnxruntime.SessionOptions | None = None
) -> list[np.ndarray]:
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def rewritten(model: onnx.ModelProto, body: FallbackBody = FallbackBody.GRID_SAMPLE) -> tuple[onnx.ModelProto, Report]:
    new = onnx.ModelProto.FromString(model.SerializeToString())
    report = rewrite(new, Path(), body)
    onnx.checker.check_model(new, full_check=True)
    return new, report


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def text_feeds(batch: int = 3, queries: int = 5) -> Feeds:
    random = np.random.default_rng(0)
    return {
        "value": random.standard_normal((batch, 40, 2, 8), np.float32),
        "locations": random.uniform(-0.2, 1.2, (batch, queries, 2, 2, 3, 2)).astype(np.float32),
        "weights": random.random((batch, queries, 2, 2, 3), np.float32),
    }


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


# The command -------------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["rewrite", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_command(tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(text_model(), before)
    code, said = command(before, after, "--attention-body", "gather")
    assert code == 0, said
    assert "2: 4 x 7, 3 x 4" in said
    assert "1 deformable attention replaced" in said
    assert "GridSample" not in [node.op_type for node in onnx.load(after).functions[0].node]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.onnx", "before.onnx"]
    np.testing.assert_allclose(run(after, text_feeds()), run(before, text_feeds()), atol=1e-5)


def test_command_on_a_model_with_none(tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(text_model(attributes="align_corners = 1"), before)
    code, said = command(before, after)
    assert code == 0, said
    assert "left as it is: sample0: align_corners is 1; the op knows 0" in said
    assert "holds no deformable attention that could be replaced, and is unchanged" in said
    assert after.read_bytes() == before.read_bytes()


def test_bad_files(tmp_path: Path) -> None:
    good, bad, empty = (tmp_path / name for name in ("good.onnx", "bad.onnx", "empty.onnx"))
    onnx.save(text_model(), good)
    bad.write_bytes(b"no model at all")
    empty.touch()
    for arguments, message in (
        ((tmp_path / "missing.onnx", tmp_path / "out.onnx"), "missing.onnx cannot be read (No such file or directory)"),
        ((bad, tmp_path / "out.onnx"), "bad.onnx is not an ONNX model; give a file that an ONNX exporter wrote"),
        ((empty, tmp_path / "out.onnx"), "empty.onnx is not an ONNX model"),
        ((good, tmp_path / "nowhere" / "out.onnx"), "there is no folder"),
        ((good, tmp_path), "is a folder; give the name of a file"),
        ((good, bad / "out.onnx"), "there is no folder"),
    ):
        code, said = command(*arguments)
        assert code == 2
        assert message in said
        assert len(said.splitlines()) == 1, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "empty.onnx", "good.onnx"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    onnx.save(text_model(), tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", Path("/proc/out.onnx"))
    assert code == 2
    assert "cannot be written" in said


def test_external_data(tmp_path: Path) -> None:
    model = text_model(changes={"wide = Reshape (summed, out_shape)": "wide_ = Reshape (summed, out_shape)\n"
                                "wide = Mul (wide_, big)"})  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.full((16, 1), 3, np.float32), "big"))
    source, elsewhere = tmp_path / "in.onnx", tmp_path / "folder"
    elsewhere.mkdir()
    onnx.save(model, source, save_as_external_data=True, location="in.data", size_threshold=0)
    code, said = command(source, elsewhere / "out.onnx")
    assert code == 2
    assert "keeps weights in files beside it, which OUT would not find; give OUT in" in said
    code, said = command(source, tmp_path / "out.onnx")
    assert code == 0, said
    np.testing.assert_allclose(run(tmp_path / "out.onnx", text_feeds()), run(source, text_feeds()), atol=1e-5)


# A real model ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages(tmp_path: Path) -> None:
    """PP-DocLayoutV3 with its trained layers: 300 rows of (class, score, box, order) and 300 masks."""
    source, feeds = page_model(), page()
    rows, count, masks = run_all(source, feeds)
    assert (rows[:, 1] > 0.5).sum() >= 4  # the title, both columns and the table are seen
    variants = {f"{body}": (body, None) for body in FallbackBody}
    if custom_op_library() is not None:
        variants["custom op"] = (FallbackBody.GRID_SAMPLE, session_options(["CPUExecutionProvider"]))
    for name, (body, options) in variants.items():
        out = tmp_path / f"{body}.onnx"
        code, said = command(source, out, "--attention-body", body)
        assert code == 0, said
        assert "6 deformable attentions replaced" in said
        assert said.count("3: 100 x 100, 50 x 50, 25 x 25") == 6
        model = onnx.load(out)
        assert sum(node.domain == DOMAIN for node in model.graph.node) == 6
        assert "GridSample" not in ops(model)
        new_rows, new_count, new_masks = run_all(out, feeds, options)
        # Rows are sorted by score, and rows of equal score may change places.
        order, new_order = (np.lexsort(np.round(r[:, [4, 3, 2, 0]]).T) for r in (rows, new_rows))
        rows_sorted, new_sorted = rows[order], new_rows[new_order]
        difference = np.abs(rows_sorted - new_sorted).max(0) / np.abs(rows).max(0)
        print(f"{name}: largest difference of each column, of its largest value: {difference}")
        assert (difference < 1e-4).all(), name
        assert (new_count == count).all()
        assert (masks[order] != new_masks[new_order]).mean() < 1e-5
