"""What all measurements share: the machine in words, interleaved runs, percentiles, fits, peak memory, tables."""

import ctypes
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich import table as rich_table
from rich.console import Console

from ovavss.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("ovavss", "torch", "onnxruntime-gpu", "onnx", "numpy", "openvino", "tensorrt",
             "tensorrt-rtx-cu13-bindings")  # fmt: skip
PAUSE = 0.02  # seconds in which the last backend's threads stop spinning
MIN_TURN, MIN_CALLS = 0.1, 3  # seconds that a turn of short calls takes, and how many calls it has at least

Cell = str | float | int | None
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Table:
    """Rows of plain values, the same on the console and in the report; None is a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def is_text(self, index: int) -> bool:
        """Whether a column holds words."""
        return any(isinstance(row[index], str) for row in self.rows)

    def print(self, width: int | None = None) -> None:
        """Print it on standard output."""
        made = rich_table.Table(title=self.title)
        for index, column in enumerate(self.columns):
            made.add_column(column, justify="left" if self.is_text(index) else "right")
        for row in self.rows:
            made.add_row(*map(text_of, row))
        Console(width=width).print(made)


def text_of(cell: Cell) -> str:
    """A cell as printed: four significant digits."""
    return "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def header() -> dict[str, Any]:
    """Machine, versions, commit and load, for the head of every JSON file."""
    return {"machine": machine(), "versions": versions(), "commit": commit(), "time": datetime.now(UTC).isoformat()}


def machine() -> dict[str, Any]:
    """Processor, its vector extensions, cores, threads in use, memory in GiB, GPU (None without one), and the load."""
    cpu, flags, info = platform.processor() or platform.machine(), "", Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        if key.startswith("model name"):
            cpu = value.strip()
        elif key.startswith("flags"):
            flags = value
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "vectors": next((name for name in ("avx512f", "avx2") if name in flags.split()), None),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """The checkout's commit, with `+changes` where files differ from it; `unknown` outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def timed(run: Callable[[], _Result]) -> tuple[float, _Result]:
    """Seconds of one call, and what it returned: by events on the stream where there is a GPU, else by the clock."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    result = run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3, result


def interleaved_benchmark(
    backends: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    progress: Callable[[], object] = lambda: None,
    min_turn: float = MIN_TURN,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[list[float]]]:
    """Seconds of each call of each backend, a list for each turn.

    Backends run round by round (A B C A B C ...), so that other load on the machine meets all of them alike; `warm_up`
    calls of each come first and are not counted. A turn is one call, or, of what takes under `min_turn` seconds, calls
    for that long and at least MIN_CALLS, after one that is not counted: on a core that has just woken up it takes twice
    as long. `before` is called before each call and not timed.
    """
    for run in backends.values():
        for _ in range(warm_up):
            run()
    found: dict[str, list[list[float]]] = {name: [] for name in backends}
    for _ in range(rounds):
        for name, run in backends.items():
            time.sleep(PAUSE)
            before()
            calls = [timed(run)[0]]
            if calls[0] < min_turn:
                calls = []
                while sum(calls) < min_turn or len(calls) < MIN_CALLS:
                    before()
                    calls.append(timed(run)[0])
            found[name].append(calls)
            progress()
    return found


def percentiles(turns: Sequence[Sequence[float]]) -> dict[str, float]:
    """p50, p90, p99 and mean in milliseconds of all calls, and how many there were; with few, p99 is close to the
    largest."""
    seconds = np.concatenate(turns)
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1e3
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "mean_ms": float(seconds.mean()) * 1e3, "n": len(seconds)}


def medians(turns: Sequence[Sequence[float]]) -> list[float]:
    """The median of each turn's calls."""
    return [float(np.median(calls)) for calls in turns]


def ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """How many times faster `other` is: the median over the rounds of base / other, each pair measured side by side."""
    return float(np.median(np.asarray(base) / np.asarray(other)))


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """(exponent, r^2) of cost = a * size^exponent by least squares of the logarithms; NaN from fewer than two sizes."""
    if len(set(sizes)) < 2:
        return math.nan, math.nan
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    slope, start = np.polyfit(x, y, 1)
    spread = ((y - y.mean()) ** 2).sum()
    return float(slope), 1.0 if spread == 0 else float(1 - ((y - slope * x - start) ** 2).sum() / spread)


class StepClock:
    """Seconds of each step of a pipeline (`Pipeline(step=clock)`); on a GPU each step waits for its work to end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """What has gathered since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> dict[str, float]:
    """Peak memory in MiB of a process of its own: `loaded` when `prepare(*arguments)` has loaded everything, `peak`
    when the function that it returned has run twice; on a GPU `gpu`, what the device gave in the meantime.

    `prepare` is a module's function, since a fresh process must find it. Raises UserError where the process fails.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure_memory, torch.get_num_threads(), prepare, arguments).result()
        except BrokenProcessPool:
            why = "the process was killed, perhaps because memory ran out"
        except Exception as error:  # whatever the other process raised
            why = f"{type(error).__name__}: {error}".splitlines()[0]
    raise UserError(f"peak memory could not be measured: {why}")


def _measure_memory(threads: int, prepare: Callable[..., Callable[[], object]], arguments: Any) -> dict[str, float]:
    torch.set_num_threads(threads)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    run = prepare(*arguments)
    with suppress(OSError, AttributeError):  # glibc only: what is free but resident would hide growth
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    loaded = _peak_resident()
    for _ in range(2):
        run()
    found = {"loaded": loaded, "peak": _peak_resident()}
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        found["gpu"] = (free - torch.cuda.mem_get_info()[0]) / 2**20
    return found


def _peak_resident() -> float:
    # Not getrusage's ru_maxrss: a new process inherits its parent's there.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
