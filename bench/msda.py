"""Multi-scale deformable attention alone, everything side by side in one run.

    python bench/msda.py [--json FILE] [--rounds 15] [--frames 5 --height 384 --width 640] [--spread 2]

On the CPU: eager PyTorch, ONNX Runtime with the GridSample body and with our operator, and the kernel itself. On a GPU,
where there is one: every type and form of the CUDA kernel against eager PyTorch. Errors are against float64. All take
turns round by round, so that other load on the machine meets them alike; compare ratios.
"""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from onnx import TensorProto, helper
from torch import Tensor

from bench.measuring import Cell, Table, header, interleaved_benchmark, machine, medians, ratio
from bench.options import JsonOption, RoundsOption, run
from ovavss.errors import UserError
from ovavss.files import write_json
from ovavss.msda.libraries import custom_op_library, find_library
from ovavss.msda.ms_deform_attn import grid_reference_points, ms_deform_attn
from plugins.msdeform_attn.core import DTYPES, Sizes

HEADS, CHANNELS, POINTS = 8, 32, 4
EAGER, GRID_SAMPLE = "eager PyTorch", "ONNX Runtime, GridSample"


@dataclass(frozen=True)
class Inputs:
    """Both forms of the same sampling."""

    shapes: list[tuple[int, int]]
    value: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor

    @classmethod
    def random(
        cls, frames: int, height: int, width: int, spread: float, channels: int = CHANNELS, sampled: int = POINTS
    ) -> "Inputs":
        """One query for each token of the three levels; offsets with a standard deviation of `spread` pixels."""
        shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
        tokens = sum(h * w for h, w in shapes)
        random = torch.Generator().manual_seed(0)
        points = (frames, tokens, HEADS, len(shapes), sampled)
        value = torch.randn(frames, tokens, HEADS, channels, generator=random)
        offsets = spread * torch.randn(*points, 2, generator=random)
        logits = torch.randn(points, generator=random)
        references = grid_reference_points(shapes, value)[:, :, :1].contiguous()
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
        locations = references[:, :, None, :, None] + offsets / sizes[:, None]
        weights = logits.flatten(3).softmax(-1).reshape(points)
        return cls(shapes, value, references, offsets, logits, locations, weights)

    def level_shapes(self) -> Tensor:
        """Heights and widths, int64 [L, 2]."""
        return torch.tensor(self.shapes)

    def exact(self, form: str, value: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
        """In float64, from the numbers that a kernel of the form is given."""
        locations = self.locations.double()
        weights = weights.double()
        if form == "fused":
            sizes = torch.tensor([(w, h) for h, w in self.shapes], dtype=torch.float64)
            locations = self.references.double()[:, :, None, :, None] + offsets.double() / sizes[:, None]
            weights = weights.flatten(3).softmax(-1).reshape(weights.shape)
        return ms_deform_attn(value.double(), self.shapes, locations, weights)


@dataclass(frozen=True)
class Candidate:
    """One implementation: `run` returns its output, `exact` is the float64 result of the numbers that it is given."""

    run: Callable[[], Tensor]
    exact: Tensor

    def error(self) -> float:
        """The largest difference from float64."""
        return (self.run().cpu().double() - self.exact).abs().max().item()


def grid_sample_model(inputs: Inputs) -> bytes:
    """The op as torch.onnx.export writes it."""
    shapes = inputs.shapes

    class FallbackBody(torch.nn.Module):
        def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            return ms_deform_attn(value, shapes, locations, weights)

    arguments = (inputs.value, inputs.locations, inputs.weights)
    program = torch.onnx.export(FallbackBody().eval(), arguments, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def operator_model(names: Sequence[str], tensors: Sequence[Tensor], op: str) -> bytes:
    """The operator alone."""
    types = {torch.int64: TensorProto.INT64, torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
    values = [
        helper.make_tensor_value_info(name, types[tensor.dtype], list(tensor.shape))
        for name, tensor in zip(names, tensors)
    ]
    output = helper.make_tensor_value_info("output", types[tensors[0].dtype], [None, None, None])
    node = helper.make_node(op, names, ["output"], domain="ovavss", plugin_namespace="ovavss", plugin_version="1")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ovavss", 1)]
    graph = helper.make_graph([node], "op", values, [output])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def session_run(
    model: bytes, tensors: Sequence[Tensor], like: Tensor, threads: int, library: Path | None
) -> Callable[[], Tensor]:
    """One call of a session on the CPU, with inputs and output bound where they lie."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding, output = session.io_binding(), torch.empty(like.shape)
    for value, tensor in zip(session.get_inputs(), tensors):
        binding.bind_cpu_input(value.name, tensor.numpy())
    name, address = session.get_outputs()[0].name, output.data_ptr()
    binding.bind_output(name, "cpu", 0, np.float32, list(output.shape), buffer_ptr=address)

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        return output

    return call


def kernel_run(
    function: Any, sizes: Sizes, tensors: Sequence[Tensor], output: Tensor, last: int
) -> Callable[[], Tensor]:
    """One call of the C interface; `last` is its last argument, the number of threads or the stream."""
    arguments = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*tensors, output)]

    def call() -> Tensor:
        if wrong := function(ctypes.byref(sizes), *arguments, ctypes.c_void_p(last)):
            raise UserError(f"{function.__name__}: {wrong}")
        return output

    call.keep = tensors  # type: ignore[attr-defined]  # alive as long as their addresses are used
    return call


def sizes_of(inputs: Inputs, value_type: str = "float32", weight_type: str = "float32") -> Sizes:
    """The C interface's sizes."""
    batch, tokens, heads, channels = inputs.value.shape
    types = DTYPES[value_type], DTYPES[weight_type], 0
    return Sizes(batch, tokens, heads, channels, len(inputs.shapes), tokens, inputs.weights.shape[-1], 1, 1, *types)


def core_library() -> Path:
    """The library of the C interface; UserError where it is not built."""
    library = find_library("libovavss_msdeform_attn.so")
    if library is None:
        raise UserError("the attention kernel is not built; run `make plugins`, or pip install ovavss-msda")
    return library


_FORMS = {
    "plain": (["value", "level_shapes", "locations", "weights"], "OvavssMSDeformAttn"),
    "fused": (["value", "level_shapes", "references", "offsets", "logits"], "OvavssMSDeformAttnFused"),
}


def _tensors(inputs: Inputs, form: str) -> list[Tensor]:
    names = _FORMS[form][0]
    return [inputs.level_shapes() if name == "level_shapes" else getattr(inputs, name) for name in names]


def cpu_kernels(inputs: Inputs, threads: int, library: Path) -> dict[str, Candidate]:
    """By name: each form of the kernel with one thread and with `threads`."""
    loaded, found = ctypes.CDLL(str(library)), {}
    for form, weights in (("plain", inputs.weights), ("fused", inputs.logits)):
        exact = inputs.exact(form, inputs.value, weights, inputs.offsets)
        function = getattr(loaded, f"ovavss_msda_{form}_cpu")
        function.restype = ctypes.c_char_p
        for count in sorted({1, threads}):
            output = torch.empty_like(inputs.value.flatten(2))
            call = kernel_run(function, sizes_of(inputs), _tensors(inputs, form), output, count)
            found[f"kernel, {form}, {count} thread{'s' if count > 1 else ''}"] = Candidate(call, exact)
    return found


def cpu_candidates(inputs: Inputs, threads: int, library: Path, operator: Path | None) -> dict[str, Candidate]:
    """By name: eager PyTorch, ONNX Runtime's ways, the kernel with one thread and with `threads`."""
    kernels = cpu_kernels(inputs, threads, library)
    exact = {form: kernels[f"kernel, {form}, 1 thread"].exact for form in _FORMS}
    like, body = inputs.value.flatten(2), [inputs.value, inputs.locations, inputs.weights]
    eager = partial(ms_deform_attn, inputs.value, inputs.shapes, *body[1:])
    grid_sample = session_run(grid_sample_model(inputs), body, like, threads, None)
    found = {EAGER: Candidate(eager, exact["plain"]), GRID_SAMPLE: Candidate(grid_sample, exact["plain"])}
    for form, (names, op) in _FORMS.items():
        if operator:
            tensors = _tensors(inputs, form)
            session = session_run(operator_model(names, tensors, op), tensors, like, threads, operator)
            found[f"ONNX Runtime, our operator, {form}"] = Candidate(session, exact[form])
    return found | kernels


def cuda_candidates(inputs: Inputs, library: Path) -> dict[str, Candidate]:
    """By name: eager PyTorch and the kernel in every type and form. What is rounded to half before the kernel is not
    the kernel's error."""
    loaded, stream = ctypes.CDLL(str(library)), torch.cuda.current_stream().cuda_stream
    if not hasattr(loaded, "ovavss_msda_plain_cuda"):
        raise UserError(f"{library} holds no CUDA kernels; build it where CMake finds nvcc")
    found, shapes = {}, inputs.level_shapes().cuda()
    for name, weight_name in (
        ("float32", "float32"),
        ("float16", "float32"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
    ):
        dtype, weight_type = getattr(torch, name), getattr(torch, weight_name)
        value, weights = inputs.value.to(dtype), inputs.weights.to(weight_type)
        logits, offsets = inputs.logits.to(weight_type), inputs.offsets.to(weight_type)
        exact = inputs.exact("plain", value, weights, offsets)
        if name == weight_name:
            on_gpu = [tensor.to("cuda", dtype) for tensor in (inputs.value, inputs.locations, inputs.weights)]
            eager = partial(ms_deform_attn, on_gpu[0], inputs.shapes, *on_gpu[1:])
            found[f"{EAGER}, {name}"] = Candidate(eager, exact)
        output = torch.empty(inputs.value.flatten(2).shape, dtype=dtype, device="cuda")
        types = name if name == weight_name else f"{name}, weights {weight_name}"
        for form, tensors, wanted in (
            ("plain", [value, inputs.locations, weights], exact),
            ("fused", [value, inputs.references, offsets, logits], inputs.exact("fused", value, logits, offsets)),
        ):
            moved = [tensor.cuda() for tensor in tensors]
            moved.insert(1, shapes)
            function = getattr(loaded, f"ovavss_msda_{form}_cuda")
            call = kernel_run(function, sizes_of(inputs, name, weight_name), moved, output, stream)
            found[f"kernel, {form}, {types}"] = Candidate(call, wanted)
    return found


def measure(
    candidates: Mapping[str, Candidate], rounds: int, bases: Mapping[str, str], cold: bool = False
) -> list[dict[str, Any]]:
    """A row for each candidate. `bases`: heading to the candidate that the others are compared with. `cold`: each call
    finds a cold level-2 cache on the GPU, as a layer of a network does."""
    cache = torch.empty(256 << 20 if cold else 0, dtype=torch.uint8, device="cuda" if cold else "cpu")
    with torch.inference_mode():
        errors = {name: candidate.error() for name, candidate in candidates.items()}
        turns = interleaved_benchmark({name: c.run for name, c in candidates.items()}, rounds, before=cache.zero_)
    seconds = {name: medians(found) for name, found in turns.items()}
    return [
        {"name": name, "median_ms": 1e3 * float(np.median(found)), "best_ms": 1e3 * min(found),
         **{heading: ratio(seconds[base], found) for heading, base in bases.items() if base in seconds},
         "max_error": errors[name]}
        for name, found in seconds.items()
    ]  # fmt: skip


def msda_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `measure`."""
    columns = [column for column in rows[0] if column != "name"]
    cells: list[list[Cell]] = [[row["name"], *(row[column] for column in columns)] for row in rows]
    return Table(title, ["", *(column.replace("_", " ") for column in columns)], cells)


def main(
    json: JsonOption = None,
    rounds: RoundsOption = 15,
    frames: Annotated[int, typer.Option(min=1)] = 5,
    height: Annotated[int, typer.Option(min=32)] = 384,
    width: Annotated[int, typer.Option(min=32)] = 640,
    spread: Annotated[float, typer.Option(help="Standard deviation of the offsets in pixels.")] = 2.0,
    threads: Annotated[int, typer.Option(min=1)] = min(2, os.cpu_count() or 1),
) -> None:
    """Measure multi-scale deformable attention on this machine."""
    operator, library = custom_op_library(), core_library()
    onnxruntime.set_default_logger_severity(3)
    torch.set_num_threads(threads)
    inputs = Inputs.random(frames, height, width, spread)
    shape = f"{frames} x {height} x {width}, {HEADS} heads, {inputs.value.shape[1]} queries a frame"
    load, bases = os.getloadavg()[0], {"x eager": EAGER, "x GridSample": GRID_SAMPLE}
    found = header() | {"shape": shape, "threads": threads, "load": load}
    found["cpu"] = measure(cpu_candidates(inputs, threads, library, operator), rounds, bases)
    vectors = machine()["vectors"] or "no AVX2"
    msda_table(f"CPU ({vectors}), {threads} threads, load {load:.1f}: {shape}", found["cpu"]).print()
    if torch.cuda.is_available():
        bases = {f"x eager {name}": f"{EAGER}, {name}" for name in ("float32", "float16", "bfloat16")}
        gpu = torch.cuda.get_device_name()
        found |= {"gpu_name": gpu, "gpu": measure(cuda_candidates(inputs, library), rounds, bases, cold=True)}
        msda_table(f"{gpu}: {shape}", found["gpu"]).print()
    else:
        print("No GPU here: the CUDA kernels are not measured.")
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    run(main)
