"""The op on what a trained model feeds it: the six layers of PP-DocLayoutV3 on a page, against float64."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from page_model import page, page_model

from ovavss.msda.onnx_node import DOMAIN, FUSED, FallbackBody
from ovavss.msda.rewrite.model import rewrite


@pytest.mark.slow
def test_layers_of_a_trained_model(onnxruntime_library: Path) -> None:
    model = onnx.load(page_model())
    rewrite(model, Path(), FallbackBody.GRID_SAMPLE)
    layers = [node for node in model.graph.node if node.domain == DOMAIN]
    assert len(layers) == 6
    del model.graph.output[:]
    wanted = sorted({name for node in layers for name in (*node.input, *node.output)})
    constants = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    names = [name for name in wanted if name not in constants]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(onnxruntime_library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tensors = constants | dict(zip(names, session.run(names, page())))
    outside = 0
    for layer in layers:
        inputs, output = [tensors[name] for name in layer.input], tensors[layer.output[0]]
        exact = (reference.fused if layer.op_type == FUSED else reference.plain)(*inputs)
        np.testing.assert_allclose(output, exact, atol=1e-5 * np.abs(exact).max())
        if layer.op_type != FUSED:
            outside += int(((inputs[2] < 0) | (inputs[2] > 1)).any(-1).sum())
    assert outside > 100  # learned offsets leave the map
