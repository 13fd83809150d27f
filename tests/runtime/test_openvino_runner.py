"""ONNX files in OpenVINO: the same numbers, with our operator and without, at every size and from several threads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ovavss.errors import UserError
from ovavss.export.precision import to_half
from ovavss.export.verify import compare, example_inputs
from ovavss.models.ov_avss.graphs import graph_specs
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, GRAPHS, PRESETS, USSLM_GRAPH
from ovavss.runtime import openvino_runner
from ovavss.runtime.engines import Precision, open_engines
from ovavss.runtime.openvino_runner import LIBRARY, OpenVinoRunner

pytest.importorskip("openvino", reason="pip install 'ovavss[openvino]'")

TINY = PRESETS["tiny"]
SPECS = graph_specs(TINY)


def opened(engines: Path, graph: str, custom_op: bool = False) -> OpenVinoRunner:
    return OpenVinoRunner(SPECS[graph], engines / f"{graph}.onnx", custom_op)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_same_as_in_onnx_runtime(tiny_engines: Path, graph: str) -> None:
    _, reference = open_engines(tiny_engines)
    _, ours = open_engines(tiny_engines, openvino=True)
    inputs = example_inputs(graph, TINY, (96, 128))
    assert isinstance(ours[graph], OpenVinoRunner)
    compare(SPECS[graph], reference[graph], ours[graph], inputs)  # raises where they differ
    compare(SPECS[graph], reference[graph], opened(tiny_engines, graph), inputs)


def test_bfloat16_without_the_operator(tiny_engines: Path, tmp_path: Path) -> None:
    """Its file is of a later opset than the local function's."""
    # The exporter's notes are gone from the file, so more is bfloat16 here than in a built one.
    half = to_half(onnx.load(str(tiny_engines / "usslm.onnx")), Precision.BF16)
    onnx.save(half, str(tmp_path / "usslm.onnx"))
    inputs = example_inputs(USSLM_GRAPH, TINY, (96, 96), batch=1)
    expected = opened(tiny_engines, USSLM_GRAPH)(**inputs)["mask_logits"]
    found = OpenVinoRunner(SPECS[USSLM_GRAPH], tmp_path / "usslm.onnx", custom_op=False)(**inputs)["mask_logits"]
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert ((found > 0) == (expected > 0)).float().mean() > 0.99


def test_products_with_the_identity_are_multiplications() -> None:
    """And no other: neither those with other weights, nor those that turn the other factor around."""
    import openvino
    from openvino import opset8

    rng = np.random.default_rng(0)
    x = opset8.parameter([2, 4, 4], np.float32)
    twice, other = 2 * np.eye(4, dtype=np.float32), rng.normal(size=(4, 4)).astype(np.float32)
    y = opset8.matmul(opset8.matmul(twice, x, False, False), opset8.multiply(twice, twice), False, True)
    y = opset8.matmul(opset8.matmul(y, other, False, False), twice, True, False)
    model, given = openvino.Model([y], [x], "products"), rng.normal(size=(2, 4, 4)).astype(np.float32)

    def run() -> np.ndarray:
        return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([given])[0]

    before = run()
    openvino_runner.replace_identity_products(model)
    assert [node.get_type_name() for node in model.get_ops()].count("MatMul") == 2
    np.testing.assert_allclose(run(), before, rtol=1e-5)
    assert np.abs(before).max() > 1


def test_sizes_beyond_those_that_are_kept(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runner, "_KEPT_SIZES", 2)
    runner, free = (opened(tiny_engines, CLIP_IMAGE_ENCODER) for _ in range(2))
    monkeypatch.setattr(free, "_most_sizes", 0)
    crops = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for count in (3, 1, 9, 5, 3):
        one, other = (r(crops=crops[:count])["image_embeddings"] for r in (runner, free))
        assert one.shape == (count, 64)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert len(runner._by_size) == 3 and set(free._by_size) == {None}


def test_calls_side_by_side_keep_their_results(tiny_engines: Path) -> None:
    runner = opened(tiny_engines, AUDIO_ENCODER)
    sounds = [0.1 * torch.randn(1, 80_000, generator=torch.Generator().manual_seed(i)) for i in range(12)]
    alone = [runner(waveform=sound)["audio"].clone() for sound in sounds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda sound: runner(waveform=sound)["audio"], sounds))
    for one, other in zip(alone, together):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.equal(alone[0], alone[1])


def test_views_that_are_not_contiguous(tiny_engines: Path) -> None:
    runner = opened(tiny_engines, CLIP_IMAGE_ENCODER)
    crops = torch.randn(2, 3, 32, 32).transpose(2, 3)
    found = runner(crops=crops)["image_embeddings"]
    torch.testing.assert_close(found, runner(crops=crops.contiguous())["image_embeddings"])


def test_a_file_of_another_graph(tiny_engines: Path) -> None:
    with pytest.raises(UserError, match=r"audio_encoder.onnx is not 'usslm' of this preset .*; build it again"):
        OpenVinoRunner(SPECS[USSLM_GRAPH], tiny_engines / "audio_encoder.onnx", custom_op=False)
    other = replace(TINY, snippets=6)
    with pytest.raises(UserError, match="is not 'audio_encoder' of this preset"):
        OpenVinoRunner(graph_specs(other)[AUDIO_ENCODER], tiny_engines / "audio_encoder.onnx", custom_op=False)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "usslm.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(UserError, match=r"usslm.onnx is not an ONNX file that OpenVINO can load .*; build it again"):
        OpenVinoRunner(SPECS[USSLM_GRAPH], path, custom_op=False)


def test_a_broken_library(tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LIBRARY).write_bytes(b"not a library")
    monkeypatch.setenv("OVAVSS_PLUGIN_DIR", str(tmp_path))
    with pytest.raises(UserError, match=rf"the operator {tmp_path}/{LIBRARY} with `make plugins`"):
        opened(tiny_engines, USSLM_GRAPH, custom_op=True)


def test_without_the_package(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"the package openvino is missing .*: pip install 'ovavss\[openvino\]'"):
        opened(tiny_engines, USSLM_GRAPH)
