"""Every file that the loader refuses, in one sentence, without running code and with nothing loaded."""

import functools
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_set import manifest
from rich.console import Console
from safetensors.torch import save_file
from small_models import SMALL, SMALL_SWIN, Modules, copied, modules, our_state, pickled, same, saved
from torch import Tensor, nn

from ovavss.checkpoints import recognize
from ovavss.checkpoints.loader import (
    Checkpoint,
    CheckpointMismatch,
    Kind,
    detect_preset,
    load_into,
    read_checkpoint,
    save_checkpoint,
    to_upstream_state,
)
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import (
    MaskDecoderConfig,
)
from ovavss.models.ov_avss.usslm import USSLM


def refused(action: Callable[[], object], *parts: str) -> str:
    """The one sentence with which the action is refused."""
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message and not message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("name", "part"),
    [("absent.pth", "no checkpoint"), ("folder.pth", "is a folder"), ("a.onnx", "name must end in"), ("a", "must end")],
)
def test_not_a_checkpoint_file(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "a.onnx").write_bytes(b"x")
    (tmp_path / "a").write_bytes(b"x")
    refused(lambda: read_checkpoint(tmp_path / name), str(tmp_path / name), part)


@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.999])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float) -> None:
    path, state = tmp_path / f"a{suffix}", {f"backbone.norm{i}.weight": torch.rand(999) for i in range(4)}
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pkl":
        pickled(path, {"model": {name: tensor.numpy() for name, tensor in state.items()}})
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=suffix == ".pth")
    assert len(read_checkpoint(path).tensors) == 4
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * keep)])
    refused(lambda: read_checkpoint(path), str(path), "cut short", "fetch it again")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_something_else_under_the_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<!doctype html><html>not found</html>" * 9)
    refused(lambda: read_checkpoint(path), str(path), f"not a {suffix} file")


@pytest.mark.parametrize("contents", [{}, {"model": {}}, {"model": {"backbone.norm0.weight": "text"}}])
def test_empty_state_dict(tmp_path: Path, contents: dict) -> None:
    for path in (saved(tmp_path / "a.pth", contents), pickled(tmp_path / "a.pkl", contents)):
        refused(lambda path=path: read_checkpoint(path), str(path), "holds no weights")


@pytest.mark.parametrize("contents", [[torch.ones(2)], 3, {1: torch.ones(2)}])
def test_no_state_dict(tmp_path: Path, contents: object) -> None:
    path = saved(tmp_path / "a.pth", contents)
    refused(lambda: read_checkpoint(path), str(path), "no state dict")


def test_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {f"layer{i}.0.conv1.weight": torch.ones(1) for i in range(9)})
    refused(lambda: read_checkpoint(path), str(path), "layer0.0.conv1.weight, layer1", "…")


class Trap:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def traps(target: Path) -> dict[str, Trap]:
    return {
        "io.open": Trap(open, str(target), "w"),
        "posix.system": Trap(os.system, f"touch '{target}'"),
        "builtins.eval": Trap(eval, f"open({str(target)!r}, 'w')"),
        "functools.partial": Trap(functools.partial, open, str(target), "w"),
    }


@pytest.mark.parametrize("name", ["io.open", "posix.system", "builtins.eval", "functools.partial"])
@pytest.mark.parametrize("form", ["zip", "old", "plain2", "plain4", "pkl2", "pkl4", "pkl5"])
def test_pickled_code_never_runs(tmp_path: Path, name: str, form: str) -> None:
    target = tmp_path / "made by the trap"
    contents = {"model": {"backbone.norm0.weight": np.ones(2)}, "extra": traps(target)[name]}
    path = tmp_path / ("a.pkl" if form.startswith("pkl") else "a.pth")
    if form in ("zip", "old"):
        torch.save({"model": {}, "extra": traps(target)[name]}, path, _use_new_zipfile_serialization=form == "zip")
    elif form.startswith("pkl"):
        pickled(path, contents, int(form[-1]))
    else:
        pickled(path, {"extra": traps(target)[name]}, int(form[-1]))
    message = refused(lambda: read_checkpoint(path), str(path), "pickled code", "refused")
    # Old protocols write `__builtin__` for `builtins`; `partial` goes by the first name that it needs.
    assert name.split(".")[1] in message or name == "functools.partial"
    assert not target.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_code(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    refused(lambda: read_checkpoint(path), str(path), "pickled code", "TorchScript")


@pytest.mark.parametrize(
    ("array", "part"),
    [(np.array([{}, []], object), "'O8'"), (np.array(["text"]), "'U4'"), (np.zeros(2, "i4,f4"), "'V8'")],
)
def test_arrays_of_other_things(tmp_path: Path, array: np.ndarray, part: str) -> None:
    path = pickled(tmp_path / "a.pkl", {"model": {"backbone.norm0.weight": array}})
    refused(lambda: read_checkpoint(path), str(path), part, "refused")


def test_forged_array_states(tmp_path: Path) -> None:
    """Pickles that misuse the allowed names: wrong sizes, codecs, states; no exception but ours gets out."""
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR"
    forged = [
        reconstruct + b"(I1\n(I9\nt" + dtype + b"I00\nS'abcd'\ntb",
        reconstruct + b"(I1\n(I-1\nt" + dtype + b"I00\nS'abcd'\ntb",
        reconstruct + b"(I1\n(I1\nt" + dtype + b"I00\n(lI1\natb",
        dtype + b"(I3\nS'?'\nNNNI-1\nI-1\nI63\ntb",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR",
        b"cnumpy\nndarray\n(I1\ntR",
        b"cnumpy\ndtype\n}S'x'\nI1\nsb",
        b"ccollections\nOrderedDict\n}S'x'\nI1\nsb",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR",
        b"c__builtin__\nbytes\n(I999\ntR",
        b"I1\nQ",
    ]
    path = tmp_path / "a.pkl"
    for code in forged:
        path.write_bytes(b"(dS'model'\n(dS'backbone.norm0.weight'\n" + code + b"ss.")
        refused(lambda: read_checkpoint(path), str(path))


def test_wrong_preset(tmp_path: Path, wanted: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"r50": our_state(modules(0)), "swin_b": our_state({**modules(0), "usslm": USSLM(SMALL_SWIN)})}
    shapes = {name: {key: tuple(tensor.shape) for key, tensor in state.items()} for name, state in small.items()}
    monkeypatch.setattr(recognize, "PRESETS", small)
    monkeypatch.setattr(recognize, "_preset_shapes", shapes.__getitem__)
    swin = {"usslm": USSLM(SMALL_SWIN), "audio_encoder": wanted["audio_encoder"]}
    published = saved(tmp_path / "swin.pth", {"model": to_upstream_state(swin)})
    own = tmp_path / "own.safetensors"
    save_checkpoint(own, swin, "swin_b")
    parts = modules(2)
    before = copied(parts)
    for path in (published, own):
        checkpoint = read_checkpoint(path)
        assert detect_preset(checkpoint) == "swin_b"
        says = f"{path} holds the weights of preset 'swin_b', but the preset here is 'r50'; pass --preset swin_b"
        for partial in (False, True):
            assert refused(functools.partial(load_into, parts, checkpoint, allow_partial=partial)) == says
        # What both presets share can be had from either.
        assert load_into({"audio_encoder": modules(3)["audio_encoder"]}, checkpoint).ok
    assert same(our_state(parts), before)

    upstream = read_checkpoint(saved(tmp_path / "r50.pth", {"model": to_upstream_state(wanted)}))
    refused(lambda: load_into(swin, upstream), "preset 'r50', but the preset here is 'swin_b'; pass --preset r50")


def test_wrong_preset_by_the_files_own_word(tmp_path: Path, wanted: Modules) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"usslm": wanted["usslm"]}, "small")
    checkpoint = read_checkpoint(path)
    other = {"usslm": USSLM(replace(SMALL, mask_decoder=MaskDecoderConfig(num_queries=5, num_layers=1, ffn_dim=8)))}
    refused(lambda: load_into(other, checkpoint, preset="five"), "'small'", "'five'", "--preset small")
    # Only an explanation: weights that fit are loaded.
    assert load_into({"usslm": modules(2)["usslm"]}, checkpoint, preset="five").ok


@pytest.mark.parametrize(("golden", "preset"), [("r50", "r50"), ("swinb", "swin_b")])
def test_preset_of_the_published_names(tmp_path: Path, golden: str, preset: str) -> None:
    state = {name: torch.empty(1).expand(e["shape"]) for name, e in manifest(golden).items()}
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", {"model": state}))
    assert detect_preset(checkpoint) == preset and not checkpoint.unmapped
    for shape, expected in (((768, 512), "r50"), ((1024, 768), "swin_b"), ((7, 512), None)):
        clip = Checkpoint(Kind.OURS, {"clip.visual.proj": torch.empty(1).expand(shape)}, [], [], tmp_path)
        assert detect_preset(clip) == expected
    deeper = {"usslm.backbone.stages.res4.22.conv1.conv.weight": torch.ones(1)}
    assert detect_preset(Checkpoint(Kind.OURS, deeper, [], [], tmp_path)) is None


def broken(parts: Modules) -> dict[str, Tensor]:
    """Four names missing, two unexpected, one shape_mismatch."""
    gone = "sem_seg_head.predictor.transformer_ffn_layers.0.linear"
    state = {name: tensor for name, tensor in to_upstream_state(parts).items() if not name.startswith(gone)}
    state["sem_seg_head.predictor.class_embed.bias"] = torch.ones(3)
    return state | {
        "sem_seg_head.predictor.[bold]odd": torch.ones(1),
        "sem_seg_head.predictor.decoder_norm.x": torch.ones(1),
    }


def test_mismatch_loads_nothing_and_shows_all(tmp_path: Path, wanted: Modules) -> None:
    path = saved(tmp_path / "a.pth", {"model": broken(wanted)})
    parts = modules(2, clip=True)
    before = copied(parts)
    with pytest.raises(CheckpointMismatch) as error:
        load_into(parts, read_checkpoint(path), source=path)
    assert same(our_state(parts), before)
    message, report = str(error.value), error.value.report
    assert message.startswith(f"{path} does not fit the model: 4 missing (usslm.mask_decoder.layers.0.ffn.linear1")
    assert "2 unexpected (sem_seg_head.predictor.[bold]odd, usslm.mask_decoder.norm.x)" in message
    assert "1 shape_mismatch (usslm.mask_decoder.sound_head.bias [3] instead of [2])" in message
    assert "--partial" in message and "\n" not in message

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    for name in (*report.missing, *report.unexpected, "usslm.mask_decoder.sound_head.bias", "[3]", "[2]"):
        assert name in text, name
    assert report.table().row_count == 7


def test_long_tables_are_whole(tmp_path: Path, wanted: Modules) -> None:
    state = {name: t for name, t in to_upstream_state(wanted).items() if name.startswith("backbone.")}
    with pytest.raises(CheckpointMismatch) as error:
        load_into(modules(2), read_checkpoint(saved(tmp_path / "a.pth", state)))
    report = error.value.report
    assert report.table().row_count == len(report.missing) > 50
    assert len(str(error.value)) < 500


def test_partial_loads_what_fits(tmp_path: Path, wanted: Modules) -> None:
    parts = modules(2, clip=True)
    before, source = copied(parts), our_state(wanted)
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", {"model": broken(wanted)}))
    report = load_into(parts, checkpoint, allow_partial=True)
    assert not report.ok and len(report.missing) == 4
    kept = {*report.missing, "usslm.mask_decoder.sound_head.bias"}
    for name, tensor in our_state(parts).items():
        assert torch.equal(tensor, (before if name in kept else source)[name]), name


def test_nothing_for_these_modules(tmp_path: Path, wanted: Modules) -> None:
    path = saved(tmp_path / "vggish.pth", wanted["audio_encoder"].vggish.state_dict())
    for partial in (False, True):
        load = functools.partial(load_into, {"usslm": wanted["usslm"]}, read_checkpoint(path), allow_partial=partial)
        refused(load, str(path), "VGGish", "none for usslm")


def test_save_refuses(tmp_path: Path, wanted: Modules) -> None:
    parts = {"audio_encoder": wanted["audio_encoder"]}
    refused(lambda: save_checkpoint(tmp_path / "a.pth", parts, "r50"), "a.pth", ".safetensors")
    refused(lambda: save_checkpoint(tmp_path / "no" / "a.safetensors", parts, "r50"), "cannot write", "folder")
    (tmp_path / "b.safetensors").mkdir()
    refused(lambda: save_checkpoint(tmp_path / "b.safetensors", parts, "r50"), "cannot write")
    assert [file.name for file in tmp_path.iterdir()] == ["b.safetensors"]


def test_export_of_an_ablation_is_refused() -> None:
    extra = nn.ModuleDict({"mask_decoder": nn.ModuleDict({"concat_proj": nn.Linear(2, 2)})})
    refused(lambda: to_upstream_state({"usslm": extra}), "concat_proj.weight", ".safetensors")


def test_meta_modules_are_a_programming_error(tmp_path: Path, wanted: Modules) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", wanted["audio_encoder"].vggish.state_dict()))
    encoder = modules(2)["audio_encoder"].to("meta")
    with pytest.raises(ValueError, match="meta"):
        load_into({"audio_encoder": encoder}, checkpoint)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, number: float) -> None:
    made = modules(0)
    save_checkpoint(tmp_path / "good.safetensors", made, SMALL.name)
    name, tensor = next((n, t) for n, t in made["usslm"].state_dict().items() if t.is_floating_point())
    with torch.no_grad():
        tensor.view(-1)[0] = number
    save_checkpoint(tmp_path / "bad.safetensors", made, SMALL.name)
    bad = read_checkpoint(tmp_path / "bad.safetensors")
    refused(lambda: load_into(modules(1), bad), "bad.safetensors", f"usslm.{name}", "NaN or infinity")
