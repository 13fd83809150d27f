"""The command `ovavss rewrite`: what it writes and says, bad files, weights beside the model, and a real model."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from page_model import page, page_model
from running import ops, run, run_all, text_feeds
from spellings import text_model
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.msda.libraries import custom_op_library, session_options
from ovavss.msda.onnx_node import DOMAIN, FallbackBody
from ovavss.msda.rewrite.check import differences, reference


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
    assert "left as it is: sample0 and sample1: align_corners is 1; the op knows 0" in said
    assert "holds no deformable attention that could be replaced, and is unchanged; it has 2 GridSample nodes" in said
    assert after.read_bytes() == before.read_bytes()


def with_a_warp() -> onnx.ModelProto:
    """Attention, and a GridSample that is none."""
    return text_model(
        changes={
            "=> (float[B, Q, 16] out)": "=> (float[B, Q, 16] out, float[N, 8, X, Y] warped)",
            "out = Transpose <perm = [0, 2, 1]> (wide)": """out = Transpose <perm = [0, 2, 1]> (wide)
                warped = GridSample <padding_mode = "border"> (map1, grid0)""",
        }
    )


def test_report(tmp_path: Path) -> None:
    onnx.save(with_a_warp(), tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx", "--report")
    assert code == 0, said
    lines = said.splitlines()
    assert "taken: sample0: by out" in lines
    assert "taken: sample1: by out" in lines
    assert "left as it is: warped: its padding is border; the op knows zeros" in lines
    assert lines[-1].endswith("1 deformable attention replaced; 1 of 3 GridSample nodes left")


def test_many_that_are_left_are_counted(tmp_path: Path) -> None:
    model = with_a_warp()
    for number in range(6):
        for field in (model.graph.node, model.graph.output):
            field.append(field[-1])
        model.graph.node[-1].output[0] = model.graph.output[-1].name = f"warped{number}"
    onnx.save(model, tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert code == 0, said
    assert "left as it is: warped, warped0, warped1 and 4 more: its padding is border; the op knows zeros" in said
    assert "; 7 of 9 GridSample nodes left" in said


def test_check(tmp_path: Path) -> None:
    onnx.save(text_model(), tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx", "--check", "--size", "Q=7", "--size", "B=3")
    assert code == 0, said
    assert "100.00 %" in said
    assert "1 deformable attention replaced" in said
    assert {d.variant for d in differences(reference(tmp_path / "in.onnx", {"B": 3}), tmp_path / "out.onnx")} == (
        {"local function", "custom operator"} if custom_op_library() else {"local function"}
    )


def test_check_finds_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriting that is wrong: its value lies elsewhere."""
    from ovavss.msda.rewrite import replace

    onnx.save(text_model(), tmp_path / "in.onnx")
    write = replace._Writer.write

    def shifted(self: replace._Writer, occurrence: replace.Occurrence) -> None:
        moved = dataclasses.replace(occurrence.locations, offset=occurrence.locations.offset + 0.1)
        write(self, dataclasses.replace(occurrence, locations=moved))

    monkeypatch.setattr(replace._Writer, "write", shifted)
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx", "--check")
    assert code == 2
    assert "output 'out' of the rewritten model differs from the original's" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "Q=7"], "--size is for --check alone"),
        (["--check", "--size", "Q"], "--size Q is not NAME=SIZE"),
        (["--check", "--size", "Q=0"], "--size Q=0 is not NAME=SIZE"),
        (["--check", "--size", "Q=7", "--size", "Q=8"], "--size gives Q twice"),
        (["--check", "--size", "width=7"], "the model has no dynamic axis 'width'; its dynamic axes are: B, Q"),
    ],
)
def test_bad_options(options: list[str], message: str, tmp_path: Path) -> None:
    onnx.save(text_model(), tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx", *options)
    assert code == 2
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_check_of_a_model_that_does_not_run(tmp_path: Path) -> None:
    model = text_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((5, 7), np.float32), "odd"))
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["odd", "odd"], ["never"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["never", "never"], ["used"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("used", TensorProto.FLOAT, ["X", "Y"]))
    onnx.save(model, tmp_path / "in.onnx")
    code, said = command(tmp_path / "in.onnx", tmp_path / "out.onnx", "--check")
    assert code == 2
    assert "does not run on random inputs (value [2, 40, 2, 8], " in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


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


# Weights beside the model ------------------------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model that keeps its weights, the sizes of its levels among them, in the file in.data beside it."""
    model = text_model(changes={"wide = Reshape (summed, out_shape)": "wide_ = Reshape (summed, out_shape)\n"
                                "wide = Mul (wide_, big)"})  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.full((16, 1), 3, np.float32), "big"))
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    return folder / "in.onnx"


def as_hub_cache(model: Path) -> Path:
    """The files of a model's folder as links into a folder of blobs."""
    blobs, snapshot = model.parent / "blobs", model.parent / "snapshots" / "0a1b2c"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate((model.name, "in.data")):
        (model.parent / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    return snapshot / model.name


@pytest.mark.parametrize("layout", ["plain", "elsewhere", "hub cache", "hard link", "link to the weights"])
def test_weights_beside_the_model(beside: Path, tmp_path: Path, layout: str) -> None:
    expected = run(beside, text_feeds())
    source, out = beside, beside.with_name("out.onnx")
    match layout:
        case "elsewhere":
            out = tmp_path / "out.onnx"
        case "hub cache":
            source = as_hub_cache(beside)
            out = source.with_name("out.onnx")
        case "hard link":
            os.link(beside.with_name("in.data"), tmp_path / "other")
        case "link to the weights":
            beside.with_name("in.data").rename(tmp_path / "weights")
            beside.with_name("in.data").symlink_to(tmp_path / "weights")
    code, said = command(source, out)
    assert code == 0, said
    assert "1 deformable attention replaced" in said
    np.testing.assert_allclose(run(out, text_feeds()), expected, atol=1e-5)
    copied = layout not in ("plain", "hard link")
    assert out.with_name("out.onnx.data").exists() == copied


def test_a_model_without_attention_takes_its_weights_along(beside: Path, tmp_path: Path) -> None:
    model = onnx.load(beside, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GridSample":
            node.attribute.append(onnx.helper.make_attribute("align_corners", 1))
            del node.attribute[0]
    beside.write_bytes(model.SerializeToString())
    code, said = command(beside, tmp_path / "out.onnx")
    assert code == 0, said
    assert "is unchanged" in said
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", text_feeds()), run(beside, text_feeds()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "in.data is missing or not a file; put it beside the model"),
        ("folder", "in.data is missing or not a file"),
        ("dangling", "in.data is a link to a file that is missing"),
        ("pointer", "in.data is a Git LFS pointer; fetch it with `git lfs pull`"),
        ("short", "in.data is cut short (20 bytes, but "),
        ("outside", "../in.data lies outside its folder"),
        ("model pointer", "in.onnx is a Git LFS pointer"),
    ],
)
def test_bad_weights_beside_the_model(beside: Path, damage: str, message: str) -> None:
    weights = beside.with_name("in.data")
    content = weights.read_bytes()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    weights.unlink()
    match damage:
        case "folder":
            weights.mkdir()
        case "dangling":
            weights.symlink_to("nowhere")
        case "pointer":
            weights.write_text(pointer)
        case "short":
            weights.write_bytes(content[:20])
        case "model pointer":
            beside.write_text(pointer)
        case "outside":
            (beside.parent.parent / "in.data").write_bytes(content)
            model = onnx.load(beside, load_external_data=False)
            for tensor in model.graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    tensor.external_data[0].value = "../in.data"
            beside.write_bytes(model.SerializeToString())
    code, said = command(beside, beside.with_name("out.onnx"))
    assert code == 2
    assert message in said
    assert len(said.splitlines()) == 1, said
    assert not list(beside.parent.glob("*out.onnx*"))


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
