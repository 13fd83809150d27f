"""How good and how fast exported graphs are: mIoU on held-out clips, and seconds for a video in each runtime.

python examples/measure.py ENGINES VIDEO [CLIPS]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ovavss


def main(engines: str, video: str, clips: str = "20") -> None:
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder) / "scores.json"
        evaluate = [sys.executable, "-m", "ovavss", "evaluate", "--engines", engines, "--runner", "onnxruntime"]
        subprocess.run([*evaluate, "--num-clips", clips, "--json", scores], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(scores.read_text())
    print({name: found[name] for name in ("base", "novel", "harmonic")})

    for runner in ("onnxruntime", "torchscript", "openvino"):
        try:
            segmenter = ovavss.load(engines, runner=runner)
            segmenter.segment(video)  # the first run also prepares
        except ovavss.UserError as error:
            print(f"{runner}: {error}")
            continue
        start = time.perf_counter()
        segmenter.segment(video)
        print(f"{runner}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
