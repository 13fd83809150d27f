"""Train a localizer on a folder in AVSBench-OV's layout, to weights, a log and curves.

Writes such a folder first, with a few rendered clips. Put your own in its place, and take more iterations.

python examples/train.py WORK [ITERATIONS]
"""

import subprocess
import sys
from pathlib import Path

from ovavss.datasets.sounding_shapes.disk import write_avsbench
from ovavss.datasets.sounding_shapes.scenes import sample_scene


def main(work: str, iterations: str = "100") -> None:
    data, run = Path(work) / "data", Path(work) / "run"
    if not data.exists():
        write_avsbench(data, [sample_scene(1, index) for index in range(8)], subset="v1m", split="train")
    command = [sys.executable, "-m", "ovavss", "train", "--out", run, "--preset", "tiny", "--data", data]
    subprocess.run([*command, "--batch", "2", "--iterations", iterations], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
