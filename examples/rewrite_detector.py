"""Replace the deformable attention of an exported detector, compare both models, and time them in ONNX Runtime.

python examples/rewrite_detector.py IN.onnx OUT.onnx [INPUTS.npz]
"""

import subprocess
import sys
import time

import numpy as np
import onnxruntime


def run(path: str, feeds: dict[str, np.ndarray]) -> tuple[list[np.ndarray], float]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    start = time.perf_counter()
    return session.run(None, feeds), time.perf_counter() - start


def main(model: str, out: str, inputs: str | None = None) -> None:
    rewrite = [sys.executable, "-m", "ovavss", "rewrite", model, out]
    if inputs is None:  # the command makes up inputs itself
        subprocess.run([*rewrite, "--check"], check=True)
        return
    subprocess.run(rewrite, check=True)
    feeds = dict(np.load(inputs))
    (before, slow), (after, fast) = run(model, feeds), run(out, feeds)
    print(f"largest difference {max(np.abs(a - b).max() for a, b in zip(before, after)):.1e}")
    print(f"{1e3 * slow:.1f} ms before, {1e3 * fast:.1f} ms after")


if __name__ == "__main__":
    main(*sys.argv[1:])
