"""Compares a model before and after `rewrite` on random inputs in ONNX Runtime."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from ovavss.errors import UserError
from ovavss.msda.libraries import custom_op_library, session_options

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = ["CPUExecutionProvider"]
# Sizes of dynamic axes: small, and most are multiples of what backbones divide pictures by.
_BATCH, _SIDE, _LENGTH = 2, 128, 16
_EQUAL_ENTRIES = 0.95


@dataclass(frozen=True)
class Difference:
    """How far an output of the rewritten model lies from the original's.

    `variant` is what ran the attention: the model's local function, or our custom operator. `largest` is the largest
    absolute difference, `scale` the original's largest value, `equal_entries` the share of entries within `tolerance`.
    """

    variant: str
    output: str
    largest: float
    scale: float
    tolerance: float
    equal_entries: float

    @property
    def small(self) -> bool:
        """Whether rounding explains it: detectors sort by score, and rows of equal score may change places."""
        return self.largest <= self.tolerance or self.equal_entries >= _EQUAL_ENTRIES


@dataclass(frozen=True)
class Reference:
    """A model's outputs for random inputs."""

    feeds: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def reference(path: Path, sizes: Mapping[str, int]) -> Reference:
    """Runs a model on random inputs in ONNX Runtime, on the CPU.

    Args:
        path: The model.
        sizes: Sizes of dynamic axes by name; those not given are chosen.

    Returns:
        The inputs and the outputs.

    Raises:
        UserError: The model has no such axis, or ONNX Runtime cannot run it on such inputs.
    """
    model = onnx.load_model(path, load_external_data=False)
    feeds = random_inputs(model, sizes)
    names = [output.name for output in model.graph.output]
    try:
        outputs = _run(path, feeds, names, _options())
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(
            f"{path} does not run on random inputs ({shapes}), so --check has nothing to compare with: {reason}; "
            "give other sizes with --size NAME=SIZE, or leave --check out"
        ) from error
    return Reference(feeds, dict(zip(names, outputs)))


def differences(expected: Reference, path: Path) -> list[Difference]:
    """How far the outputs of a rewritten model lie from the original's.

    Args:
        expected: The original's inputs and outputs.
        path: The rewritten model.

    Returns:
        One entry for each floating-point output and each way to run the attention.
    """
    variants = {"local function": _options()}
    if custom_op_library() is not None:
        variants["custom operator"] = session_options(_PROVIDERS, _options())
    names = list(expected.outputs)
    return [
        _difference(variant, name, expected.outputs[name], found)
        for variant, options in variants.items()
        for name, found in zip(names, _run(path, expected.feeds, names, options))
        if found.dtype.kind == "f"
    ]


def random_inputs(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a model: floats from 0 to 1, as pictures and sampling locations are, integers 0 and 1, true booleans.

    Raises:
        UserError: A size is given for an axis that the model does not have.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    named = {dim.dim_param for value in inputs for dim in value.type.tensor_type.shape.dim}
    if unknown := sizes.keys() - named:
        known = ", ".join(sorted(named - {""})) or "none"
        raise UserError(f"the model has no dynamic axis {min(unknown)!r}; its dynamic axes are: {known}")
    feeds = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        shape = [
            sizes.get(dim.dim_param) or dim.dim_value or (_BATCH if axis == 0 else _SIDE if len(dims) > 3 else _LENGTH)
            for axis, dim in enumerate(dims)
        ]
        random = np.random.default_rng(zlib.crc32(value.name.encode()))
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if kind.kind in "iu":
            feeds[value.name] = random.integers(0, 2, shape).astype(kind)
        else:
            feeds[value.name] = (
                np.ones(shape, bool) if kind.kind == "b" else random.random(shape, np.float32).astype(kind)
            )
    return feeds


def _options() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def _run(
    path: Path, feeds: dict[str, np.ndarray], names: list[str], options: "onnxruntime.SessionOptions"
) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS).run(names, feeds)


def _difference(variant: str, name: str, before: np.ndarray, after: np.ndarray) -> Difference:
    left, right = before.astype(np.float64), after.astype(np.float64)
    scale = float(np.abs(left[np.isfinite(left)]).max(initial=0))
    tolerance = (1e-2 if before.dtype == np.float16 else 1e-3) * scale
    if left.shape != right.shape or not left.size:
        largest = 0.0 if left.shape == right.shape else np.inf
        return Difference(variant, name, largest, scale, tolerance, float(largest == 0))
    both_nan = np.isnan(left) & np.isnan(right)
    apart = np.where(both_nan | (left == right), 0, np.abs(left - right))
    apart = np.where(np.isnan(apart), np.inf, apart)
    return Difference(variant, name, float(apart.max()), scale, tolerance, float((apart <= tolerance).mean()))
