"""The CLIP image encoder in INT8 or FP8 Q/DQ: ModelOpt in a process of its own, then half precision around it."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from ovavss.errors import UserError
from ovavss.export.onnx_export import write_model
from ovavss.export.precision import to_half
from ovavss.runtime.engines import Precision

SCRIPT = Path(__file__).with_name("quantize_clip.py")


class QuantizerError(UserError):
    """ModelOpt is not here, or did not do it."""


def quantize(model: onnx.ModelProto, crops: np.ndarray, precision: Precision) -> onnx.ModelProto:
    """A copy of the float32 CLIP image encoder with Q/DQ around the products with its weights, the rest as in FP16.

    crops float32 [n, 3, S, S], CLIP-normalized: what it is calibrated on. Raises QuantizerError where ModelOpt can
    neither be imported nor fetched, or fails.
    """
    command = quantizer()
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, data, made = (Path(folder) / name for name in ("model.onnx", "crops.npy", "quantized.onnx"))
            write_model(model, source)
            np.save(data, crops)
            _run([*command, str(source), str(data), precision.value, str(made)])
            return to_half(onnx.load(made), Precision.FP16)
    except OSError as error:
        raise QuantizerError(f"no room to quantize in ({error}); set TMPDIR to a folder with room") from error


def quantizer() -> list[str]:
    """The command that `export/quantize_clip.py` is run with; QuantizerError where there is none."""
    if find_spec("modelopt") is not None:
        return [sys.executable, str(SCRIPT)]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None or shutil.which(uv) is None:
        raise QuantizerError("INT8 and FP8 need uv (pip install uv), which fetches NVIDIA's ModelOpt and runs it apart")
    return [uv, "run", "--frozen", "--script", str(SCRIPT)]


def _run(command: list[str]) -> None:
    # Else the names of our own modules in the script's folder hide those of packages.
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise QuantizerError(f"ModelOpt did not quantize it: {said.splitlines()[-1].strip()[:300]}")
