# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["nvidia-modelopt[onnx]==0.47.*"]
#
# [tool.uv]
# # Calibration runs on the CPU, and INT4, the one that would use CuPy, is not made here.
# override-dependencies = [
#     "cupy-cuda12x; sys_platform == 'never'", "onnxruntime-gpu; sys_platform == 'never'", "onnxruntime==1.24.*",
# ]
# ///
"""The CLIP image encoder with Q/DQ, by NVIDIA's ModelOpt, which needs older packages than ours: a program of its own.

`export/quantization.py` runs it as `uv run --script quantize_clip.py MODEL.onnx CROPS.npy int8|fp8 OUT.onnx`.

MODEL.onnx is rewritten by ModelOpt: give a copy. After a change above: `uv lock --script export/quantize_clip.py`.
"""

import sys

import numpy as np
from modelopt.onnx.quantization import quantize

# Only products with weights, and ranges of the largest values. On other crops of tiny, INT8 embeddings are then 4e-5
# (1 - cosine) from float32's; with attention's own products too 7e-5, with residual sums too 1.2e-4; with ranges chosen
# by entropy 7e-5, 1.2e-4 and 2.5e-4.
PRODUCTS = ["Conv", "Gemm", "MatMul"]


def main(model: str, crops: str, mode: str, out: str) -> None:
    """Write `out`: INT8 or FP8 weights, Q and DQ around the products, everything else float32 as in `model`."""
    quantize(
        model,
        quantize_mode=mode,
        calibration_data={"crops": np.load(crops)},
        calibration_method="max",
        calibration_eps=["cpu"],
        op_types_to_quantize=PRODUCTS,
        disable_mha_qdq=True,
        high_precision_dtype="fp32",
        dq_only=True,
        output_path=out,
        log_level="ERROR",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
