"""Every kind of checkpoint file into small models, and one r50 of full size."""

import collections
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_set import manifest
from safetensors.torch import load_file, save_file
from small_models import Modules, copied, modules, our_state, pickled, same, saved
from torch import nn

from ovavss.checkpoints.key_map import to_upstream
from ovavss.checkpoints.loader import (
    CheckpointMismatch,
    Kind,
    load_into,
    read_checkpoint,
    save_checkpoint,
    to_upstream_state,
)
from ovavss.models.ov_avss.presets import (
    PRESETS,
)
from ovavss.models.ov_avss.usslm import USSLM


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_published_file(tmp_path: Path, wanted: Modules, prefix: str, zipped: bool) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in to_upstream_state(wanted).items()}
    constants = {"criterion.empty_weight": torch.ones(2), "clip_adapter.pixel_mean": torch.ones(1, 3, 1, 1)}
    state |= {f"{prefix}{name}": tensor for name, tensor in constants.items()}
    optimizer = torch.optim.AdamW(wanted["usslm"].parameters()).state_dict()
    contents = {"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 7}
    path = tmp_path / "model.pth"
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)

    checkpoint = read_checkpoint(path)
    assert checkpoint.kind is Kind.UPSTREAM
    assert not checkpoint.unmapped and sorted(checkpoint.ignored) == sorted(constants)
    parts = modules(2, clip=True)
    report = load_into(parts, checkpoint, source=path)
    assert report.ok and not report.fresh and not report.not_asked
    assert sorted(report.loaded) == sorted(our_state(parts))
    assert same(our_state(parts), our_state(wanted))


def test_vggish_file(tmp_path: Path, wanted: Modules) -> None:
    state = wanted["audio_encoder"].vggish.state_dict()
    checkpoint = read_checkpoint(saved(tmp_path / "vggish.pth", state))
    assert checkpoint.kind is Kind.VGGISH
    parts = modules(2)
    before = copied(parts)
    report = load_into({"audio_encoder": parts["audio_encoder"]}, checkpoint)
    assert len(report.loaded) == 4
    assert same(parts["audio_encoder"].state_dict(), wanted["audio_encoder"].state_dict())
    assert torch.equal(before["usslm.audio_proj.layers.0.weight"], parts["usslm"].audio_proj.layers[0].weight)


def mask2former_state(parts: Modules) -> dict[str, np.ndarray]:
    """What a COCO file holds: no audio, 81 classes, some names in their older form."""
    hears = ("vl_layer", "audio", "v2a", "a2a", "clip_adapter")
    state = {}
    for name, tensor in to_upstream_state(parts).items():
        if not any(word in name for word in hears):
            name = name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query")
            state[name] = tensor.numpy()
    state["sem_seg_head.predictor.class_embed.weight"] = np.ones((81, 32), np.float32)
    state["sem_seg_head.predictor.class_embed.bias"] = np.ones(81, np.float32)
    return state | {"criterion.empty_weight": np.ones(81, np.float32)}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mask2former_file(tmp_path: Path, wanted: Modules, protocol: int) -> None:
    contents = {"model": mask2former_state(wanted), "__author__": "someone", "matching_heuristics": True}
    checkpoint = read_checkpoint(pickled(tmp_path / "model_final.pkl", contents, protocol))
    assert checkpoint.kind is Kind.MASK2FORMER
    parts = modules(2)
    before, source = copied(parts), our_state(wanted)
    report = load_into(parts, checkpoint)
    assert report.ok and report.ignored == ["criterion.empty_weight"]
    assert [(e.name, e.expected, e.found) for e in report.dropped] == [
        ("usslm.mask_decoder.sound_head.weight", (2, 32), (81, 32)),
        ("usslm.mask_decoder.sound_head.bias", (2,), (81,)),
    ]
    for name, tensor in our_state(parts).items():
        assert torch.equal(tensor, (source if name in report.loaded else before)[name]), name
    hears = ("audio", "early_fusion", "sound_head")
    assert set(report.fresh) == {name for name in before if any(word in name for word in hears)}
    assert set(report.loaded) | set(report.fresh) == set(before)


def test_mask2former_with_vggish(tmp_path: Path, wanted: Modules) -> None:
    mask2former = read_checkpoint(pickled(tmp_path / "a.pkl", {"model": mask2former_state(wanted)}))
    vggish = wanted["audio_encoder"].vggish.state_dict()
    parts = modules(2)
    report = load_into(parts, [mask2former, read_checkpoint(saved(tmp_path / "b.pth", vggish))])
    assert not any(name.startswith("audio_encoder") for name in report.fresh)
    assert torch.equal(parts["audio_encoder"].vggish.embeddings[0].weight, vggish["embeddings.0.weight"])

    # A VGGish file with a hole is not excused by the Mask2Former file beside it.
    del vggish["embeddings.0.bias"]
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(audio_encoder.vggish.embeddings.0.bias\)"):
        load_into(parts, [mask2former, read_checkpoint(saved(tmp_path / "c.pth", vggish))])


def test_mask2former_part_that_it_should_have(tmp_path: Path, wanted: Modules) -> None:
    state = mask2former_state(wanted)
    del state["sem_seg_head.mask_features.bias"]
    state["sem_seg_head.predictor.static_query.weight"] = np.ones((200, 32), np.float32)
    with pytest.raises(CheckpointMismatch) as error:
        load_into(modules(2), read_checkpoint(pickled(tmp_path / "a.pkl", {"model": state})))
    missing = {"usslm.pixel_decoder.mask_features.bias", "usslm.mask_decoder.query_feat.weight"}
    assert set(error.value.report.missing) == missing


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_arrays(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "double": np.array([[0.5, 1e-3]]),
        "half": np.arange(3, dtype=np.float16),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">f4"),
        "strided": np.arange(8, dtype=np.float32)[::2],
        "scalar": np.float32(2.5),
        "point": np.array(3.0, np.float32),
        "none": np.zeros((0, 2), np.float32),
        "whole": np.arange(3),
        "flags": np.array([True, False]),
    }
    contents = {f"backbone.norm{i}.x": value for i, value in enumerate(arrays.values())}
    path = pickled(tmp_path / "a.pkl", collections.OrderedDict(model=collections.OrderedDict(contents)), protocol)
    found = dict(zip(arrays, read_checkpoint(path).tensors.values(), strict=True))
    for name, array in arrays.items():
        kept = array.dtype.newbyteorder("=") if name != "double" else np.float32
        assert found[name].numpy().dtype == kept and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].numpy(), array.astype(kept))
        found[name].numpy()[...] = 0  # its own memory, not the pickle's


def test_own_file_and_back(tmp_path: Path, wanted: Modules) -> None:
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, wanted, "r50")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind is Kind.OURS and checkpoint.preset == "r50"
    parts = modules(2, clip=True)
    assert load_into(parts, checkpoint).ok
    assert same(our_state(parts), our_state(wanted))
    # Half of the model asked for: the rest is counted apart.
    report = load_into({"usslm": parts["usslm"]}, checkpoint)
    assert report.ok and len(report.not_asked) == 8 and "8 not asked for" in report.summary()


def test_safetensors_with_published_names(tmp_path: Path, wanted: Modules) -> None:
    path = tmp_path / "converted.safetensors"
    save_file(to_upstream_state(wanted), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind is Kind.UPSTREAM and checkpoint.preset is None
    assert same(checkpoint.tensors, our_state(wanted))


def test_save_copes_with_shared_and_strided_tensors(tmp_path: Path) -> None:
    tied = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3)})
    tied["b"].weight = tied["a"].weight
    tied["a"].register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    save_checkpoint(tmp_path / "a.safetensors", {"clip": tied}, "r50")
    assert same(load_file(tmp_path / "a.safetensors"), our_state({"clip": tied}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_are_cast_to_the_module(tmp_path: Path, wanted: Modules, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in to_upstream_state(wanted).items()}
    state = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    parts = modules(2, clip=True)
    load_into(parts, read_checkpoint(saved(tmp_path / "a.pth", {"model": state})))
    for name, tensor in our_state(parts).items():
        assert tensor.dtype is torch.float32 and tensor.is_contiguous()
        assert torch.equal(tensor, state[to_upstream(name) or ""].float()), name


def test_full_r50(tmp_path: Path) -> None:
    """One file of full size: every published name and shape lands, with its value, in the real module."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: e["shape"] for name, e in manifest("r50").items() if not name.startswith("audio_encoder.")}
    state = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    path = saved(tmp_path / "r50.pth", {"model": state})
    checkpoint = read_checkpoint(path)
    usslm = USSLM(PRESETS["r50"])
    report = load_into({"usslm": usslm}, checkpoint)
    path.unlink()
    assert report.ok and len(report.loaded) == len(state)
    exported = to_upstream_state({"usslm": usslm})
    assert same(exported, state)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {"model_state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"model_ema": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"ema": {"module": {f"_orig_mod.module.{name}": value for name, value in state.items()}}},
        lambda state: {"model": {"model": state}, "best": np.float64(0.5), "losses": np.arange(4.0)},
        lambda state: {"trainer": {"generator": state}, "best": np.float32(0.5)},
    ],
)
def test_weights_are_found_where_training_programs_put_them(
    tmp_path: Path, wrap: Callable[[dict], dict], new_format: bool
) -> None:
    state = {f"backbone.norm{i}.weight": torch.full((2,), float(i)) for i in range(3)}
    path = tmp_path / "a.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=new_format)
    checkpoint = read_checkpoint(path)
    assert sorted(tensor[0].item() for tensor in checkpoint.tensors.values()) == [0.0, 1.0, 2.0]
    assert not checkpoint.unmapped
