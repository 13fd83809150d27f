"""The name table against every name of the published model and every name of ours, both presets."""

import re

import pytest
import torch
from golden_set import manifest

from ovavss.checkpoints import key_map
from ovavss.checkpoints.key_map import is_ignored, to_ours, to_upstream
from ovavss.models.ov_avss.audio_encoder import VGGish
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.ov_avss.usslm import USSLM

MANIFESTS = [("r50", "r50"), ("swinb", "swin_b")]


def our_shapes(preset_name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our model, without the memory of its weights."""
    preset = PRESETS[preset_name]
    with torch.device("meta"):
        parts = {"usslm": USSLM(preset), "audio_encoder.vggish": VGGish(preset.audio)}
    return {f"{p}.{name}": tuple(t.shape) for p, module in parts.items() for name, t in module.state_dict().items()}


@pytest.mark.parametrize(("golden", "preset"), MANIFESTS)
def test_whole_manifest_to_our_names_and_back(golden: str, preset: str) -> None:
    published = {name: tuple(e["shape"]) for name, e in manifest(golden).items() if not is_ignored(name)}
    ours = our_shapes(preset)
    assert {to_ours(name): shape for name, shape in published.items()} == ours
    assert {to_upstream(name): shape for name, shape in ours.items()} == published
    assert all(to_upstream(to_ours(name) or "") == name for name in published)
    assert all(to_ours(to_upstream(name) or "") == name for name in ours)


@pytest.mark.parametrize(("golden", "preset"), MANIFESTS)
def test_one_row_for_each_name_and_no_idle_row(golden: str, preset: str) -> None:
    names = [name for name in manifest(golden) if not is_ignored(name)]
    rows = [key_map._pattern(upstream) for upstream, _ in key_map.TABLE]
    for name in names:
        assert sum(bool(row.fullmatch(name)) for row in rows) == 1, name
    idle = [key_map.TABLE[i][0] for i, row in enumerate(rows) if not any(map(row.fullmatch, names))]
    # The other backbone's rows, and CLIP, which the set leaves out.
    assert all(upstream.startswith(("backbone.", "clip_adapter.")) for upstream in idle), idle


@pytest.mark.parametrize(("golden", "preset"), MANIFESTS)
def test_only_constants_are_ignored(golden: str, preset: str) -> None:
    ignored = {name for name in manifest(golden) if is_ignored(name)}
    assert ignored == {name for name, entry in manifest(golden).items() if entry["dtype"].startswith("int")}
    for name in ("clip_adapter.pixel_mean", "clip_adapter.pixel_std", "criterion.empty_weight", "pixel_mean"):
        assert is_ignored(name)


@pytest.mark.parametrize(
    "name", ["visual.proj", "logit_scale", "transformer.resblocks.11.attn.in_proj_weight", "token_embedding.weight"]
)
def test_clip_keeps_its_names(name: str) -> None:
    assert to_ours(f"clip_adapter.clip_model.{name}") == f"clip.{name}"
    assert to_upstream(f"clip.{name}") == f"clip_adapter.clip_model.{name}"


def test_unknown_names_have_no_counterpart() -> None:
    for name in ("", "backbone", "backbone.fc.weight", "optimizer", "sem_seg_head.predictor.static_query.weight"):
        assert to_ours(name) is None, name
        assert to_upstream(name) is None, name


def test_table_is_readable() -> None:
    """Each row's two sides have the same placeholders."""
    for upstream, ours in key_map.TABLE:
        assert sorted(re.findall(r"{\w+}", upstream)) == sorted(re.findall(r"{\w+}", ours)), upstream
