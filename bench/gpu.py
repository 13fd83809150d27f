"""All that only a GPU can show, in one call: builds, checks and measures; skips with one sentence elsewhere.

    python bench/gpu.py --out runs/gpu

Steps: the plugin libraries (`make plugins`); TensorRT engines of a preset with the plugin, verified against PyTorch as
they are built, and again without it; TensorRT-RTX engines; the attention alone (`bench/msda.py`). Each step's output
goes into a file of its own in the output folder; a failed step does not stop the next.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "build" / "plugins" / "libovavss_msdeform_attn_trt.so"


def steps(out: Path, preset: str) -> dict[str, list[str]]:
    """Each step's name and command."""
    build = [sys.executable, str(ROOT / "export" / "build_engines.py"), "--preset", preset]
    cache = str(out / "timing.cache")
    tensorrt = ["--formats", "tensorrt", "--precision", "fp32,fp16", "--timing-cache", cache]
    return {
        "plugins": ["make", "-C", str(ROOT), "plugins"],
        "tensorrt with the plugin": [*build, *tensorrt, "--out", str(out / "plugin"), "--plugin", str(PLUGIN)],
        "tensorrt, GridSample body": [*build, *tensorrt, "--out", str(out / "grid_sample")],
        "tensorrt, gather body": [*build, *tensorrt, "--out", str(out / "gather"), "--attention-body", "gather"],
        "tensorrt_rtx": [*build, "--formats", "tensorrt_rtx", "--precision", "fp32,fp16", "--out", str(out / "rtx")],
        "attention alone": [sys.executable, str(ROOT / "bench" / "msda.py"), "--json", str(out / "msda.json")],
    }


def main(
    out: Annotated[Path, typer.Option(help="Folder for engines and figures.")],
    preset: Annotated[str, typer.Option(help="tiny, r50 or swin_b.")] = "tiny",
    limit: Annotated[int, typer.Option(min=1, help="Seconds that a step may take.")] = 240,
) -> None:
    """Run all steps and print which of them passed."""
    if not torch.cuda.is_available():
        print("skipped: no NVIDIA GPU that torch can use is here; run this script on a machine that has one")
        return
    out.mkdir(parents=True, exist_ok=True)
    table = Table(title=torch.cuda.get_device_name())
    for column in ("step", "result", "seconds", "output"):
        table.add_column(column)
    failed = False
    for number, (name, command) in enumerate(steps(out, preset).items(), start=1):
        log, start = out / f"{number}.log", time.monotonic()
        with log.open("w") as file:
            try:
                code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=limit).returncode
            except subprocess.TimeoutExpired:
                code = -1
        failed |= code != 0
        result = {0: "passed", -1: "took too long"}.get(code, f"failed ({code})")
        table.add_row(name, result, f"{time.monotonic() - start:.0f}", str(log))
    Console().print(table)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
