"""What the compiler made of the CUDA kernels: registers, spills, 128-bit loads and occupancy. No GPU is needed.

Usage: python static_figures.py [--arch 75 90 ...] [--json FILE]
The table of all architectures is static_figures.json beside this file; `--json static_figures.json` writes it again.

nvcc and nvdisasm come from CUDA_HOME, from the PATH, or from PyPI: nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt,
nvidia-cuda-runtime, nvidia-cuda-cccl, nvidia-cuda-nvdisasm.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "static_figures.json"
THREADS = 256  # of a block: kThreads in cuda/msda_kernel.cuh

# Warps and blocks that a multiprocessor holds (CUDA Programming Guide, table of compute capabilities). All have 65 536
# registers in 4 partitions, given out by 256 to a warp.
LIMITS = {75: (32, 16), 80: (64, 32), 86: (48, 16), 89: (48, 24), 90: (64, 32), 100: (64, 32), 120: (48, 24)}

MANGLED_TYPES = {"f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}


class Missing(Exception):
    """One sentence: which tool is not here, and how to get it."""


@dataclass(frozen=True)
class Figures:
    registers: int
    spilled_bytes: int
    stack_bytes: int
    loads_128: int  # LDG.E.128 instructions: 16 bytes a thread
    occupancy: float  # resident warps over the most that fit, when registers and the block size are all that limits


def tool(name: str) -> str:
    packages = [str(path) for path in (Path(sysconfig.get_path("purelib")) / "nvidia").glob("*/bin")]
    home = [str(Path(os.environ["CUDA_HOME"]) / "bin")] if os.environ.get("CUDA_HOME") else []
    found = shutil.which(name, path=os.pathsep.join([*home, *packages, os.environ.get("PATH", "")]))
    if not found:
        raise Missing(
            f"{name} is not here: set CUDA_HOME, or pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-nvdisasm"
        )
    return found


def _found(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise Missing(f"the compiler's output has no '{pattern}'; this script knows CUDA 12 and 13")
    return found


def compiler_version() -> str:
    said = subprocess.run([tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    return _found(r"V(\d+\.\d+\.\d+)", said).group(1)


def occupancy(arch: int, registers: int, threads: int = THREADS) -> float:
    """Share of a multiprocessor's warps that can be resident.

    A warp takes its 32 * registers in steps of 256; each of 4 partitions gives a quarter of the 65 536 registers and
    takes whole warps; a multiprocessor takes whole blocks.
    """
    most_warps, most_blocks = LIMITS[arch]
    warps = -(-threads // 32)
    of_a_warp = -(-registers * 32 // 256) * 256
    by_registers = 65536 // 4 // of_a_warp * 4 // warps
    return min(by_registers, most_warps // warps, most_blocks) * warps / most_warps


def name_of(mangled: str) -> str | None:
    """`fused float16/float32 D32 P4`: form, type of value, type of weights, channels and points; None: no kernel."""
    found = re.search(r"msda_kernelI(.+?)Lb([01])ELi(\d+)ELi(\d+)EE", mangled)
    if not found:
        return None
    types, fused, channels, points = found.groups()
    value = next(name for name in MANGLED_TYPES if types.startswith(name))
    weights = types[len(value) :]
    weights = MANGLED_TYPES.get(weights, MANGLED_TYPES[value])  # S1_ and the like repeat a type
    sizes = f"D{channels} P{points}" if channels != "0" else "any"
    return f"{'fused' if fused == '1' else 'plain'} {MANGLED_TYPES[value]}/{weights} {sizes}"


def kernels_said(said: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, registers, spilled and stack bytes of each kernel, from what `-Xptxas -v` prints."""
    for part in said.split("Compiling entry function '")[1:]:
        name = name_of(part.split("'", 1)[0])
        stack, stores, loads = _found(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        if name:
            yield name, int(_found(r"Used (\d+) registers", part).group(1)), int(stores) + int(loads), int(stack)


def wide_loads(assembly: str) -> dict[str, int]:
    """LDG.E.128 instructions of each kernel in the disassembly."""
    parts = re.split(r"^\s*\.section\s+\.text\.(\S+?),", assembly, flags=re.MULTILINE)
    kernels = ((name_of(name), text) for name, text in zip(parts[1::2], parts[2::2]))
    return {name: len(re.findall(r"\bLDG\.E\.128", text)) for name, text in kernels if name}


def figures(arch: int) -> dict[str, Figures]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [tool("nvcc"), "-cubin", f"-arch=sm_{arch}", "-std=c++17", "-O3", "-Xptxas", "-v", "-o", str(cubin)]
        include = ["-I", str(HERE), "-I", str(HERE / "include")]
        done = subprocess.run([*command, *include, str(HERE / "cuda" / "msda_cuda.cu")], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"static_figures: nvcc failed for sm_{arch}:\n{done.stderr}")
        assembly = subprocess.run([tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True).stdout
    loads = wide_loads(assembly)
    found = {
        name: Figures(registers, spilled, stack, loads[name], round(occupancy(arch, registers), 3))
        for name, registers, spilled, stack in kernels_said(done.stderr)
    }
    return dict(sorted(found.items()))


def all_figures(archs: list[int], jobs: int = 2) -> dict[int, dict[str, Figures]]:
    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(archs, pool.map(figures, archs)))


def as_json(table: dict[int, dict[str, Figures]]) -> str:
    """One kernel a line, so that a change can be read as a difference."""
    parts = []
    for arch, rows in table.items():
        lines = [f"      {json.dumps(name)}: {json.dumps(asdict(row))}" for name, row in rows.items()]
        parts.append(f'    "sm_{arch}": {{\n' + ",\n".join(lines) + "\n    }")
    head = f'{{\n  "compiler": "{compiler_version()}",\n  "threads": {THREADS},\n  "kernels": {{\n'
    return head + ",\n".join(parts) + "\n  }\n}\n"


def as_text(table: dict[int, dict[str, Figures]]) -> str:
    """Registers and occupancy of every kernel on every architecture, and what holds for all of them."""
    archs, names = list(table), list(next(iter(table.values())))
    lines = ["| kernel | " + " | ".join(f"sm_{arch}" for arch in archs) + " |", "|---" * (len(archs) + 1) + "|"]
    for name in names:
        cells = [f"{table[arch][name].registers}, {table[arch][name].occupancy:.0%}" for arch in archs]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    rows = [row for each in table.values() for row in each.values()]
    spilled = sum(row.spilled_bytes + row.stack_bytes for row in rows)
    lines.append(f"Cells: registers, occupancy at {THREADS} threads a block. nvcc {compiler_version()}.")
    lines.append(
        f"Spilled and stack bytes of all: {spilled}. LDG.E.128: at least {min(row.loads_128 for row in rows)}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="*", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        table = all_figures(arguments.arch)
        if arguments.json:
            part = arguments.json.with_name(arguments.json.name + ".part")
            part.write_text(as_json(table))
            part.rename(arguments.json)
        print(as_text(table))
    except Missing as missing:
        raise SystemExit(f"static_figures: {missing}") from None


if __name__ == "__main__":
    main()
