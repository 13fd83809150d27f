"""The op as ahead-of-time Python plugins: the kernel's PTX goes into the engine, which then needs no library of ours.

Usage: import this module before the ONNX file is parsed or `tensorrt.plugin.op.ovavss` is used, and create the network
with NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS. It needs TensorRT 10.9 or newer, and nvcc while the engine
is built. The driver compiles the PTX when the engine is loaded: nvcc must not be newer than the CUDA that it knows.

The names are those of the C++ plugins of libovavss_msdeform_attn_trt.so: load either them or this module, not both.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# TensorRT reads the signatures of what it registers, and has no annotations of its own.
import ctypes
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorrt as trt
import tensorrt.plugin as trtp
import tensorrt.plugin._lib as trtp_lib

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from static_figures import THREADS, tool  # noqa: E402

PLAIN, FUSED = "ovavss::OvavssMSDeformAttn", "ovavss::OvavssMSDeformAttnFused"
ENTRY = "ovavss_msda_aot"
C_TYPES = {trt.float32: "float", trt.float16: "__half", trt.bfloat16: "__nv_bfloat16"}
Kernel = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]  # name, PTX, launch sizes, scalars
RANKS = {"value": 4, "level_shapes": 2, "locations": 6, "weights": 5, "references": 4, "offsets": 6, "logits": 5}


def keep_plugins() -> None:
    """Gives every plugin that TensorRT makes of a Python class one more reference, for good.

    The ONNX parser of 10.15 and 11.2 deletes such a plugin when it has handed it to the network; the bindings then
    delete the Python object, and that deletes the plugin again (seen with valgrind: the heap is corrupt).
    """
    creator = trtp_lib._TemplatePluginCreator
    make = creator.create_plugin

    @functools.wraps(make)
    def create_plugin(self, *arguments):
        plugin = make(self, *arguments)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(plugin))
        return plugin

    creator.create_plugin = create_plugin


keep_plugins()


@functools.cache
def ptx(value: trt.DataType, weight: trt.DataType, fused: bool, channels: int, points: int, int32_shapes: bool) -> str:
    """The kernel for these types; channels and points other than those of a fast path take the generic one."""
    fast = channels == 32 and 4 <= points <= 8
    macros = {
        "MSDA_VALUE": C_TYPES[value],
        "MSDA_WEIGHT": C_TYPES[weight],
        "MSDA_FUSED": int(fused),
        "MSDA_CHANNELS": channels if fast else 0,
        "MSDA_POINTS": points if fast else 0,
        "MSDA_SHAPES_ARE_INT32": int(int32_shapes),
    }
    arch = "compute_80" if trt.bfloat16 in (value, weight) else "compute_75"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.ptx"
        command = [tool("nvcc"), "-ptx", f"-arch={arch}", "-std=c++17", "-O3", "-o", str(out), "-I", str(HERE.parent)]
        command += [f"-D{name}={text}" for name, text in macros.items()]
        done = subprocess.run([*command, str(HERE / "aot_kernel.cu")], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc could not compile aot_kernel.cu: {done.stderr}")
        return out.read_text()


def output_of(value: trtp.TensorDesc, points: trtp.TensorDesc) -> trtp.TensorDesc:
    batch, _, heads, channels = value.shape_expr
    return trtp.from_shape_expr((batch, points.shape_expr[1], heads * channels), value.dtype)


def check_ranks(**tensors: trtp.TensorDesc) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != RANKS[name]:
            raise ValueError(f"OvavssMSDeformAttn: {name} has {tensor.ndim} dimensions where {RANKS[name]} are wanted.")


def check_types(value: trt.DataType, coordinates: trt.DataType, weights: trt.DataType) -> None:
    if value not in C_TYPES:
        raise ValueError(f"OvavssMSDeformAttn: value is {value}; float32, float16 and bfloat16 are known.")
    if coordinates != trt.float32:
        raise ValueError(f"OvavssMSDeformAttn: locations and references must be float32, not {coordinates}.")
    if weights not in (value, trt.float32):
        raise ValueError(f"OvavssMSDeformAttn: weights are {weights} where float32 or the type of value is wanted.")


def constant(expression: trtp.ShapeExpr, what: str, allowed: range) -> int:
    if not expression.is_constant or expression.constant_value() not in allowed:
        raise ValueError(
            f"OvavssMSDeformAttn: the {what} must be a constant of the graph, one of {list(allowed)[:20]}."
        )
    return expression.constant_value()


def launch(value, level_shapes, places, weights, points_of, fused: bool) -> Kernel:
    """`points_of` is [B,Q,M,L,P,...], `places` [B or 1,Q,L or 1,2] when fused."""
    check_types(value.dtype, places.dtype, weights.dtype)
    batch, tokens, heads, channels = value.shape_expr
    _, queries, _, levels, points = list(points_of.shape_expr)[:5]
    constant(levels, "number of levels", range(1, 9))
    count = constant(points, "number of points", range(1, 17))
    size = constant(channels, "channels of a head", range(8, 2049, 8))
    code = ptx(value.dtype, weights.dtype, fused, size, count, level_shapes.dtype == trt.int32)
    vectors = size // (4 if value.dtype == trt.float32 else 8)  # a thread computes 16 bytes
    sizes = trtp.KernelLaunchParams()
    sizes.grid_x = trtp.cdiv(batch * queries * heads * vectors, THREADS)
    sizes.block_x = THREADS
    reference = (places.shape_expr[0], places.shape_expr[2]) if fused else (batch, levels)
    scalars = (batch, tokens, heads, channels, levels, queries, points, *reference)
    return ENTRY, code, sizes, trtp.SymIntExprs.from_tuple(tuple(trtp.SymInt32(scalar) for scalar in scalars))


@trtp.register(PLAIN)
def plain(
    value: trtp.TensorDesc, level_shapes: trtp.TensorDesc, locations: trtp.TensorDesc, weights: trtp.TensorDesc
) -> trtp.TensorDesc:
    check_ranks(value=value, level_shapes=level_shapes, locations=locations, weights=weights)
    return output_of(value, locations)


@trtp.aot_impl(PLAIN)
def plain_kernel(value, level_shapes, locations, weights, outputs, tactic) -> Kernel:
    return launch(value, level_shapes, locations, weights, points_of=weights, fused=False)


@trtp.register(FUSED)
def fused(
    value: trtp.TensorDesc,
    level_shapes: trtp.TensorDesc,
    references: trtp.TensorDesc,
    offsets: trtp.TensorDesc,
    logits: trtp.TensorDesc,
) -> trtp.TensorDesc:
    check_ranks(value=value, level_shapes=level_shapes, references=references, offsets=offsets, logits=logits)
    return output_of(value, offsets)


@trtp.aot_impl(FUSED)
def fused_kernel(value, level_shapes, references, offsets, logits, outputs, tactic) -> Kernel:
    if offsets.dtype != logits.dtype:
        raise ValueError(f"OvavssMSDeformAttnFused: offsets are {offsets.dtype} and logits {logits.dtype}.")
    return launch(value, level_shapes, references, logits, points_of=logits, fused=True)
