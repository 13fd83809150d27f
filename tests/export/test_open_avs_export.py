"""OpenAVS' graphs in ONNX compute the same for other batches and frame sizes than they were traced with."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.export.onnx_export import export_graph, write_model
from ovavss.export.open_avs import open_avs_inputs
from ovavss.models.open_avs.graphs import build_open_avs, graph_modules, graph_specs
from ovavss.models.open_avs.presets import DETECTOR, GRAPHS, PROMPT_DECODER, OpenAvsPreset
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner

SMALL = OpenAvsPreset("open_avs", class_map_sizes=((96, 128), (144, 192)), mask_side=128)
SLOW = [name for name in GRAPHS if name not in (DETECTOR, PROMPT_DECODER)]


@pytest.mark.parametrize("name", [DETECTOR, PROMPT_DECODER, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_onnx_computes_what_pytorch_does_for_other_sizes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = build_open_avs(SMALL)
    models.listener.mel.uniform_(0, 0.1)
    models.detector.anchors.copy_(torch.tensor([0.2, 0.3, 0.6, 0.9]).expand(1917, 4))
    spec, module = graph_specs(SMALL)[name], graph_modules(models)[name]
    path = tmp_path / "graph.onnx"
    write_model(export_graph(spec, module, open_avs_inputs(name, SMALL, (90, 120), 2)), path)
    runner = OnnxRuntimeRunner(spec, path)
    for batch, size in ((1, (120, 90)), (3, (64, 200))):
        inputs = open_avs_inputs(name, SMALL, size, batch)
        with torch.no_grad():
            expected = module(*(inputs[i.name] for i in spec.inputs))
        for tensor, out in zip(expected if isinstance(expected, tuple) else (expected,), spec.outputs):
            torch.testing.assert_close(
                runner(**inputs)[out.name], tensor, atol=1e-4 * float(tensor.abs().max()), rtol=0
            )


@pytest.mark.parametrize("option", [["--size", "384x640"], ["--precision", "int8"], ["--formats", "torchscript"]])
def test_what_open_avs_has_not_is_one_sentence(option: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--preset", "open_avs", "--out", str(tmp_path / "out"), *option])
    assert result.exit_code == 2
    assert "brings its own weights and sizes" in result.stderr
    assert not (tmp_path / "out").exists()
