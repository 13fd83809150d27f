"""From a PyTorch module to one ONNX file, checked by onnx and written whole or not at all."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import compose
from torch import Tensor, nn
from torch.export import Dim

from ovavss.export.simplify import simplify
from ovavss.files import write_bytes
from ovavss.models.graphs import GraphSpec, TensorSpec
from ovavss.models.ov_avss.frame_preparation import MULTIPLE
from ovavss.models.ov_avss.graphs import UsslmGraph
from ovavss.models.ov_avss.pixel_decoder import LEVELS
from ovavss.models.ov_avss.presets import USSLM_GRAPH
from ovavss.msda.onnx_node import FallbackBody, add_bodies
from ovavss.msda.onnx_translation import onnx_translations

OPSET = 20
# Upper ends of the dynamic dimensions.
MOST = {
    "clips": 64, "crops": 500, "sentences": 4096, "height": 8192, "width": 8192,
    "windows": 1024, "frames": 64, "prompts": 256, "points": 64,
}  # fmt: skip


class Localizer(nn.Module):
    """The localizer behind its frame preparation: what has multiples of 32 for sizes."""

    def __init__(self, graph: UsslmGraph) -> None:
        super().__init__()
        self.usslm, self.last_only = graph.usslm, graph.last_only

    def forward(self, images: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.usslm(images, audio, self.last_only)[-1]
        return prediction.mask_logits, prediction.sound_logits.softmax(-1)[..., 0]


def export_graph(
    spec: GraphSpec, module: nn.Module, inputs: dict[str, Tensor], body: FallbackBody = FallbackBody.GRID_SAMPLE
) -> onnx.ModelProto:
    """The graph in ONNX, float32, with the exporter's notes on each node (which `write_model` drops).

    `inputs` are examples (every dynamic dimension at least 2).
    """
    if isinstance(module, UsslmGraph):
        model = _export_usslm(spec, module, inputs)
        add_bodies(model, len(LEVELS), body)
    else:
        model = _to_onnx(module, inputs, [o.name for o in spec.outputs], {i.name: _dynamic(i) for i in spec.inputs})
    name_dimensions(model, spec)
    simplify(model)
    return model


def _export_usslm(spec: GraphSpec, module: UsslmGraph, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    # Exported in two halves: one symbolic size would be a formula of the original size, and torch.export's reasoning
    # about multiples of 32 gets lost in it.
    frames, audio = inputs["frames"], inputs["audio"]
    frames_spec = spec.inputs[0]
    prepare = _to_onnx(
        module.prepare,
        {"frames": frames},
        ["images", "resized_frames", "image_size"],
        {"frames": _dynamic(frames_spec)},
    )
    images = module.prepare(frames)[0]
    clips: dict[int, object] = {0: Dim("clips", max=MOST["clips"])}
    sides = {} if module.prepare.size else {axis: MULTIPLE * Dim(f"side{axis}", max=64) for axis in (3, 4)}
    core = _to_onnx(
        Localizer(module),
        {"images": images, "audio": audio},
        ["mask_logits", "sound_scores"],
        {"images": clips | sides, "audio": clips},
    )
    prepare = compose.add_prefix(prepare, "prepare/", rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(
        prepare,
        core,
        io_map=[("images", "images")],
        inputs=[i.name for i in spec.inputs],
        outputs=[o.name for o in spec.outputs],
        name=USSLM_GRAPH,
    )
    ordered = [next(o for o in merged.graph.output if o.name == spec_output.name) for spec_output in spec.outputs]
    del merged.graph.output[:]
    merged.graph.output.extend(ordered)
    del merged.graph.value_info[:]  # both halves named their symbols alone
    return merged


def _dynamic(spec: TensorSpec) -> dict[int, object]:
    return {axis: Dim(d, max=MOST[d]) for axis, d in enumerate(spec.shape) if isinstance(d, str)}


def _to_onnx(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: dict[str, dict[int, object]]
) -> onnx.ModelProto:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(dynamic[name] for name in inputs),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and its optimizer's doubts; errors still come as exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def name_dimensions(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Give inputs and outputs the sizes and symbols of the specification; the exporter's own are formulas."""
    for values, specs in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        assert [v.name for v in values] == [s.name for s in specs], f"{spec.name}: {[v.name for v in values]}"
        for value, tensor in zip(values, specs):
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in tensor.shape:
                if isinstance(size, int):
                    shape.dim.add(dim_value=size)
                else:
                    shape.dim.add(dim_param=size)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks a copy of the model without the exporter's notes and writes it, whole or not at all."""
    source, model = model, onnx.ModelProto()
    model.CopyFrom(source)
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    model.producer_name = "ovavss"
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())
