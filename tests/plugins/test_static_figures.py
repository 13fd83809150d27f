"""Guards what the compiler makes of the CUDA kernels, with nvcc and its disassembler; no GPU is needed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "plugins" / "msdeform_attn"
sys.path.append(str(PLUGIN))

from static_figures import LIMITS, TABLE, Figures, Missing, compiler_version, figures, name_of, occupancy, tool  # noqa: E402

KERNELS = {
    f"{form} {types} {sizes}"
    for form in ("plain", "fused")
    for types in (
        "float32/float32",
        "float16/float16",
        "float16/float32",
        "bfloat16/bfloat16",
        "bfloat16/float32",
    )
    for sizes in ("D32 P4", "D32 P5", "D32 P6", "D32 P7", "D32 P8", "any")
}
MOST_REGISTERS = 80  # three blocks of 256 threads on every architecture


def guard(rows: dict[str, Figures]) -> None:
    assert set(rows) == KERNELS
    for name, row in rows.items():
        assert row.spilled_bytes == row.stack_bytes == 0, name
        assert row.registers <= MOST_REGISTERS, name
        # The four corners of a sample are loaded by 16 bytes a thread, in the unrolled kernels for every point.
        points = re.search(r"P(\d)$", name)
        assert row.loads_128 >= 4 * int(points.group(1) if points else 1), name


def table() -> dict:
    return json.loads(TABLE.read_text())


@pytest.mark.parametrize("arch", LIMITS)
def test_table_is_complete_and_within_the_bounds(arch: int) -> None:
    guard({name: Figures(**row) for name, row in table()["kernels"][f"sm_{arch}"].items()})


FEW = (80, 90)


@pytest.mark.parametrize(
    "arch", [arch if arch in FEW else pytest.param(arch, marks=pytest.mark.slow) for arch in LIMITS]
)
def test_kernels_as_compiled_now(arch: int) -> None:
    try:
        rows, version = figures(arch), compiler_version()
    except Missing as missing:
        pytest.skip(str(missing))
    guard(rows)
    if version == table()["compiler"]:
        listed = {name: Figures(**row) for name, row in table()["kernels"][f"sm_{arch}"].items()}
        again = "the table is old: python plugins/msdeform_attn/static_figures.py --json " + str(TABLE.name)
        assert rows == listed, again


def test_occupancy_is_that_of_the_vendors_calculator(tmp_path: Path) -> None:
    """cuda_occupancy.h, which comes with the CUDA runtime's headers, for every architecture and count of registers."""
    try:
        include = Path(tool("nvcc")).resolve().parents[1] / "include"
    except Missing as missing:
        pytest.skip(str(missing))
    if not shutil.which("g++"):
        pytest.skip("no g++ here: install a C++ compiler")
    source, program = tmp_path / "occupancy.cpp", tmp_path / "occupancy"
    source.write_text(
        """
        #include <cuda_occupancy.h>
        #include <cstdio>
        #include <cstdlib>
        int main(int, char** a) {
          cudaOccDeviceProp device = {};
          device.computeMajor = atoi(a[1]) / 10, device.computeMinor = atoi(a[1]) % 10;
          device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = 32 * atoi(a[2]), device.warpSize = 32;
          device.regsPerBlock = device.regsPerMultiprocessor = 65536, device.numSms = 1;
          device.sharedMemPerBlock = device.sharedMemPerMultiprocessor = device.sharedMemPerBlockOptin = 65536;
          for (int registers = 16; registers < 256; ++registers) {
            cudaOccFuncAttributes kernel = {};
            kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers;
            cudaOccDeviceState state = {};
            cudaOccResult result = {};
            if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, 256, 0)) return 1;
            printf("%d\\n", result.activeBlocksPerMultiprocessor);
          }
        }
        """
    )
    compiled = subprocess.run(["g++", "-I", include, source, "-o", program], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    for arch, (warps, _) in LIMITS.items():
        said = subprocess.run([program, str(arch), str(warps)], capture_output=True, text=True, check=True).stdout
        blocks = [round(occupancy(arch, registers) * warps / 8) for registers in range(16, 256)]
        assert blocks == [int(line) for line in said.split()], arch


def test_names_of_the_kernels() -> None:
    mangled = "_ZN11ovavss_msda11msda_kernelI{}EEvNS_9ArgumentsE"
    assert name_of(mangled.format("6__halfS1_Lb1ELi32ELi4E")) == "fused float16/float16 D32 P4"
    assert name_of(mangled.format("13__nv_bfloat16fLb0ELi0ELi0E")) == "plain bfloat16/float32 any"
    assert name_of(mangled.format("ffLb0ELi32ELi8E")) == "plain float32/float32 D32 P8"
    assert name_of("_Z5otherv") is None
