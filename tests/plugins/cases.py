"""Inputs of the op: random ones, and those that kernels get wrong."""

import mmap
from dataclasses import dataclass, replace

import numpy as np
import pytest

INF, NAN = np.inf, np.nan


@dataclass(frozen=True)
class Case:
    """The inputs of both forms; `locations` are not those of `offsets`."""

    value: np.ndarray
    shapes: np.ndarray
    locations: np.ndarray
    weights: np.ndarray
    references: np.ndarray
    offsets: np.ndarray
    logits: np.ndarray

    def plain(self) -> tuple[np.ndarray, ...]:
        return self.value, self.shapes, self.locations, self.weights

    def fused(self) -> tuple[np.ndarray, ...]:
        return self.value, self.shapes, self.references, self.offsets, self.logits

    def inputs(self, form: str) -> tuple[np.ndarray, ...]:
        return self.fused() if form == "fused" else self.plain()


def random_case(
    shapes: list[tuple[int, int]],
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    channels: int = 32,
    points: int = 4,
    reference_batch: int | None = None,
    reference_levels: int = 1,
    seed: int = 0,
) -> Case:
    """Locations in and around the maps, about a quarter of them outside."""
    rng = np.random.default_rng(seed)
    levels = len(shapes)
    reference_batch = batch if reference_batch is None else reference_batch

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    weights = rng.uniform(0, 1, (batch, queries, heads, levels, points))
    weights /= weights.sum((-2, -1), keepdims=True)
    return Case(
        value=guarded(normal(batch, sum(h * w for h, w in shapes), heads, channels)),
        shapes=np.array(shapes, np.int64),
        locations=rng.uniform(-0.2, 1.2, (batch, queries, heads, levels, points, 2)).astype(np.float32),
        weights=weights.astype(np.float32),
        references=rng.uniform(0, 1, (reference_batch, queries, reference_levels, 2)).astype(np.float32),
        offsets=2 * normal(batch, queries, heads, levels, points, 2),
        logits=2 * normal(batch, queries, heads, levels, points),
    )


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy between NaNs, so that reading past either end shows, even with a weight of zero."""
    room = np.full(array.size + 2 * 1024, NAN if array.dtype.kind == "f" else 0x7FC0, array.dtype)
    start = 512 + (-room.ctypes.data // array.itemsize) % (64 // array.itemsize)
    copy = room[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def large(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros that take no memory until they are written."""
    count = int(np.prod(shape))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # since Python 3.13
    try:
        memory = mmap.mmap(-1, 4 * count, flags=flags)
    except OSError:
        pytest.skip("this machine hands out no unused address space of that size")
    return np.frombuffer(memory, np.float32, count).reshape(shape)


SMALL = [(1, 1), (3, 5), (6, 4)]


def adversarial_cases() -> dict[str, Case]:
    """Name -> case. Every one has a location-like input that matters to both forms."""
    base = random_case(SMALL, queries=9, channels=16)
    cases = {"random": base}

    def with_places(name: str, locations: np.ndarray, offsets: np.ndarray, references: np.ndarray) -> None:
        shape = base.locations.shape
        cases[name] = replace(
            base,
            locations=np.broadcast_to(locations, shape).astype(np.float32),
            offsets=np.broadcast_to(offsets, shape).astype(np.float32),
            references=np.broadcast_to(references, base.references.shape).astype(np.float32),
        )

    sizes = base.shapes[:, ::-1].astype(np.float64)  # (w, h)
    rng = np.random.default_rng(1)
    steps = rng.integers(-2, 9, base.locations.shape)
    centers, borders = (steps + 0.5) / sizes[:, None], steps / sizes[:, None]
    with_places("pixel centers", centers, steps + 0.5, np.zeros(2))
    with_places("pixel borders", borders, steps, np.zeros(2))
    with_places("the map's own borders", rng.integers(0, 2, base.locations.shape), steps, np.ones(2))
    with_places("just outside", np.where(steps > 3, 1 + 0.5 / sizes[:, None], -0.5 / sizes[:, None]), -0.5, np.zeros(2))
    for name, number in {"nan": NAN, "inf": INF, "-inf": -INF, "1e30": 1e30, "-3e38": -3e38, "2^31": 2.0**31}.items():
        some = rng.uniform(size=base.locations.shape) < 0.3
        with_places(
            f"some {name}",
            np.where(some, number, base.locations),
            np.where(some, number, base.offsets),
            base.references,
        )
        with_places(f"all {name}", np.full(2, number), np.full(2, number), np.full(2, 0.5))
    cases["references not finite"] = replace(
        base, references=np.where(rng.uniform(size=base.references.shape) < 0.5, NAN, base.references)
    )
    cases["one pixel"] = random_case([(1, 1)], channels=8)
    cases["one row, one column"] = random_case([(1, 9), (9, 1)], channels=8)
    # Positions that float32 rounds up to the last pixel, which has no neighbor to extrapolate to.
    wide = random_case([(1, 20000)], batch=1, queries=32, heads=1, channels=8)
    steps = np.float32(2.0**-24) * rng.integers(0, 40, wide.locations.shape)
    at_last = (np.float32((20000 - 0.5) / 20000) - steps).astype(np.float32)
    at_last[..., 1] = 0.5
    cases["the last pixel of a wide map"] = replace(
        wide, locations=at_last, references=at_last[:, :, 0, :, 0].copy(), offsets=np.zeros_like(wide.offsets)
    )
    cases["an empty level"] = random_case([(3, 4), (0, 5), (2, 0), (2, 2)], channels=8)
    cases["no queries"] = random_case(SMALL, queries=0)
    cases["batch 0"] = random_case(SMALL, batch=0)
    cases["large logits"] = replace(base, logits=base.logits * 60)
    cases["logits of minus infinity"] = replace(base, logits=np.where(base.logits > 1, np.float32(-INF), base.logits))
    cases["huge negative logits"] = replace(base, logits=np.where(base.logits > 1, np.float32(-3e38), base.logits))
    # A pixel that no location touches must not matter, whatever it holds.
    poisoned = base.value.copy()
    poisoned[:, 0] = INF
    inside = base.locations.copy()
    inside[..., 0, :, :] = 9.0
    cases["infinite where nothing samples"] = replace(
        base,
        value=guarded(poisoned),
        locations=inside,
        offsets=np.where(np.arange(3)[:, None, None] == 0, 99, base.offsets),
    )
    return cases
