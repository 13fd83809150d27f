"""Runs and rewrites ONNX models on the CPU."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ovavss.msda.onnx_node import FallbackBody
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


def text_feeds(batch: int = 3, queries: int = 5) -> Feeds:
    random = np.random.default_rng(0)
    return {
        "value": random.standard_normal((batch, 40, 2, 8), np.float32),
        "locations": random.uniform(-0.2, 1.2, (batch, queries, 2, 2, 3, 2)).astype(np.float32),
        "weights": random.random((batch, queries, 2, 2, 3), np.float32),
    }


def rewritten(model: onnx.ModelProto, body: FallbackBody = FallbackBody.GRID_SAMPLE) -> tuple[onnx.ModelProto, Report]:
    new = onnx.ModelProto.FromString(model.SerializeToString())
    report = rewrite(new, Path(), body)
    onnx.checker.check_model(new, full_check=True)
    return new, report


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
