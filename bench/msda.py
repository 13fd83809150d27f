"""Multi-scale deformable attention alone, everything side by side in one run.

    python bench/msda.py [--json FILE] [--rounds 15] [--frames 5 --height 384 --width 640] [--spread 2]

On the CPU: eager PyTorch, ONNX Runtime with the GridSample body and with our operator, and the kernel itself. On a GPU,
where there is one: every type and form of the CUDA kernel against eager PyTorch. Errors are against float64.
The backends take turns round by round, so that other load on the machine meets all of them alike; compare ratios.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import torch
import typer
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins" / "msdeform_attn")]

import core  # noqa: E402

from ovavss.errors import UserError  # noqa: E402
from ovavss.msda.libraries import custom_op_library  # noqa: E402
from ovavss.msda.ms_deform_attn import grid_reference_points, ms_deform_attn  # noqa: E402

HEADS, CHANNELS, POINTS = 8, 32, 4
PAUSE = 0.03  # seconds in which the last backend's threads stop spinning


@dataclass
class Inputs:
    """Both forms of the same sampling."""

    shapes: list[tuple[int, int]]
    value: torch.Tensor
    references: torch.Tensor
    offsets: torch.Tensor
    logits: torch.Tensor
    locations: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def random(cls, frames: int, height: int, width: int, spread: float) -> "Inputs":
        """One query for each token of the three levels; offsets with a standard deviation of `spread` pixels."""
        shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
        tokens = sum(h * w for h, w in shapes)
        random = torch.Generator().manual_seed(0)
        points = (frames, tokens, HEADS, len(shapes), POINTS)
        value = torch.randn(frames, tokens, HEADS, CHANNELS, generator=random)
        offsets = spread * torch.randn(*points, 2, generator=random)
        logits = torch.randn(points, generator=random)
        references = grid_reference_points(shapes, value)[:, :, :1].contiguous()
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
        locations = references[:, :, None, :, None] + offsets / sizes[:, None]
        weights = logits.flatten(3).softmax(-1).reshape(points)
        return cls(shapes, value, references, offsets, logits, locations, weights)

    def level_shapes(self) -> torch.Tensor:
        return torch.tensor(self.shapes)

    def exact(self, form: str, value: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """In float64, from the numbers that a kernel of the form is given."""
        locations = self.locations.double()
        weights = weights.double()
        if form == "fused":
            sizes = torch.tensor([(w, h) for h, w in self.shapes], dtype=torch.float64)
            locations = self.references.double()[:, :, None, :, None] + offsets.double() / sizes[:, None]
            weights = weights.flatten(3).softmax(-1).reshape(weights.shape)
        return ms_deform_attn(value.double(), self.shapes, locations, weights)


@dataclass
class BackendConfig:
    name: str
    run: Callable[[], torch.Tensor]
    fused: bool = False
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def grid_sample_model(inputs: Inputs) -> bytes:
    """The op as torch.onnx.export writes it."""
    shapes = inputs.shapes

    class FallbackBody(torch.nn.Module):
        def forward(self, value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return ms_deform_attn(value, shapes, locations, weights)

    arguments = (inputs.value, inputs.locations, inputs.weights)
    program = torch.onnx.export(FallbackBody().eval(), arguments, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


def operator_model(names: list[str], tensors: list[torch.Tensor], op: str) -> bytes:
    """The operator alone."""
    values = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if tensor.dtype == torch.int64 else TensorProto.FLOAT, list(tensor.shape)
        )
        for name, tensor in zip(names, tensors)
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, None, None])
    node = helper.make_node(op, names, ["output"], domain="ovavss", plugin_namespace="ovavss", plugin_version="1")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ovavss", 1)]
    graph = helper.make_graph([node], "op", values, [output])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def session_candidate(
    name: str, model: bytes, tensors: list[torch.Tensor], like: torch.Tensor, threads: int, library: Path | None
) -> BackendConfig:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding, output = session.io_binding(), torch.empty(like.shape)
    for value, tensor in zip(session.get_inputs(), tensors):
        binding.bind_cpu_input(value.name, tensor.numpy())
    binding.bind_output(
        session.get_outputs()[0].name, "cpu", 0, np.float32, list(output.shape), buffer_ptr=output.data_ptr()
    )

    def run() -> torch.Tensor:
        session.run_with_iobinding(binding)
        return output

    return BackendConfig(name, run)


def kernel_candidate(
    name: str, function: object, sizes: core.Sizes, tensors: list[torch.Tensor], output: torch.Tensor, last: int
) -> BackendConfig:
    """`last` is the last argument: the number of threads, or the stream."""
    arguments = [core.ctypes.c_void_p(tensor.data_ptr()) for tensor in (*tensors, output)]

    def run() -> torch.Tensor:
        wrong = function(core.ctypes.byref(sizes), *arguments, core.ctypes.c_void_p(last))  # type: ignore[operator]
        if wrong:
            raise UserError(f"{name}: {wrong}")
        return output

    return BackendConfig(name, run)


def sizes_of(inputs: Inputs, value_type: str = "float32", weight_type: str = "float32") -> core.Sizes:
    batch, tokens, heads, channels = inputs.value.shape
    types = core.DTYPES[value_type], core.DTYPES[weight_type], 0
    return core.Sizes(batch, tokens, heads, channels, len(inputs.shapes), tokens, POINTS, 1, 1, *types)


def cpu_candidates(inputs: Inputs, threads: int, library: Path, operator: Path | None) -> list[BackendConfig]:
    plain = [inputs.value, inputs.level_shapes(), inputs.locations, inputs.weights]
    fused = [inputs.value, inputs.level_shapes(), inputs.references, inputs.offsets, inputs.logits]
    like = inputs.value.flatten(2)
    body = [inputs.value, inputs.locations, inputs.weights]
    found = [
        BackendConfig("eager PyTorch", lambda: ms_deform_attn(inputs.value, inputs.shapes, *body[1:])),
        session_candidate("ONNX Runtime, GridSample", grid_sample_model(inputs), body, like, threads, None),
    ]
    if operator:
        for form, names, tensors in (
            ("", ["value", "level_shapes", "locations", "weights"], plain),
            ("Fused", ["value", "level_shapes", "references", "offsets", "logits"], fused),
        ):
            model = operator_model(names, tensors, f"OvavssMSDeformAttn{form}")
            name = f"ONNX Runtime, our operator{', fused' if form else ''}"
            found.append(session_candidate(name, model, tensors, like, threads, operator))
            found[-1].fused = bool(form)
    loaded = core.ctypes.CDLL(str(library))
    for form, tensors in (("plain", plain), ("fused", fused)):
        function = getattr(loaded, f"ovavss_msda_{form}_cpu")
        function.restype = core.ctypes.c_char_p
        for count in sorted({1, threads}):
            name = f"kernel, {form}, {count} thread{'s' if count > 1 else ''}"
            found.append(kernel_candidate(name, function, sizes_of(inputs), tensors, torch.empty_like(like), count))
            found[-1].fused = form == "fused"
    return found


def cuda_candidates(inputs: Inputs, library: Path) -> list[tuple[BackendConfig, torch.Tensor]]:
    """With the float64 result of each: what is rounded to half before the kernel is not the kernel's error."""
    loaded, stream = core.ctypes.CDLL(str(library)), torch.cuda.current_stream().cuda_stream
    if not hasattr(loaded, "ovavss_msda_plain_cuda"):
        raise UserError(f"{library} holds no CUDA kernels; build it where CMake finds nvcc")
    found, shapes = [], inputs.level_shapes().cuda()
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
            eager = BackendConfig(
                f"eager PyTorch, {name}", lambda t=on_gpu: ms_deform_attn(t[0], inputs.shapes, *t[1:])
            )
            found.append((eager, exact))
        output = torch.empty(inputs.value.flatten(2).shape, dtype=dtype, device="cuda")
        types = name if name == weight_name else f"{name}, weights {weight_name}"
        for form, tensors, wanted in (
            ("plain", [value, inputs.locations, weights], exact),
            ("fused", [value, inputs.references, offsets, logits], inputs.exact("fused", value, logits, offsets)),
        ):
            function = getattr(loaded, f"ovavss_msda_{form}_cuda")
            moved = [tensor.cuda() for tensor in tensors]
            moved.insert(1, shapes)
            sizes = sizes_of(inputs, name, weight_name)
            backend = kernel_candidate(f"kernel, {form}, {types}", function, sizes, moved, output, stream)
            # The lambda keeps the moved tensors alive as long as their addresses are used.
            backend.run = lambda run=backend.run, _keep=moved: run()
            found.append((backend, wanted))
    return found


def measure_cpu(backends: list[BackendConfig], inputs: Inputs, rounds: int) -> None:
    plain = inputs.exact("plain", inputs.value, inputs.weights, inputs.offsets)
    fused = inputs.exact("fused", inputs.value, inputs.logits, inputs.offsets)
    with torch.inference_mode():
        for backend in backends:
            backend.error = (backend.run().double() - (fused if backend.fused else plain)).abs().max().item()
        for _ in range(rounds):
            for backend in backends:
                time.sleep(PAUSE)
                start = time.perf_counter()
                backend.run()
                backend.seconds.append(time.perf_counter() - start)


def measure_cuda(backends: list[tuple[BackendConfig, torch.Tensor]], rounds: int) -> None:
    """By events on the stream, each time with a cold level-2 cache, as a layer of a network finds it."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    with torch.inference_mode():
        for backend, exact in backends:
            backend.error = (backend.run().cpu().double() - exact).abs().max().item()
        for _ in range(rounds):
            for backend, _ in backends:
                flush.zero_()
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                backend.run()
                end.record()
                end.synchronize()
                backend.seconds.append(start.elapsed_time(end) / 1e3)


def table(title: str, backends: list[BackendConfig], bases: dict[str, str]) -> Table:
    """`bases`: heading -> name of the backend that the others are compared with."""
    made = Table("", "median ms", "best ms", *bases, "max error", title=title)
    for column in made.columns[1:]:
        column.justify = "right"
    of_name = {c.name: c for c in backends}
    for c in backends:
        ratios = (f"{of_name[name].median / c.median:.1f}" for name in bases.values())
        made.add_row(c.name, f"{c.median * 1e3:.3g}", f"{min(c.seconds) * 1e3:.3g}", *ratios, f"{c.error:.1e}")
    return made


def record(backends: list[BackendConfig]) -> list[dict[str, object]]:
    return [
        {"name": c.name, "median_ms": c.median * 1e3, "best_ms": min(c.seconds) * 1e3, "max_error": c.error}
        for c in backends
    ]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    rounds: int = 15,
    frames: int = 5,
    height: int = 384,
    width: int = 640,
    spread: Annotated[float, typer.Option(help="Standard deviation of the offsets in pixels.")] = 2.0,
    threads: int = min(2, os.cpu_count() or 1),
) -> None:
    """Measure multi-scale deformable attention on this machine."""
    console = Console()
    try:
        operator = custom_op_library()
        folder = Path(os.environ.get("OVAVSS_PLUGIN_DIR") or ROOT / "build" / "plugins")
        library = folder / "libovavss_msdeform_attn.so"
        if not library.is_file():
            raise UserError(f"{library} does not exist; build it with `make plugins`")
        onnxruntime.set_default_logger_severity(3)
        torch.set_num_threads(threads)
        inputs = Inputs.random(frames, height, width, spread)
        shape = f"{frames} x {height} x {width}, {HEADS} heads, {inputs.value.shape[1]} queries a frame"
        load = os.getloadavg()[0]
        backends = cpu_candidates(inputs, threads, library, operator)
        measure_cpu(backends, inputs, rounds)
        bases = {"x eager": "eager PyTorch", "x GridSample": "ONNX Runtime, GridSample"}
        console.print(table(f"CPU, {threads} threads: {shape}", backends, bases))
        console.print(f"Load of the machine before this run: {load:.1f}")
        figures = {"shape": shape, "threads": threads, "load": load, "cpu": record(backends)}
        if torch.cuda.is_available():
            on_gpu = cuda_candidates(inputs, library)
            measure_cuda(on_gpu, rounds)
            on_gpu_only = [backend for backend, _ in on_gpu]
            figures |= {"gpu_name": torch.cuda.get_device_name(), "gpu": record(on_gpu_only)}
            bases = {f"x eager {name}": f"eager PyTorch, {name}" for name in ("float32", "float16", "bfloat16")}
            console.print(table(f"{torch.cuda.get_device_name()}: {shape}", on_gpu_only, bases))
        else:
            console.print("No GPU here: the CUDA kernels are not measured.")
    except UserError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise typer.Exit(2) from error
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
