"""From an ONNX file to a TensorRT or TensorRT-RTX plan."""

from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ovavss.errors import UserError
from ovavss.export.build_spec import PlanOptions
from ovavss.files import write_bytes
from ovavss.models.graphs import GraphSpec
from ovavss.msda.onnx_node import DOMAIN, FallbackBody, function
from ovavss.runtime import tensorrt_library

# Smallest, usual and largest size of each dynamic dimension. Frames: anything up to 4K.
_RANGES = {
    "clips": (1, 1, 8), "crops": (1, 64, 500), "sentences": (1, 14, 1400), "height": (16, 720, 2176),
    "width": (16, 1280, 4096), "windows": (1, 15, 96), "frames": (1, 1, 8), "prompts": (1, 1, 16), "points": (1, 2, 8),
}  # fmt: skip


def build_plan(
    spec: GraphSpec,
    onnx_path: Path,
    path: Path,
    options: PlanOptions,
    rtx: bool,
    body: FallbackBody = FallbackBody.GATHER,
) -> None:
    """Write the plan, whole or not at all, with attention as in `body` where the plugin is not used.

    Raises UserError, in one sentence, where the library is missing, cannot start (plain TensorRT needs a GPU to build,
    TensorRT-RTX does not), or refuses the graph.
    """
    trt: Any = tensorrt_library.tensorrt_rtx() if rtx else tensorrt_library.tensorrt()
    name = f"{'TensorRT-RTX' if rtx else 'TensorRT'} {trt.__version__}"
    logger = tensorrt_library.logger(trt)
    if options.plugin is not None and not rtx:
        tensorrt_library.load_plugin(trt, options.plugin)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # pybind's word for a null pointer
        why = tensorrt_library.reason(logger, "no reason given")
        raise UserError(f"{name} builds only where an NVIDIA GPU is; run the same command there ({why})") from None
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    # Some bytes that are no model are taken for an empty one.
    if not parser.parse(model_content(onnx_path, body), str(onnx_path)) or not network.num_outputs:
        errors = "; ".join(str(parser.get_error(i)).splitlines()[0] for i in range(parser.num_errors))
        raise UserError(f"{name} cannot parse {onnx_path}: {errors[:400] or 'it holds no graph with outputs'}")
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, spec))
    if rtx:
        _target(trt, config, options.compute_capabilities)
    else:
        _compatibility(trt, config, options)
        _read_timing_cache(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"{name} cannot build {path.name}: {tensorrt_library.reason(logger, 'no reason given')}")
    write_bytes(path, memoryview(plan))
    if options.timing_cache is not None and not rtx:
        write_bytes(options.timing_cache, memoryview(config.get_timing_cache().serialize()))


def model_content(path: Path, body: FallbackBody) -> bytes:
    """The file's content; for `GATHER` with local functions that hold no GridSample."""
    content = path.read_bytes()
    if body is FallbackBody.GRID_SAMPLE:
        return content
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return content  # the parser says so
    for old in (old for old in model.functions if old.domain == DOMAIN):
        opset = next(entry.version for entry in old.opset_import if entry.domain == "")
        old.CopyFrom(function(old.name, 0, body, opset))  # gather arithmetic is the same for any number of levels
    return model.SerializeToString()


def _network_flags(trt: ModuleType) -> int:
    """Strongly typed: precision is in the graph. From TensorRT 11 on there is no other kind, and no flag for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, spec: GraphSpec) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if any(isinstance(size, str) for size in tensor.shape):
            sizes = [_RANGES[size] if isinstance(size, str) else (size,) * 3 for size in tensor.shape]
            profile.set_shape(tensor.name, *(tuple(size[which] for size in sizes) for which in range(3)))
    return profile


def _target(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        value = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
        config.set_compute_capability(value, index)


def _compatibility(trt: Any, config: Any, options: PlanOptions) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.plugin is not None:
        config.plugins_to_serialize = [str(options.plugin)]


def _read_timing_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    content = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UserError(f"{path} is not a timing cache of this TensorRT on this GPU; remove it or name another")
