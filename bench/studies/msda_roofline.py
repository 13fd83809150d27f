"""How fast multi-scale deformable attention can be on a GPU at best, from data sheets: an estimate, not a measurement.

    python bench/studies/msda_roofline.py [--frames 5 --height 384 --width 640]

Three bounds, of which the largest is the estimate:

- memory: every tensor crosses the memory bus once (a frame's values are read again from the level-2 cache; a star marks
  where they do not fit, and the estimate is too good);
- level-1 cache: every one of a point's four corners is a load of its own, 128 bytes a clock and multiprocessor;
- arithmetic: in float32, a fused multiply-add for each corner and channel, and 24 operations for each point's
  coordinates and corner weights (40 where softmax and locations are inside), at the data sheet's peak.

Launch time, tails of blocks and uncoalesced corners are left out, so a kernel at half the estimate is a good one.
"""

from dataclasses import dataclass

from bench.measuring import Cell, Table
from bench.msda import CHANNELS, HEADS, POINTS
from bench.options import run


@dataclass(frozen=True)
class Gpu:
    """bandwidth: bytes a second of the memory; float32: operations a second; cores: float32 lanes of a multiprocessor;
    cache: bytes of the level-2 cache. All from NVIDIA's data sheets."""

    name: str
    bandwidth: float
    float32: float
    multiprocessors: int
    cores: int
    cache: float

    @property
    def level1(self) -> float:
        """Bytes a second of all level-1 caches, at the clock that the peak implies."""
        clock = self.float32 / (2 * self.cores * self.multiprocessors)
        return 128 * self.multiprocessors * clock


GPUS = (
    Gpu("A100 80 GB SXM", 2039e9, 19.5e12, 108, 64, 40e6),
    Gpu("L4", 300e9, 30.3e12, 58, 128, 48e6),
    Gpu("RTX 4090", 1008e9, 82.6e12, 128, 128, 72e6),
    Gpu("H100 SXM", 3350e9, 66.9e12, 132, 128, 50e6),
    Gpu("H200 SXM", 4800e9, 66.9e12, 132, 128, 50e6),
    Gpu("Jetson AGX Orin 64 GB", 204.8e9, 5.3e12, 16, 128, 4e6),
)


@dataclass(frozen=True)
class Work:
    """What one call moves and computes: bytes of the tensors, of a frame's values, of all corner loads; operations."""

    memory: float
    frame: float
    corners: float
    operations: float


def work(shapes: list[tuple[int, int]], frames: int, size: int, fused: bool) -> Work:
    """One query for each token; `size`: bytes of a value, and of offsets and logits in the fused form. Locations and
    weights of the plain form, and references, are float32."""
    tokens = sum(h * w for h, w in shapes)
    points = frames * tokens * HEADS * len(shapes) * POINTS
    values = frames * tokens * HEADS * CHANNELS * size
    sampling = points * 3 * size + tokens * 2 * 4 if fused else points * 3 * 4
    corners = points * 4 * CHANNELS
    return Work(2 * values + sampling, values / frames, corners * size, 2 * corners + points * (40 if fused else 24))


def bounds(gpu: Gpu, job: Work) -> dict[str, float]:
    """Seconds of each bound."""
    return {
        "memory": job.memory / gpu.bandwidth,
        "level 1": job.corners / gpu.level1,
        "arithmetic": job.operations / gpu.float32,
    }


def main(frames: int = 5, height: int = 384, width: int = 640) -> None:
    """Print the estimate for each GPU, type and form."""
    shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    rows: list[list[Cell]] = []
    for gpu in GPUS:
        for kind, size in (("float32", 4), ("float16", 2)):
            for form in ("plain", "fused"):
                job = work(shapes, frames, size, form == "fused")
                found = bounds(gpu, job)
                worst = max(found, key=lambda name: found[name])
                times = [1e6 * seconds for seconds in (*found.values(), found[worst])]
                rows.append([gpu.name, kind, form, *times, worst + ("" if job.frame <= gpu.cache else " *")])
    columns = ["GPU", "type", "form", "memory us", "level 1 us", "arithmetic us", "estimate us", "bound by"]
    Table(f"Roofline estimate, not measured: {frames} x {height} x {width}", columns, rows).print(120)


if __name__ == "__main__":
    run(main)
